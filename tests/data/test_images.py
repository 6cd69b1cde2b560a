"""How pictures of all kinds are read and converted."""

import io
import os

import numpy as np
import pytest
from PIL import Image, ImageFile

from normlab.data import formats
from normlab.data.images import peculiarities, read_picture, to_pixels
from normlab.errors import DataError
from peculiar import ANSWERED, REFUSED, RGB, WRITTEN, encoded, jpeg_of_scans, orientation


@pytest.mark.parametrize("name", ANSWERED)
def test_unusual_files_are_read_as_they_look(name):
    content, image, note = ANSWERED[name]
    pixels, notes = read_picture(io.BytesIO(content))
    image = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(image).transpose(2, 0, 1).astype(int)
    assert np.abs(pixels - expected).mean() < 5  # JPEG's and WebP's losses
    assert notes[:1] == ((note,) if note else ())


def test_a_large_webp_does_not_reach_pillow(monkeypatch):
    """Pillow would allocate all pixels when it opens the file."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    large = [content for name, (content, _) in REFUSED.items() if "WebP of many" in name]
    assert len(large) == 3
    for content in large:
        file = io.BytesIO(content)
        file.seek(5)
        with pytest.raises(DataError, match="144000000 pixels are more than"):
            read_picture(file)


def test_a_picture_comes_through_an_open_pipe():
    content = ANSWERED["a PNG"][0]
    expected, _ = read_picture(io.BytesIO(content))
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found, _ = read_picture(pipe)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("scans", [100, 101, 4000])
@pytest.mark.parametrize("fill", [b"", b"\xff\xff"])
def test_a_jpeg_of_many_scans_is_refused(scans, fill):
    content = jpeg_of_scans(RGB, scans, fill)
    if scans <= 100:
        assert read_picture(content)[0].shape == (3, 32, 32)
        return
    with pytest.raises(
        DataError, match=r"cannot be read as an image \(it has more than 100 scans\)$"
    ):
        read_picture(content)


def test_scans_hidden_behind_a_marker_without_meaning_are_counted():
    """A decoder that looks for its place in the pixels skips such a marker, but not its length."""
    content = jpeg_of_scans(RGB, 101)
    last = content.rindex(b"\xff\xda")
    first = content.index(b"\xff\xda")
    scan = content.index(b"\xff", first + 2)
    hidden = content[:scan] + b"\xff\x02\xff\xff" + content[scan:last] + content[last:]
    with pytest.raises(DataError, match="more than 100 scans"):
        read_picture(hidden)


@pytest.mark.slow(2)
def test_a_jpeg_of_fill_bytes_is_refused_in_time_that_does_not_explode():
    """A search that begins anew at each of them would take hours."""
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_picture(b"\xff\xd8" + b"\xff" * 10**7)


def test_what_follows_a_jpeg_and_its_thumbnail_are_not_counted():
    plain = encoded(RGB, "JPEG")
    follows = plain + jpeg_of_scans(RGB, 4000)  # as a film does in a phone's "motion photo"
    thumbnail = plain[:2] + b"\xff\xee\xff\xfe" + b"\xff\xda" * 32766 + plain[2:]
    expected, notes = read_picture(plain)
    for content in (follows, thumbnail):
        found = read_picture(content)
        assert np.array_equal(found[0], expected)
        assert found[1] == notes


@pytest.mark.parametrize("name", REFUSED)
def test_unreadable_files_are_refused_on_one_line(name):
    content, problem = REFUSED[name]
    with pytest.raises(
        DataError, match=r"^the picture cannot be read as an image \([^\n]*\)$"
    ) as e:
        read_picture(io.BytesIO(content))
    assert problem in str(e.value)


@pytest.mark.parametrize(
    "kind",
    [
        *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "IM", "JPEG", "JPEG2000", "MPO"),
        *("PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
    ],
)
def test_too_many_pixels_are_refused_before_any_is_decoded(kind, monkeypatch):
    if kind not in WRITTEN:
        pytest.skip(f"this Pillow writes no {kind}")
    content = encoded(RGB.resize((128, 128)), kind)
    read_picture(content)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 128 * 128 - 1)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(DataError, match="16384 pixels"):
        read_picture(content)


def test_every_format_of_pillow_is_read_or_left_out_for_a_reason():
    """A new one is to be looked at: it may run programs, or unpack without a limit."""
    Image.init()
    cannot_be_decoded = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF"}
    runs_programs, floats = {"EPS", "IPTC"}, {"FITS", "SPIDER"}
    refused = cannot_be_decoded | runs_programs | floats
    assert set(Image.OPEN) - {"HEIF"} <= set(formats.FORMATS) | refused
    assert not set(formats.FORMATS) & refused


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate"])
def test_a_damaged_tiff_gives_one_line(compression, capfd):
    """libtiff would write another to standard error."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "TIFF", compression=compression)
    content = bytearray(file.getvalue())
    content[1000:1400] = noise.tobytes()[:400]
    with pytest.raises(DataError, match=r"read as an image \(its pixels are damaged\)$"):
        read_picture(bytes(content))
    assert capfd.readouterr() == ("", "")


