"""A data set that several processes read from disk."""

import dataclasses
import resource

import numpy as np
import pytest

from normlab.data import load, shared
from normlab.errors import DataError, NormlabError


@pytest.mark.parametrize("holdout", [0, 100])
def test_a_written_data_set_is_read_back_unchanged(holdout, tmp_path):
    digits = load("digits")
    if holdout:
        digits = digits.hold_out(holdout)
    shared.write(digits, tmp_path / "shared")
    again = shared.read(tmp_path / "shared")
    assert (again.name, again.classes, again.notes) == (digits.name, digits.classes, digits.notes)
    assert again.fingerprint == digits.fingerprint
    assert again.in_order is digits.in_order is False
    in_order = dataclasses.replace(digits, in_order=True)
    shared.write(in_order, tmp_path / "in-order")
    assert shared.read(tmp_path / "in-order").in_order
    assert (again.holdout is None) == (not holdout)
    for name in ("train", "test", *(["holdout"] if holdout else [])):
        assert np.array_equal(again.split(name).images, digits.split(name).images)
        assert np.array_equal(again.split(name).labels, digits.split(name).labels)


def test_images_are_mapped_and_changes_stay_private(tmp_path):
    shared.write(load("digits"), tmp_path)
    one, other = shared.read(tmp_path), shared.read(tmp_path)
    assert isinstance(one.train.images, np.memmap)
    one.train.images[0] = 7
    assert not np.array_equal(one.train.images[0], other.train.images[0])
    assert np.array_equal(other.train.images, shared.read(tmp_path).train.images)


@pytest.mark.parametrize("damage", ["missing", "cut", "no json", "another"])
def test_a_damaged_folder_is_refused_on_one_line(damage, tmp_path):
    shared.write(load("digits"), tmp_path)
    if damage == "missing":
        (tmp_path / "dataset.json").unlink()
    elif damage == "cut":
        whole = (tmp_path / "train-labels.npy").read_bytes()
        (tmp_path / "train-labels.npy").write_bytes(whole[:100])
    elif damage == "no json":
        (tmp_path / "dataset.json").write_text("{")
    else:
        (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DataError, match=r"^[^\n]*holds no data set that can be read[^\n]*$"):
        shared.read(tmp_path)


def test_why_a_part_could_not_be_written_is_said(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(NormlabError, match=r"cannot be written: File too large$"):
            shared.write(load("digits"), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NormlabError, match="cannot be written"):
        shared.write(load("digits"), tmp_path / "file")
