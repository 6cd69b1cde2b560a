"""Reads the pictures to predict."""

import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from normlab.data.images import peculiarities, read_limited, read_picture, to_pixels
from normlab.errors import DataError
from normlab.wording import shape_text

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]


class LoadedPicture(NamedTuple):
    """A picture in the size that a network sees.

    Attributes:
        name: Its file; empty where it has none.
        pixels: uint8, 3 × size × size.
        notes: How it differs from usual training images.
    """

    name: str
    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]


def read(picture: Picture, size: int) -> LoadedPicture:
    """Reads a picture and turns it into pixels, in colour.

    Args:
        picture: A path (`-` is the standard input), a file's bytes, a PIL image, or a uint8 array,
            H × W, H × W × 1, H × W × 3 or H × W × 4.
        size: Height and width of the pixels.

    Raises:
        DataError: The picture cannot be read.
        TypeError: The argument is not a picture.
    """
    if isinstance(picture, str | os.PathLike):
        name = os.fspath(picture)
        source = standard_input() if name == "-" else Path(name)
        return LoadedPicture(name, *read_picture(source, size))
    if isinstance(picture, bytes):
        return LoadedPicture("", *read_picture(picture, size))
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"expected a path, bytes, a PIL image or an array, got {type(picture).__name__}"
        )
    try:
        return LoadedPicture("", to_pixels(picture, size), tuple(peculiarities(picture, size)))
    except (ValueError, ZeroDivisionError) as error:  # an unsupported mode, or an empty image
        raise DataError(
            f"a PIL image of mode {picture.mode}, {picture.width} × {picture.height}, "
            f"cannot be used ({error})"
        ) from error


def standard_input() -> bytes:
    """The standard input up to its end, or a little more than a picture's file may have.

    Raises:
        DataError: It is closed or empty, or cannot be read.
    """
    try:
        content = b"" if sys.stdin is None else read_limited(sys.stdin.buffer)
    except OSError as error:
        raise DataError(f"the standard input cannot be read ({error.strerror})") from error
    if not content:
        raise DataError("the standard input is empty or closed: it has no picture")
    return content


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    channels = array.shape[2:]
    if (
        array.dtype != np.uint8
        or array.ndim < 2
        or channels not in ((), (1,), (3,), (4,))
        or not array.size
    ):
        raise TypeError(
            f"expected uint8, H × W, H × W × 3 or H × W × 4, got {array.dtype}, "
            f"{shape_text(array.shape)}"
        )
    return Image.fromarray(array[..., 0] if channels == (1,) else array)
