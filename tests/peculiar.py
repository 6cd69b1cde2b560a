"""Unusual, damaged and hostile picture files, made in code: what anyone may upload.

Those in `ANSWERED` can be read: beside each stand the image it shows and the beginning of its note,
if it gets one. Those in `REFUSED` cannot: beside each stands a part of the error.
"""

import io
import struct
import zlib

import numpy as np
from PIL import ExifTags, Image

Image.init()
WRITTEN = frozenset(Image.SAVE)  # older versions of Pillow write neither AVIF nor QOI
# Smooth, so that lossy formats change little. The four edges differ.
Y, X = np.mgrid[:40, :40]
COLOURS = np.stack([6 * X, 6 * Y, 250 - 3 * X - 3 * Y, 40 + 2 * X + 3 * Y], axis=2).astype(np.uint8)
RGBA = Image.fromarray(COLOURS)
RGB = Image.fromarray(COLOURS[..., :3])
L = RGB.convert("L")
DEEP = np.asarray(L).astype(np.uint16) * 257
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
ON_WHITE = Image.alpha_composite(Image.new("RGBA", RGB.size, "white"), RGBA).convert("RGB")
FRAMES = [RGB.rotate(degrees) for degrees in (90, 180)]
GREY, FRAME = "it is greyscale", "only the first of its frames is seen"
UNKNOWN = "it is not a picture in a format that normlab reads"


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind, content):
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(width, height, content, *, depth=8, before=b""):
    """An RGB PNG with this header, whatever its pixels are."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    parts = head + before + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bmp(width, height, *, depth=24, compression=0, content=b""):
    """A BMP with this header, whatever its pixels are."""
    head = struct.pack("<IiiHHI", 40, width, height, 1, depth, compression) + bytes(20)
    return b"BM" + bytes(12) + head + content


def webp_of_size(width, height, **options):
    """A WebP with this size in its header, whatever its pixels are."""
    content = bytearray(encoded(RGB, "WEBP", **options))
    if content[12:16] == b"VP8X":
        content[24:27], content[27:30] = (
            (side - 1).to_bytes(3, "little") for side in (width, height)
        )
    elif content[12:16] == b"VP8L":
        content[21:25] = (width - 1 | height - 1 << 14).to_bytes(4, "little")
    else:
        content[26:30] = struct.pack("<HH", width, height)
    return bytes(content)


def jpeg_of_scans(image, count, fill=b""):
    """A progressive JPEG of so many scans: its last is repeated, after fill bytes, if any."""
    content = encoded(image, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (fill + last) * (count - content.count(b"\xff\xda")) + content[-2:]


def tiff_of_a_tile(tile, size=40):
    """A TIFF of one compressed tile of so many pixels a side, whatever its pixels are."""
    content = zlib.compress(bytes(1000))
    tags = {
        **{256: (4, size), 257: (4, size), 258: (3, 8), 259: (3, 8), 262: (3, 1), 277: (3, 1)},
        **{322: (4, tile), 323: (4, tile), 324: (4, 8), 325: (4, len(content))},
    }
    content += bytes(len(content) % 2)
    entries = [
        struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items())
    ]
    head = b"II*\0" + struct.pack("<I", 8 + len(content))
    return head + content + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


def iptc(content):
    """A file of IPTC that holds another, of 40 × 40 pixels."""

    def field(record, number, value):
        return struct.pack(">BBBH", 0x1C, record, number, len(value)) + value

    return (
        field(3, 60, b"\x03\x01")
        + field(3, 20, struct.pack(">H", 40))
        + field(3, 30, struct.pack(">H", 40))
        + field(3, 120, b"\x01")
        + field(8, 10, content)
    )


def rows(values):
    """Rows of pixels as in a PNG, without filters."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def orientation(value):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = value
    return exif


EMPTY_CHUNK = struct.pack(">I4sI", 0, b"noNe", zlib.crc32(b"noNe"))
ENTRY = struct.pack("<HHII", ExifTags.Base.Orientation, 3, 1, 6)
EXIF = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + ENTRY + bytes(4)
ODD_EXIF = (
    EXIF[:14]
    + struct.pack("<H", 2)
    + ENTRY
    + struct.pack("<HHI4s", ExifTags.Base.XResolution, 2, 3, b"72")
    + bytes(4)
)
DAMAGED_EXIF = {
    "lying elsewhere": EXIF[:10] + struct.pack("<I", 2**31) + EXIF[14:],
    "cut short": EXIF[:20],
    "of a text as long as memory": EXIF[:16] + ENTRY[:2] + struct.pack("<HII", 2, 2**31, 2**31),
    "of nothing that EXIF has": b"Exif\0\0" + b"\xff" * 40,
    "empty": EXIF[:6],
}

