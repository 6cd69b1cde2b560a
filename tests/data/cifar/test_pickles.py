"""Malformed, damaged and hostile pickles in the Python layout are refused."""

import builtins
import contextlib
import os
import pickle
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar10_files import python2_pickle, write_all
from normlab.data import load
from normlab.errors import DataError


def error_of(root):
    with pytest.raises(DataError) as caught:
        load("cifar10", data_root=root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({b"data": np.zeros((20, 3071), np.uint8)}, "uint8 array of 20 × 3,072"),
        ({b"data": np.zeros((10, 6144), np.uint8)}, "uint8 array of 20 × 3,072"),
        ({b"data": np.zeros(20 * 3072, np.uint8)}, "uint8 array of 20 × 3,072"),
        ({b"data": np.zeros((20, 3072), np.int8)}, "uint8 array of 20 × 3,072"),
        ({b"data": np.zeros((20, 384), np.float64)}, "uint8 array of 20 × 3,072"),
        ({b"data": np.full((20, 3072), None)}, "uint8 array of 20 × 3,072"),
        ({b"data": b"\0" * 20 * 3072}, "uint8 array of 20 × 3,072"),
        ({b"data": np.ndarray}, "uint8 array of 20 × 3,072"),
        ({b"data": None}, "uint8 array of 20 × 3,072"),
        ({b"labels": [0] * 19}, "list of 20 labels"),
        ({b"labels": [0.0] * 20}, "list of 20 labels"),
        ({b"labels": [True] * 20}, "list of 20 labels"),
        ({b"labels": [-1] * 20}, "list of 20 labels"),
        ({b"labels": [2**70] * 20}, "list of 20 labels"),
        ({b"labels": np.zeros(20, np.uint8)}, "list of 20 labels"),
        ({b"labels": None}, "list of 20 labels"),
        ({b"labels": [10] * 20}, "label 10 is above 9"),
    ],
)
def test_a_malformed_python_batch_is_named(change, expected, made_up, tmp_path):
    batch = python2_pickle({**made_up.batch(1), **change})
    write_all(tmp_path, {**made_up.python(), "data_batch_2": batch})
    text = error_of(tmp_path)
    assert text.startswith(f"data_batch_2 in {tmp_path}")
    assert expected in text


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02", python2_pickle([1, 2])])
def test_a_file_without_a_pickled_dictionary_is_refused(content, made_up, tmp_path):
    write_all(tmp_path, {**made_up.python(), "test_batch": content})
    assert error_of(tmp_path).startswith(f"test_batch in {tmp_path} is not CIFAR-10's: a pickle")


class Call:
    """Is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("place", ["data", "labels", "else"])
@pytest.mark.parametrize(
    "call",
    [
        lambda marker: Call(os.system, f"touch {marker}"),
        lambda marker: Call(builtins.eval, f"open({str(marker)!r}, 'w')"),
        lambda marker: Call(subprocess.check_call, ["touch", str(marker)]),
        lambda marker: Call(np.load, str(marker)),
        lambda marker: Call(np.ndarray.tofile, np.zeros(3), str(marker)),
        lambda marker: Call(getattr, np.zeros(3), str(marker)),
    ],
)
def test_a_hostile_pickle_runs_nothing(call, place, made_up, tmp_path):
    marker = tmp_path / "marker"
    hostile = pickle.dumps({**made_up.batch(0), place.encode(): call(marker)}, protocol=3)
    write_all(tmp_path / "root", {**made_up.python(), "data_batch_1": hostile})
    assert "which no array needs" in error_of(tmp_path / "root")
    assert not marker.exists()


@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_pickle_gives_an_error_or_a_whole_batch(share, flip, made_up, tmp_path):
    rest = {b"labels": [1] * 20, b"filenames": [b"x"] * 20, b"data": made_up.pixels[0]}
    damaged = bytearray(python2_pickle(rest))
    # Most bytes are pixels: aim at the others, at both ends.
    ends = [*range(400), *range(len(damaged) - 20, len(damaged))]
    damaged[ends[int(share * len(ends))]] ^= flip
    write_all(tmp_path, {**made_up.python(), "data_batch_1": bytes(damaged)})
    with contextlib.suppress(DataError):
        dataset = load("cifar10", data_root=tmp_path)
        assert dataset.train.labels.max() <= 9
        assert (dataset.test.images.reshape(20, -1) == made_up.pixels[5]).all()


@pytest.mark.parametrize(
    ("claim", "problem"),
    [
        # A dictionary that is memoized under index 2,147,483,647.
        (pickle.EMPTY_DICT + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f.", "b'data' should be"),
        (pickle.BYTEARRAY8 + struct.pack("<Q", 2**31), "it has a bytearray"),
        (pickle.BINBYTES8 + struct.pack("<Q", 2**31), "a pickle of plain values"),
    ],
)
def test_no_memory_is_allocated_for_claimed_sizes(claim, problem, made_up, tmp_path):
    write_all(tmp_path, {**made_up.python(), "data_batch_1": pickle.PROTO + b"\x02" + claim})
    tracemalloc.start()
    assert problem in error_of(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


@pytest.mark.parametrize("pair", [pickle.DUP + pickle.TUPLE2, b"0(h\0h\0" + pickle.TUPLE])
def test_a_key_that_takes_forever_to_hash_is_refused(pair, made_up, tmp_path):
    """Tuples of tuples, a hundred deep, each twice the one below."""
    nested = pickle.EMPTY_TUPLE + b"q\0" + 100 * (pair + b"q\0")
    hostile = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + nested + b"K\1" + pickle.SETITEM + b"."
    write_all(tmp_path, {**made_up.python(), "data_batch_1": hostile})
    assert "unhashable" in error_of(tmp_path)


def test_a_long_name_is_shortened_in_the_error(made_up, tmp_path):
    hostile = pickle.PROTO + b"\x02" + pickle.GLOBAL + b"a" * 10**6 + b"\nb\n."
    write_all(tmp_path, {**made_up.python(), "data_batch_1": hostile})
    assert len(error_of(tmp_path)) < 1000
