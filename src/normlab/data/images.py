"""Pictures of any size and kind, as the networks see them."""

import io
import math
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from normlab.errors import DataError

SIZE = 32
GREY = "it is greyscale"
# From EXIF's orientations to what undoes them; 1 is upright.
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERING = threading.Lock()


def read_picture(
    source: Path | IO[bytes], formats: Sequence[str], size: int = SIZE
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """A picture from a file, of an animated one the first frame, and what is peculiar about it.

    Args:
        source: The file, or an open one.
        formats: Pillow's names of those that are read, by content, whatever a suffix says.
        size: As `to_pixels` takes it.

    Returns:
        What `to_pixels` and `peculiarities` give.

    Raises:
        DataError: It cannot be read, or has pixels for hundreds of megabytes.
    """
    name = source if isinstance(source, Path) else "the picture"
    try:
        with source.open("rb") if isinstance(source, Path) else nullcontext(source) as file:
            if not file.seekable():  # a pipe
                file = io.BytesIO(file.read())
            _refuse_large_webp(file)
            with _quiet():
                opened = Image.open(file, formats=list(formats))  # reads the header alone
            with opened as image:
                return to_pixels(image, size), tuple(peculiarities(image))
    except Exception as error:  # Pillow raises many kinds of errors on damaged files
        unknown = isinstance(error, UnidentifiedImageError)  # its text repeats the path
        reason = f"it is no {_listed(formats)}" if unknown else error
        raise DataError(f"{name} cannot be read as an image ({reason})") from error


def to_pixels(image: Image.Image, size: int = SIZE) -> NDArray[np.uint8]:
    """An image as the networks see it, or the same in another size.

    It is turned upright as its EXIF orientation says, laid over white where it is transparent, made
    RGB (16-bit grey, Pillow's modes I and I;16, is scaled from 0–65535, not clipped), cropped to
    the square at its centre, and resized with an antialiasing bicubic filter.

    Args:
        image: Any size and mode that Pillow turns into RGB.
        size: Pixels of a side.

    Returns:
        uint8, 3 × size × size.
    """
    if (turn := _turn(image)) is not None:
        image = image.transpose(turn)
    if image.mode.startswith("I"):  # 16 bits, in 16 or 32
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        deep[deep == image.info.get("transparency", -1)] = 65535  # PNG's one transparent grey
        image = Image.fromarray(np.rint(deep / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def peculiarities(image: Image.Image) -> list[str]:
    """How a picture is unlike those that a network was trained on, as sentences' parts.

    Args:
        image: As opened, before `to_pixels`.
    """
    width, height = image.size
    if _turn(image) in (_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]):  # it lies on its side
        width, height = height, width
    said = []
    if max(width, height) > 2 * min(width, height):
        said.append(f"of {width} × {height} pixels only the square at the centre is seen")
    if min(width, height) < SIZE:
        said.append(f"{width} × {height} pixels are enlarged")
    if _is_grey(image):
        said.append(GREY)
    if getattr(image, "is_animated", False):
        said.append("of its frames only the first is seen")
    return said


def _refuse_large_webp(file: IO[bytes]) -> None:
    """Refuses what Pillow would, but before it makes room for all pixels, as it does for a WebP.

    Where its size stands: RFC 9649, sections 2.5 to 2.7 and 3.4, and RFC 6386, section 9.1.

    Raises:
        Image.DecompressionBombError: The file is a WebP of more pixels than Pillow opens.
    """
    file.seek(0)  # where Pillow begins
    head = file.read(30)
    if head[:4] + head[8:12] != b"RIFFWEBP":
        return
    match head[12:16]:
        case b"VP8X":
            sides = [1 + int.from_bytes(head[k : k + 3], "little") for k in (24, 27)]
        case b"VP8L":
            both = int.from_bytes(head[21:25], "little")
            sides = [1 + (both & 0x3FFF), 1 + (both >> 14 & 0x3FFF)]
        case _:
            sides = [int.from_bytes(head[k : k + 2], "little") & 0x3FFF for k in (26, 28)]
    pixels, limit = math.prod(sides), Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(f"{pixels} pixels are more than {limit}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Pillow's warnings of damage from the user; one at a time, for filters are global."""
    with _FILTERING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # An image with pixels for hundreds of megabytes: Pillow warns first, then refuses.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright, by its EXIF data; where they are damaged it is left alone."""
    image.load()  # some files have them behind the pixels
    with _quiet():
        try:
            return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
        except Exception:  # as above; the pixels are there nevertheless
            return None


def _is_grey(image: Image.Image) -> bool:
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;"):
        return True
    kind = "RGBA" if image.has_transparency_data else "RGB"
    small = np.asarray(image.convert(kind).resize((SIZE, SIZE)))[..., :3].astype(np.int64)
    return bool(np.ptp(small, axis=2).max() <= 4)


def _listed(formats: Sequence[str]) -> str:
    names = [{"WEBP": "WebP"}.get(name, name) for name in formats]
    return f"{', '.join(names[:-1])} or {names[-1]}"
