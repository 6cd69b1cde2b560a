"""The handwritten digits that come with scikit-learn: they need no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normlab.config import DataConfig
from normlab.data.dataset import Dataset, Split
from normlab.data.splitting import stratified

SPELLING = "digits"
PUBLIC = True
HUB_NAME = None
MIRRORABLE = HAS_IMAGE_FILES = HAS_COLUMNS = False
TEST_IMAGES = 360  # of 1797, about a fifth


def load(_: DataConfig, __: Path | None) -> Dataset:
    """The digits, 8 × 8 and grey, as 32 × 32 images with three equal channels.

    1,437 training and 360 test images in ten classes; the split is always the same.
    Source: the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    table = _read()
    values = table[:, :-1].reshape(-1, 8, 8)
    grey = np.rint(values * (255 / 16)).astype(np.uint8)  # 0..16 → 0..255
    large = grey.repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(large[:, None], 3, axis=1)
    labels = table[:, -1].astype(np.int64)
    test, train = stratified(labels, TEST_IMAGES, seed=0)
    whole = Split(images, labels)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train=whole.take(train),
        test=whole.take(test),
    )


def _read() -> NDArray[np.float64]:
    """scikit-learn's table of the digits: 64 values and the label, one line for each."""
    package = find_spec("sklearn")  # not imported: that takes more than a second
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.exists():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    source = load_digits()
    return np.column_stack([source.data, source.target])


def needs_download() -> bool:
    """Never: scikit-learn brings them."""
    return False
