"""Pictures of any size and kind, converted to what the networks see."""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from normlab.data import formats
from normlab.errors import DataError
from normlab.storage.reading import open_regular

SIZE = 32
GREY = "it is greyscale"
MAX_BYTES = 256 * 1024**2  # of a picture's file; pixels without compression need about as many
_FILTERING = threading.Lock()


def read_picture(
    source: Path | IO[bytes] | bytes, size: int = SIZE
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Reads a picture (of an animation, the first frame) and lists its peculiarities.

    The content decides what format it has, not the suffix.

    Args:
        source: The file, an open one, or its content.
        size: As in `to_pixels`.

    Returns:
        The results of `to_pixels` and of `peculiarities`.

    Raises:
        DataError: It cannot be read, is no regular file, is of a format that is not in
            `normlab.data.formats`, or has more bytes, pixels or parts than a picture needs.
    """
    name = source if isinstance(source, Path) else "the picture"
    content = b""
    try:
        content = _content_of(source)
        formats.refuse_hostile(content)
        known = formats.readable()
        with _quiet():  # reads the header only
            opened = Image.open(io.BytesIO(content), formats=known)
        with opened as image:
            formats.refuse_large_tiles(image)
            if image.format == "ICO":
                with _quiet():  # it warns if the pixels are not as many as the header says
                    image.load()
            return to_pixels(image, size), tuple(peculiarities(image, size))
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        unknown = isinstance(error, UnidentifiedImageError)
        said = str(getattr(error, "strerror", None) or error)  # without the path
        if said.startswith("decoder error"):  # and a number
            said = "its pixels are damaged"
        reason = formats.why_unknown(content) if unknown else said
        raise DataError(f"{name} cannot be read as an image ({reason})") from error


def to_pixels(image: Image.Image, size: int = SIZE) -> NDArray[np.uint8]:
    """Converts an image to what the networks see, or to the same in another size.

    The image is turned upright by its EXIF orientation, composited over white if it is transparent,
    converted to RGB (16-bit grey, Pillow's modes I and I;16, is scaled from 0–65535, not clipped),
    cropped to the square at its centre, and resized with an antialiasing bicubic filter.

    Args:
        image: An image of any size, in any mode that Pillow converts to RGB.
        size: Side of the result in pixels.

    Returns:
        uint8, 3 × size × size.

    Raises:
        ValueError: The image cannot be converted; its pixels are floating-point numbers, whose
            range is not known.
    """
    if image.mode.startswith("F"):
        raise ValueError("its pixels are floating-point numbers: save it with 8 or 16 bits")
    image = _upright(image)
    if image.mode.startswith("I"):  # 16 bits, in 16 or 32
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        deep[deep == image.info.get("transparency", -1)] = 65535  # PNG's one transparent grey
        image = Image.fromarray(np.rint(deep / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def to_grey(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma of images in colour: uint8, … × 3 × H × W to … × 1 × H × W.

    As Pillow's: 0.299 red + 0.587 green + 0.114 blue (ITU-R BT.601), in 16-bit integers. An image
    of three equal channels keeps its values.
    """
    grey = np.empty((*images.shape[:-3], 1, *images.shape[-2:]), np.uint8)
    for image, luma in zip(
        images.reshape(-1, *images.shape[-3:]), grey.reshape(-1, *images.shape[-2:]), strict=True
    ):
        red, green, blue = image.astype(np.uint32)
        luma[...] = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey


def resized(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Images in another size: cropped and resized as `to_pixels` does it.

    Args:
        images: uint8, N × C × H × W, C 1 or 3.
        size: Height and width of the result.

    Returns:
        uint8, N × C × size × size.
    """
    result = np.empty((*images.shape[:2], size, size), np.uint8)
    for image, target in zip(images, result, strict=True):
        for channel, pixels in zip(image, target, strict=True):
            source = Image.fromarray(np.ascontiguousarray(channel))
            pixels[...] = np.asarray(ImageOps.fit(source, (size, size), Image.Resampling.BICUBIC))
    return result


def peculiarities(image: Image.Image, size: int = SIZE) -> list[str]:
    """How a picture differs from training images, as parts of a sentence.

    Args:
        image: The image as opened, before `to_pixels`.
        size: As in `to_pixels`.
    """
    width, height = image.size
    if _orientation(image) >= 5:
        width, height = height, width
    notes = []
    if max(width, height) > 2 * min(width, height):
        notes.append(f"only the square at the centre of {width} × {height} pixels is seen")
    if min(width, height) < size:
        notes.append(f"{width} × {height} pixels are enlarged")
    if _is_grey(image):
        notes.append(GREY)
    if image.format != "PSD" and getattr(image, "is_animated", False):  # a PSD's are layers
        notes.append("only the first of its frames is seen")
    return notes


def _content_of(source: Path | IO[bytes] | bytes) -> bytes:
    """A picture's bytes.

    Raises:
        OSError: The file cannot be opened, or is a pipe or a device, which may never end.
        ValueError: It has more than `MAX_BYTES`.
    """
    if isinstance(source, Path):
        with open_regular(source) as file:
            content = read_limited(file)
    elif isinstance(source, bytes):
        content = source
    else:
        if source.seekable():
            source.seek(0)
        content = read_limited(source)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES // 1024**2} MB")
    return content


def read_limited(file: IO[bytes]) -> bytes:
    """The rest of a file, or a little more than `MAX_BYTES` of it: it may grow, or have no end."""
    parts = []
    left = MAX_BYTES + 1
    while left > 0 and (part := file.read(1024**2)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Pillow's warnings about damage. Filters are global, so one thread at a time."""
    with _FILTERING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow warns about images with hundreds of megabytes of pixels; refuse them.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 if the data are damaged. 1 is upright, 5 to 8 lie on their side."""
    image.load()  # some files have their EXIF data behind the pixels
    with _quiet():
        try:
            orientation: Any = image.getexif().get(ExifTags.Base.Orientation)
        except Exception:  # Pillow raises many kinds of errors; the pixels are fine
            return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    """The image, turned upright by its EXIF orientation."""
    orientation = _orientation(image)
    if orientation == 1:
        return image
    upright = image.copy()
    # Pillow turns the pixels first, then rewrites the EXIF data. That can fail, and is not needed.
    with _quiet(), suppress(Exception):
        upright.getexif()[ExifTags.Base.Orientation] = orientation
        ImageOps.exif_transpose(upright, in_place=True)
    return upright


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;"):
        return True
    kind = "RGBA" if image.has_transparency_data else "RGB"
    small = np.asarray(image.convert(kind).resize((SIZE, SIZE)))[..., :3].astype(np.int64)
    return bool(np.ptp(small, axis=2).max() <= 4)