ANSWERED = {
    "a PNG": (encoded(RGB, "PNG"), RGB, ""),
    "a JPEG": (encoded(RGB, "JPEG"), RGB, ""),
    "a WebP": (encoded(RGB, "WEBP"), RGB, ""),
    "a BMP": (encoded(RGB, "BMP"), RGB, ""),
    **{
        f"a picture of the format {kind}": (encoded(RGB, kind), RGB, "")
        for kind in ("AVIF", "DIB", "IM", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA", "TIFF")
        if kind in WRITTEN
    },
    "a GIF": (encoded(RGB, "GIF", save_all=True, append_images=FRAMES), RGB, FRAME),
    "a DDS": (encoded(RGBA, "DDS"), ON_WHITE, ""),
    "an icon of Windows": (encoded(RGB, "ICO", sizes=[(16, 16), (40, 40)]), RGB, ""),
    "an icon of macOS": (encoded(RGB.resize((64, 64)), "ICNS"), RGB, ""),
    "two pages of a TIFF": (
        encoded(RGB, "TIFF", save_all=True, append_images=FRAMES),
        RGB,
        FRAME,
    ),
    "a compressed TIFF": (encoded(RGB, "TIFF", compression="tiff_deflate"), RGB, ""),
    "a transparent TIFF": (encoded(RGBA, "TIFF"), ON_WHITE, ""),
    "a TIFF on its side": (
        encoded(RGB.transpose(Image.Transpose.ROTATE_90), "TIFF", exif=orientation(6)),
        RGB,
        "",
    ),
    "a grey TIFF of 16 bits": (encoded(Image.fromarray(DEEP), "TIFF"), L, GREY),
    "a grey PPM of 16 bits": (encoded(Image.fromarray(DEEP), "PPM"), L, GREY),
    "an XBM": (encoded(L.convert("1"), "XBM"), L.convert("1"), GREY),
    "an MSP": (encoded(L.convert("1"), "MSP"), L.convert("1"), GREY),
    "grey of 16 bits": (encoded(Image.fromarray(DEEP), "PNG"), L, GREY),
    "colours of 16 bits": (
        png(40, 40, rows(COLOURS[..., :3].astype(">u2") * 257), depth=16),
        RGB,
        "",
    ),
    "a CMYK JPEG": (encoded(RGB.convert("CMYK"), "JPEG"), RGB, ""),
    "a grey JPEG": (encoded(L, "JPEG"), L, GREY),
    "an animated WebP": (
        encoded(RGB, "WEBP", save_all=True, append_images=FRAMES),
        RGB,
        FRAME,
    ),
    "an animated PNG": (encoded(RGB, "PNG", save_all=True, append_images=FRAMES), RGB, FRAME),
    "an animated PNG that says it has no frames": (
        png(40, 40, rows(COLOURS[..., :3]), before=chunk(b"acTL", bytes(8))),
        RGB,
        "",
    ),
    "two pictures in a JPEG": (
        encoded(RGB, "MPO", save_all=True, append_images=FRAMES),
        RGB,
        FRAME,
    ),
    **{
        f"a {kind} on its side": (
            encoded(RGB.transpose(Image.Transpose.ROTATE_90), kind, exif=orientation(6)),
            RGB,
            "",
        )
        for kind in ("JPEG", "PNG", "WEBP")
    },
    # Pillow reads the resolution, and cannot write it.
    **{
        f"a {kind} on its side with a resolution in letters": (
            encoded(RGB.transpose(Image.Transpose.ROTATE_90), kind, exif=ODD_EXIF),
            RGB,
            "",
        )
        for kind in ("JPEG", "PNG", "WEBP")
    },
    "a mirrored JPEG": (
        encoded(RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", exif=orientation(2)),
        RGB,
        "",
    ),
    **{
        f"a {kind} with EXIF data {how}": (encoded(RGB, kind, exif=exif), RGB, "")
        for kind in ("JPEG", "PNG", "WEBP")
        for how, exif in DAMAGED_EXIF.items()
    },
    "a palette with a transparent colour": (
        encoded(Image.new("L", (40, 40), 3).convert("P"), "PNG", transparency=3),
        Image.new("RGB", (40, 40), "white"),
        GREY,
    ),
    "a palette with half transparent colours": (
        encoded(L.convert("P"), "PNG", transparency=bytes([127] * 256)),
        Image.blend(L, Image.new("L", L.size, "white"), 0.5),
        GREY,
    ),
    "colours with a transparent one": (
        encoded(Image.new("RGB", (40, 40), (9, 8, 7)), "PNG", transparency=(9, 8, 7)),
        Image.new("RGB", (40, 40), "white"),
        GREY,
    ),
    "transparent colours": (encoded(RGBA, "PNG"), ON_WHITE, ""),
    "a transparent WebP": (encoded(RGBA, "WEBP"), ON_WHITE, ""),
    "transparent grey": (
        encoded(RGBA.convert("LA"), "PNG"),
        Image.composite(L, Image.new("L", L.size, "white"), RGBA.getchannel("A")),
        GREY,
    ),
    "black and white": (encoded(L.convert("1"), "PNG"), L.convert("1"), GREY),
    "a black and white BMP": (encoded(L.convert("1"), "BMP"), L.convert("1"), GREY),
    "one pixel": (
        encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
        Image.new("RGB", (1, 1), "red"),
        "1 × 1 pixels are enlarged",
    ),
    "a line": (
        encoded(Image.new("RGB", (5000, 1), "red"), "PNG"),
        Image.new("RGB", (1, 1), "red"),
        "only the square at the centre of 5000 × 1 pixels is seen",
    ),
    "more data than pixels": (
        png(40, 40, rows(COLOURS[..., :3]) + bytes(50_000_000)),
        RGB,
        "",
    ),
}
REFUSED = {
    "nothing": (b"", UNKNOWN),
    "text": (b"no picture", UNKNOWN),
    "a PNG's first bytes": (encoded(RGB, "PNG")[:8], UNKNOWN),
    "a JPEG's first bytes": (encoded(RGB, "JPEG")[:3], UNKNOWN),
    "half a PNG": (encoded(NOISE, "PNG")[:2000], "image file is truncated"),
    "half a JPEG": (encoded(RGB, "JPEG")[:700], "image file is truncated"),
    "half a WebP": (encoded(RGB, "WEBP")[:-100], "could not create decoder"),
    "half a BMP": (encoded(RGB, "BMP")[:2000], "image file is truncated"),
    "a PNG of four billion pixels": (png(65_000, 65_000, b""), "4225000000 pixels"),
    "a PNG of many pixels in few bytes": (
        encoded(Image.new("1", (10_000, 10_000)), "PNG"),
        "100000000 pixels",
    ),
    "a BMP of ten billion pixels": (bmp(100_000, 100_000), "10000000000 pixels"),
    **{
        f"a WebP of many pixels, {kind}": (
            webp_of_size(12_000, 12_000, **options),
            "144000000 pixels are more than",
        )
        for kind, options in {
            "lossy": {},
            "lossless": {"lossless": True},
            "animated": {"save_all": True, "append_images": FRAMES},
        }.items()
    },
    "a BMP without pixels": (bmp(0, 0), UNKNOWN),
    "a packed BMP that ends soon": (
        bmp(2000, 2000, depth=8, compression=1, content=bytes(1024 + 500)),
        "not enough image data",
    ),
    "a PNG with a text that unpacks to many bytes": (
        png(40, 40, b"", before=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
        "too large",
    ),
    "a JPEG of 4000 scans": (jpeg_of_scans(RGB, 4000), "it has more than 100 scans"),
    "a JPEG of 20,000 comments": (
        encoded(RGB, "JPEG")[:2] + 20_000 * b"\xff\xfe\0\2" + encoded(RGB, "JPEG")[2:],
        "it has more than 1,000 markers",
    ),
    "a PNG of 200,000 empty chunks": (
        encoded(RGB, "PNG")[:33] + 200_000 * EMPTY_CHUNK + encoded(RGB, "PNG")[33:],
        "it has more than 100,000 chunks",
    ),
    "an EPS": (encoded(RGB, "EPS"), "it is EPS, which is a program: save it as PNG"),
    "an EPS of DOS": (b"\xc5\xd0\xd3\xc6" + bytes(100), "it is EPS, which is a program"),
    "an EPS in a picture of IPTC": (iptc(encoded(RGB, "EPS")), UNKNOWN),
    "a metafile of Windows": (b"\xd7\xcd\xc6\x9a\0\0" + bytes(100), UNKNOWN),
    "a PDF": (encoded(RGB, "PDF"), UNKNOWN),
    "a measurement": (b"SIMPLE  =                    T".ljust(2880), UNKNOWN),
    "floating-point numbers": (
        encoded(L.convert("F"), "TIFF"),
        "its pixels are floating-point numbers: save it with 8 or 16 bits",
    ),
    "a TIFF of a tile of ten billion pixels": (tiff_of_a_tile(100_000), "10000000000 pixels"),
    "a TIFF of four billion pixels": (tiff_of_a_tile(16, 65_000), "4225000000 pixels"),
    "a PPM of four billion pixels": (b"P6 65000 65000 255 ", "4225000000 pixels"),
    "a QOI of four billion pixels": (
        b"qoif" + struct.pack(">IIBB", 65_000, 65_000, 3, 0),
        "4225000000 pixels",
    ),
    "a GIF of four billion pixels": (
        b"GIF89a" + struct.pack("<HH", 65_000, 65_000) + encoded(RGB, "GIF")[10:],
        "4225000000 pixels",
    ),
    "half a GIF": (encoded(NOISE, "GIF")[:1200], "image file is truncated"),
    "half a TIFF": (encoded(NOISE, "TIFF")[:200], "image file is truncated"),
    **({"half an AVIF": (encoded(NOISE, "AVIF")[:-200], "")} if "AVIF" in WRITTEN else {}),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UNKNOWN),
}
