"""Brings a data set's images into the shape that was asked for: size, grey or colour."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from normlab.config import IMAGE_SIZES, Channels, DataConfig
from normlab.data.dataset import Dataset, Split
from normlab.errors import UsageError
from normlab.storage.records import check_settings

C = TypeVar("C", bound=DataConfig)
Pixels = NDArray[np.uint8]


def with_shape(dataset: Dataset, size: int, channels: Channels) -> Dataset:
    """The data set with images of a size, in one channel or three. A note tells a change of size.

    All splits become grey if the training images are, as a picture does that is predicted.

    Args:
        dataset: Images of any size, one channel or three.
        size: Height and width of the result.
        channels: `grey`: one channel, the luma; `colour`: three; `auto`: one if no training image
            has colour.
    """
    from normlab.data.images import resized, to_grey  # Pillow takes time to import

    before, height, width = dataset.shape
    if (height, width) != (size, size):
        dataset = _converted(dataset, lambda images: resized(images, size))
        note = f"images were resized from {width} × {height} to {size} × {size} pixels"
        if width == height and width in IMAGE_SIZES:
            note += f": --size {width} leaves them as they are"
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    grey = channels == "grey" or (channels == "auto" and is_grey(dataset.train.images))
    if grey and before == 3:
        return _converted(dataset, to_grey)
    if not grey and before == 1:
        return _converted(dataset, lambda images: images.repeat(3, axis=1))
    return dataset


def shaped_as(config: C, dataset: Dataset) -> C:
    """A configuration with the size and the channels of a data set's images.

    Raises:
        UsageError: The images are not square, or not of 16 to 128 pixels; or it asks for another
            size than 32 and than theirs, or for other channels.
    """
    channels, height, width = dataset.shape
    if height != width or channels not in (1, 3):
        raise UsageError(
            f"images of {channels} × {height} × {width}: expected 1 or 3 channels, and as many "
            "rows as columns"
        )
    found = dataclasses.replace(config, size=width, channels="grey" if channels == 1 else "colour")
    for name, default in (("size", DataConfig.size), ("channels", DataConfig.channels)):
        asked, has = getattr(config, name), getattr(found, name)
        if asked not in (default, has):
            raise UsageError(f"--{name} {asked}: the images given have {has}")
    check_settings(found)
    return found


def is_grey(images: Pixels) -> bool:
    """Whether no image has colour: in every pixel red, green and blue are equal."""
    if images.shape[1] == 1:
        return True
    return all(  # a part at a time: pictures in colour show it in the first
        (part[:, :1] == part[:, 1:]).all()
        for part in (images[start : start + 1000] for start in range(0, len(images), 1000))
    )


def _converted(dataset: Dataset, convert: Callable[[Pixels], Pixels]) -> Dataset:
    def converted(split: Split) -> Split:
        return dataclasses.replace(split, images=convert(split.images))

    return dataclasses.replace(
        dataset,
        train=converted(dataset.train),
        test=converted(dataset.test),
        holdout=None if dataset.holdout is None else converted(dataset.holdout),
        fingerprint="",
    )