def test_heic_is_read_with_pillow_heif():
    pillow_heif = pytest.importorskip("pillow_heif")
    content = io.BytesIO()
    pillow_heif.from_pillow(RGB).save(content)
    pixels, notes = read_picture(content)
    expected = np.asarray(RGB.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert np.abs(pixels - expected.astype(int)).mean() < 5
    assert notes == ()


def test_heic_says_what_reads_it(monkeypatch):
    monkeypatch.setattr(formats, "has_heif", lambda: False)
    formats.readable.cache_clear()
    content = b"\0\0\0\x18ftypheic" + bytes(100)
    with pytest.raises(DataError, match="it is HEIC: pip install pillow-heif, which reads it"):
        read_picture(content)
    formats.readable.cache_clear()


# --- From an image to pixels ---


def pixels_of(image):
    pixels = to_pixels(image)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.uint8
    return pixels


def test_an_image_of_the_right_size_stays_as_it_is():
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (pixels_of(Image.fromarray(exact)) == exact.transpose(2, 0, 1)).all()


@pytest.mark.parametrize("size", [(96, 32), (32, 96)])
def test_the_square_at_the_centre_is_kept(size):
    image = Image.new("RGB", size, "red")
    image.paste(
        (0, 0, 255),
        ((size[0] - 32) // 2, (size[1] - 32) // 2, (size[0] + 32) // 2, (size[1] + 32) // 2),
    )
    assert (pixels_of(image) == np.array([0, 0, 255])[:, None, None]).all()


def test_resizing_averages_pixels():
    checks = (np.indices((512, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    pixels = pixels_of(Image.fromarray(checks)).astype(int)
    assert np.abs(pixels - 128).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3)])
def test_any_size_is_accepted(size):
    assert (pixels_of(Image.new("RGB", size, (9, 8, 7)))[:, 0, 0] == [9, 8, 7]).all()


@pytest.mark.parametrize(
    ("mode", "color", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("I;16", 0, (0, 0, 0)),
        ("I;16", 257 * 77, (77, 77, 77)),
        ("I;16", 65535, (255, 255, 255)),
        ("I;16B", 257 * 77, (77, 77, 77)),
        ("I", 257 * 77, (77, 77, 77)),
    ],
)
def test_any_mode_becomes_rgb(mode, color, expected):
    assert (pixels_of(Image.new(mode, (40, 40), color))[:, 5, 5] == expected).all()


def reopened(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(buffer)


def test_floating_point_numbers_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        to_pixels(Image.new("F", (40, 40), 0.5))


def test_a_palette_with_a_transparent_colour_is_composited_over_white():
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels_of(reopened(image))[:, 5, 5] == [10, 20, 30]).all()
    assert (pixels_of(reopened(image, transparency=1)) == 255).all()
    assert (pixels_of(reopened(image, transparency=b"\xff\x00")) == 255).all()


def test_sixteen_bit_greys_of_a_png_are_scaled():
    ramp = np.tile(np.arange(32, dtype=np.uint16) * 2048, (32, 1))
    image = Image.fromarray(ramp)
    expected = np.rint(ramp / 257).astype(np.uint8)
    assert (pixels_of(reopened(image)) == expected).all()
    clear = pixels_of(reopened(image, transparency=2048))
    assert (clear[:, :, 1] == 255).all()
    assert (clear[:, :, 2:] == expected[:, 2:]).all()


# EXIF orientation → how the stored pixels are turned upright (EXIF 2.3, section 4.6.4).
TURNS = {
    1: lambda rows: rows,
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: np.rot90(rows, -1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: lambda rows: np.rot90(rows),
}


@pytest.mark.parametrize("value", TURNS)
def test_a_picture_is_turned_upright(value):
    stored = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    image = reopened(Image.fromarray(stored), exif=orientation(value))
    assert (pixels_of(image) == TURNS[value](stored).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("value", TURNS)
def test_width_and_height_are_those_of_the_upright_picture(value):
    image = reopened(Image.new("RGB", (100, 40)), exif=orientation(value))
    size = "100 × 40" if value <= 4 else "40 × 100"
    assert peculiarities(image)[0].startswith(f"only the square at the centre of {size} pixels")
