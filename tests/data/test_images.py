"""How files of peculiar kinds are seen."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from normlab.data.images import read_picture
from normlab.errors import DataError
from normlab.inference.pictures import FORMATS
from peculiar import ANSWERED, REFUSED


@pytest.mark.parametrize("name", ANSWERED)
def test_what_can_be_read_is_seen_as_it_is(name):
    content, image, note = ANSWERED[name]
    pixels, notes = read_picture(io.BytesIO(content), FORMATS)
    image = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(image).transpose(2, 0, 1).astype(int)
    assert np.abs(pixels - expected).mean() < 5  # JPEG's and WebP's losses
    assert notes[:1] == ((note,) if note else ())


def test_a_large_webp_does_not_reach_pillow(monkeypatch):
    """It would make room for all pixels as it opens it."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    large = [content for name, (content, _) in REFUSED.items() if "WebP of many" in name]
    assert len(large) == 3
    for content in large:
        file = io.BytesIO(content)
        file.seek(5)
        with pytest.raises(DataError, match="144000000 pixels are more than"):
            read_picture(file, FORMATS)


def test_a_picture_comes_through_a_pipe(tmp_path):
    content = ANSWERED["a PNG"][0]
    expected, _ = read_picture(io.BytesIO(content), FORMATS)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    found, _ = read_picture(tmp_path / "pipe", FORMATS)
    writer.join()
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_one_line(name):
    content, problem = REFUSED[name]
    with pytest.raises(
        DataError, match=r"^the picture cannot be read as an image \([^\n]*\)$"
    ) as e:
        read_picture(io.BytesIO(content), FORMATS)
    assert problem in str(e.value)
