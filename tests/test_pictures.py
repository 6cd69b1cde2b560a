"""How files of peculiar kinds are seen."""

import io

import numpy as np
import pytest
from PIL import Image

from normlab.errors import DataError
from normlab.pictures import read_picture
from normlab.prediction import FORMATS
from peculiar import ANSWERED, REFUSED


@pytest.mark.parametrize("name", ANSWERED)
def test_what_can_be_read_is_seen_as_it_is(name):
    content, image, note = ANSWERED[name]
    pixels, notes = read_picture(io.BytesIO(content), FORMATS)
    image = image.convert("RGB").resize((32, 32), Image.Resampling.BICUBIC)
    expected = np.asarray(image).transpose(2, 0, 1).astype(int)
    assert np.abs(pixels - expected).mean() < 5  # JPEG's and WebP's losses
    assert notes[:1] == ((note,) if note else ())


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_a_line(name):
    content, problem = REFUSED[name]
    with pytest.raises(
        DataError, match=r"^the picture cannot be read as an image \([^\n]*\)$"
    ) as e:
        read_picture(io.BytesIO(content), FORMATS)
    assert problem in str(e.value)
