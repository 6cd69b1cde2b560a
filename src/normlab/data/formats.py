"""The formats of pictures that are read: one list, for data sets and for predictions.

Files are told apart by their content. A file is taken for a picture by its suffix, or, if it has
another or none, by its first bytes.
"""

import ctypes
import importlib.util
import math
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image, _imaging

from normlab.storage.reading import open_regular

# What Pillow decodes, except EPS (Ghostscript would run it as a program), IPTC (holds a file of any
# format, EPS too), FITS and SPIDER (measurements, whose range is not known). Formats without a mark
# of their own come last. Pillow older than 11.3 may lack some.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "ICO", "ICNS", "PPM"),
    *("PSD", "DDS", "QOI", "PCX", "DCX", "CUR", "DIB", "SGI", "SUN", "XBM", "XPM", "MSP", "FLI"),
    *("BLP", "FTEX", "GBR", "PIXAR", "MCIDAS", "XVTHUMB", "PCD", "IM", "IMT", "TGA"),
)
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
# Suffixes of pictures that are not read, some of which have a TIFF's first bytes.
UNREAD_SUFFIXES = (
    *(".ai", ".arw", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".exr", ".fit", ".fits", ".hdr"),
    *(".jxl", ".nef", ".orf", ".pef", ".raf", ".raw", ".rw2", ".svg", ".wmf", ".xcf"),
)
MAX_SCANS = 100  # of a JPEG: programs write ten, each takes time, and 200 bytes suffice for one
MAX_MARKERS = 1000  # of a JPEG: those of 65 MB of metadata; Pillow copies it all at each
MAX_CHUNKS = 100_000  # of a PNG: a large one has one for every 8 kB of its pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_MARKS = (
    *(_PNG, b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*"),
    *(b"\0\0\0\x0cjP  ", b"\xffO\xffQ"),  # JPEG 2000
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# A marker of a JPEG (ITU-T T.81, section B.1.1), except those that may stand between pixels. Any
# number of \xff may precede it: a repetition here would take time quadratic in their number.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _END_OF_IMAGE, _FIRST_WITH_LENGTH = 0xDA, 0xD9, 0xC0
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of a TIFF


@cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that this machine reads; with HEIF if there is pillow-heif."""
    Image.init()
    formats = tuple(name for name in FORMATS if name in Image.OPEN)
    _silence_libtiff()
    if not has_heif():
        return formats
    import pillow_heif

    pillow_heif.register_heif_opener()
    return "HEIF", *formats


@cache
def has_heif() -> bool:
    """Whether HEIC is read: by pillow-heif, which normlab does not require."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def suffixes() -> frozenset[str]:
    """The suffixes of the formats that are read, in lower case: `.png`."""
    formats = {*readable(), "MPO"}  # two pictures in a JPEG
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in formats)


def is_picture(file: Path) -> bool:
    """Whether a file is taken for a picture that can be read.

    It has a suffix of such a picture, or it has none of any picture and begins like a PNG, JPEG,
    GIF, TIFF, JPEG 2000, WebP, AVIF or HEIC.
    """
    suffix = file.suffix.lower()
    if suffix in suffixes():
        return True
    return suffix not in UNREAD_SUFFIXES and _begins_like_a_picture(file)


def is_unread_picture(file: Path) -> bool:
    """Whether a file that is not read has the suffix of a picture."""
    return file.suffix.lower() in (*UNREAD_SUFFIXES, *HEIC_SUFFIXES)


def why_unknown(content: bytes) -> str:
    """Why Pillow does not know a file's content, as a sentence's end."""
    if content[4:8] == b"ftyp" and content[8:12] in _HEIC_BRANDS and not has_heif():
        return "it is HEIC: pip install pillow-heif, which reads it"
    if content.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "it is EPS, which is a program: save it as PNG"
    return "it is not a picture in a format that normlab reads"


def refuse_hostile(content: bytes) -> None:
    """Refuses a file that would take Pillow much memory or time before it can refuse it.

    Raises:
        ValueError: A JPEG has more scans than `MAX_SCANS` or more markers than `MAX_MARKERS`, or a
            PNG more chunks than `MAX_CHUNKS`.
        Image.DecompressionBombError: The file is a WebP of more pixels than Pillow opens.
    """
    _refuse_large_webp(content)
    _refuse_many_markers(content)
    _refuse_many_chunks(content)


def refuse_large_tiles(image: Image.Image) -> None:
    """Refuses a TIFF whose tiles are larger than any picture: each is decoded as a whole.

    Raises:
        Image.DecompressionBombError: The image is such a TIFF.
    """
    tags = getattr(image, "tag_v2", {})
    sides = [tags.get(tag, 0) for tag in (_TILE_WIDTH, _TILE_LENGTH)]
    if all(isinstance(side, int) for side in sides):
        _refuse_many_pixels(math.prod(sides))


def _silence_libtiff() -> None:
    """Keeps libtiff from writing to standard error: Pillow raises an error for what it finds.

    That is Pillow's own copy of the library, found through the module that was linked with it.
    """
    with suppress(AttributeError, OSError):  # linked in another way
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _begins_like_a_picture(file: Path) -> bool:
    try:
        with open_regular(file) as opened:
            head = opened.read(12)
    except (OSError, ValueError):  # locked, a pipe, a name with a null
        return False
    brands = (*_AVIF_BRANDS, *(_HEIC_BRANDS if has_heif() else ()))
    return (
        head.startswith(_MARKS)
        or head[:4] + head[8:] == b"RIFFWEBP"
        or (head[4:8] == b"ftyp" and head[8:] in brands)
    )


def _refuse_many_markers(content: bytes) -> None:
    if not content.startswith(b"\xff\xd8"):
        return
    scans, markers, position = 0, 0, 2
    while marker := _MARKER.search(content, position):
        kind, position = marker[1][0], marker.end()
        if kind == _END_OF_IMAGE:  # another picture or a film may follow
            return
        markers += 1
        scans += kind == _START_OF_SCAN
        if scans > MAX_SCANS:
            raise ValueError(f"it has more than {MAX_SCANS} scans")
        if markers > MAX_MARKERS:
            raise ValueError(f"it has more than {MAX_MARKERS:,} markers")
        if kind >= _FIRST_WITH_LENGTH:
            position += int.from_bytes(content[position : position + 2], "big")


def _refuse_many_chunks(content: bytes) -> None:
    """Counts the chunks of a PNG: section 5.3 of its specification."""
    if not content.startswith(_PNG):
        return
    chunks, position = 0, len(_PNG)
    while position < len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        chunks, position = chunks + 1, position + length + 12  # and length, type, checksum
        if chunks > MAX_CHUNKS:
            raise ValueError(f"it has more than {MAX_CHUNKS:,} chunks")


def _refuse_large_webp(content: bytes) -> None:
    """Refuses a WebP with too many pixels before Pillow allocates memory for them.

    Pillow checks the size of other formats first. Position of the size in the file: RFC 9649,
    sections 2.5 to 2.7 and 3.4, and RFC 6386, section 9.1.
    """
    head = content[:30]
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
    _refuse_many_pixels(math.prod(sides))


def _refuse_many_pixels(pixels: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(f"{pixels} pixels are more than {limit}")
