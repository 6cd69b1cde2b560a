"""Size and channels of a data set's images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from normlab.data import Dataset, Split, load
from normlab.data.images import resized, to_grey
from normlab.data.shape import with_shape
from normlab.errors import UsageError


def dataset_of(train, test=None):
    splits = [
        Split(images, np.arange(len(images)) % 2)
        for images in (train, train if test is None else test)
    ]
    return Dataset("made-up", ("a", "b"), *splits)


@given(
    had=st.tuples(st.sampled_from([1, 3]), st.integers(8, 40)),
    size=st.integers(16, 128),
    channels=st.sampled_from(["auto", "grey", "colour"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_images_get_the_shape_that_is_asked_for(had, size, channels, seed):
    before, side = had
    draws = np.random.default_rng(seed)
    images = draws.integers(0, 256, (2, before, side, side), dtype=np.uint8)
    dataset = with_shape(dataset_of(images), size, channels)
    expected = {"auto": before, "grey": 1, "colour": 3}[channels]
    assert dataset.shape == (expected, size, size)
    assert dataset.test.images.shape == dataset.train.images.shape
    assert dataset.train.images.dtype == np.uint8
    assert bool(dataset.notes) == (side != size)
    again = with_shape(dataset, size, channels)
    assert again.fingerprint == dataset.fingerprint == dataset_of(dataset.train.images).fingerprint


@pytest.mark.parametrize("where", [(0, 0, 0, 0), (1999, 2, 15, 15)])
def test_one_pixel_with_colour_is_colour(where):
    images = np.full((2000, 3, 16, 16), 7, np.uint8)
    assert with_shape(dataset_of(images), 16, "auto").shape == (1, 16, 16)
    images[where] = 8
    assert with_shape(dataset_of(images), 16, "auto").shape == (3, 16, 16)


def test_the_training_images_alone_decide():
    grey, colour = np.zeros((4, 3, 16, 16), np.uint8), np.zeros((4, 3, 16, 16), np.uint8)
    colour[:, 0] = 255
    dataset = with_shape(dataset_of(grey, colour), 16, "auto")
    assert dataset.test.images.shape == (4, 1, 16, 16)
    assert (dataset.test.images == 76).all()  # the luma of red


def test_luma_and_sizes_are_pillows():
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 40, 40), dtype=np.uint8)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in images]
    luma = np.stack([np.asarray(picture.convert("L")) for picture in pictures])
    assert (to_grey(images)[:, 0] == luma).all()
    small = [picture.resize((24, 24), Image.Resampling.BICUBIC) for picture in pictures]
    assert (resized(images, 24) == np.stack(small).transpose(0, 3, 1, 2)).all()


def test_digits_have_one_channel_and_keep_three_where_they_are_asked_for():
    grey, colour = load("digits"), load("digits", channels="colour")
    assert (grey.shape, colour.shape) == ((1, 32, 32), (3, 32, 32))
    assert (grey.train.images == colour.train.images).all()
    assert colour.fingerprint.startswith("ff2adbddfa56")  # of runs before there was a choice
    assert load("digits", size=28).shape == (1, 28, 28)


@pytest.mark.parametrize("size", [15, 129, 0])
def test_a_size_that_is_out_of_range_is_refused(size):
    with pytest.raises(UsageError, match=r"^--size must be at least 16 and at most 128, not"):
        load("digits", size=size)
