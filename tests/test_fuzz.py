"""Untrusted input, damaged at random. `make fuzz` searches longer, with atheris."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["bn", "os:system", "../x", "\x00", "1e999", "C:4096*4096", "a\nb"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@st.composite
def damaged(draw, seeds):
    """Bytes that are cut, changed, repeated or invented."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        match draw(st.sampled_from(["cut", "change", "double", "end"])):
            case "cut":
                del content[start:end]
            case "change":
                content[start:end] = draw(st.binary(max_size=8))
            case "double":
                content[start:start] = content[start:end] * draw(st.integers(1, 5))
            case _:
                del content[start:]
    return bytes(content)


@st.composite
def edited(draw, seeds):
    """JSON, one line or all of it, with one value replaced, removed or added."""
    lines = draw(st.sampled_from(seeds)).splitlines()
    if lines[0] == b"{":
        lines = [b"\n".join(lines)]
    place = draw(st.integers(0, len(lines) - 1))
    whole = {"": json.loads(lines[place])}
    parent, key = whole, ""
    while isinstance(parent[key], dict | list) and parent[key] and draw(st.integers(0, 4)):
        parent = parent[key]
        keys = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = draw(st.sampled_from(keys))
    if draw(st.integers(0, 5)) or not key:
        parent[key] = draw(VALUES)
    else:
        del parent[key]
    lines[place] = json.dumps(whole[""]).encode()
    return b"\n".join([*lines, b""])


@pytest.mark.parametrize("name", TARGETS)
def test_valid_input_is_read(name):
    """Except CIFAR-10's pickles, which are shortened: a fuzzer needs small seeds."""
    for seed in TARGETS[name].seeds:
        if name != "cifar10-pickle":
            TARGETS[name].read(seed)
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(st.data())
def test_damaged_bytes_are_read_or_refused_on_one_line(name, data):
    TARGETS[name](data.draw(damaged(TARGETS[name].seeds) | st.binary(max_size=60)))


@pytest.mark.slow(1)
@pytest.mark.parametrize("name", [name for name in TARGETS if name.endswith("resealed")])
@settings(max_examples=150)
@given(st.data())
def test_other_json_is_read_or_refused_on_one_line(name, data):
    TARGETS[name](data.draw(edited(TARGETS[name].seeds)))
