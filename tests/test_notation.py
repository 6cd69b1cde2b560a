import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from normlab.notation import Block, LayoutError, format, parse

LABELS = st.from_regex(r"[0-9]{0,3}", fullmatch=True)
WIDTHS = st.none() | st.integers(1, 4096)
NORMS = st.none() | st.sampled_from(
    ["bn", "gn=3", "ln-full", "my_module:MyNorm", "pkg.mod:Norm_2", "s2", "v"]
)
REPEATS = st.integers(1, 20)

CONVOLUTIONS = st.builds(
    Block,
    kind=st.sampled_from(["C", "D"]),
    label=LABELS,
    width=WIDTHS,
    valid=st.booleans(),
    stride=st.sampled_from([1, 2]),
    between=st.booleans(),
    norm=NORMS,
    residual=st.booleans(),
    repeat=REPEATS,
).map(lambda block: replace(block, between=block.between and block.kind == "D"))
TRANSITIONS = st.builds(
    Block,
    kind=st.just("c"),
    label=LABELS,
    width=WIDTHS,
    stride=st.sampled_from([1, 2]),
    residual=st.booleans(),
    repeat=REPEATS,
)
CONNECTED = st.builds(Block, kind=st.just("FC"), label=LABELS, width=WIDTHS)
POOLS = st.builds(Block, kind=st.sampled_from(["P", "A", "GAP"]), label=LABELS)
LAYOUTS = st.lists(CONVOLUTIONS | TRANSITIONS | CONNECTED | POOLS, min_size=1).map(tuple)


@pytest.mark.slow(1)
@given(LAYOUTS)
def test_parse_is_the_inverse_of_format(blocks):
    assert parse(format(blocks)) == blocks


@given(LAYOUTS, st.data())
def test_spaces_and_the_order_of_options_do_not_matter(blocks, data):
    tokens = []
    for block in blocks:
        head = f"{block.kind}{block.label}"
        # A name takes as many characters as it can, so it comes last.
        options = re.findall(r":[0-9]+|v|s2|a|/[^+*]+|\+|\*[0-9]+", str(block)[len(head) :])
        named = [o for o in options if o.startswith("/")]
        others = data.draw(st.permutations([o for o in options if not o.startswith("/")]))
        tokens.append(head + "".join([*others, *named]))
    spaces = st.sampled_from([" ", "  ", "\t", "\n "])
    line = "".join(token + data.draw(spaces) for token in tokens)
    assert parse(line) == blocks


def test_options_after_a_number_or_plus_are_parsed():
    assert parse("C/gn=3:24s2") == (Block("C", width=24, stride=2, norm="gn=3"),)
    assert parse("C+/ln:8*2") == (Block("C", width=8, norm="ln", residual=True, repeat=2),)


def test_the_assignments_line():
    line = "C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10"
    blocks = parse(line)
    assert [block.kind for block in blocks] == [*"CCcPCCCcPCCC", "GAP", "C"]
    assert format(blocks) == line


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused_with_a_caret_inside_it(line):
    try:
        blocks = parse(line)
    except LayoutError as error:
        assert 0 <= error.start <= len(line)
        *_, shown, caret = str(error).split("\n")
        assert caret == "  " + " " * error.start + "^"
        assert len(shown) == len(line) + 2
    else:
        assert parse(format(blocks)) == blocks


@pytest.mark.parametrize(
    ("line", "start", "problem"),
    [
        ("C:12 Q c", 5, "unknown block 'Q': expected C, c, D, P, A, GAP or FC"),
        ("", 0, "the layout is empty"),
        ("   ", 0, "the layout is empty"),
        ("C:12 C:", 6, "':' is not an option: C takes :24 v s2 /gn + *3"),
        ("C:0", 1, "the width must be from 1 to 4096"),
        ("C:4097", 1, "the width must be from 1 to 4096"),
        ("C*0", 1, "the repeat must be from 1"),
        ("Cs3", 1, "stride 3: the only stride is s2"),
        ("C:8:9", 3, "':9' is a second width: remove one"),
        ("c:8v", 3, "c does not take 'v': remove it"),
        ("c/bn", 1, "c does not take '/bn': remove it"),
        ("C P:3", 3, "P does not take ':3': remove it"),
        ("GAPX", 3, "'X' is not an option: GAP takes no options"),
        ("FC+", 2, "FC does not take '+': remove it"),
        ("C:٣", 1, "':٣' is not an option"),
    ],
)
def test_errors_point_at_their_position(line, start, problem):
    with pytest.raises(LayoutError) as caught:
        parse(line)
    assert caught.value.start == start
    assert caught.value.problem.startswith(problem)
