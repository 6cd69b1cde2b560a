"""The handwritten digits that come with scikit-learn: they need no download."""

import numpy as np

from normlab.data.dataset import Dataset, Split
from normlab.data.sources import Request
from normlab.data.splitting import stratified

SPELLING = PUBLIC_NAME = "digits"
HUB_NAME = None
MIRRORABLE = HAS_IMAGE_FILES = HAS_COLUMNS = False
TEST_IMAGES = 360  # of 1797, about a fifth


def load(_: Request) -> Dataset:
    """The digits, 8 × 8 and grey, as 32 × 32 images with three equal channels.

    1,437 training and 360 test images in ten classes; the split is always the same.
    Source: the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
    from sklearn.datasets import load_digits  # takes seconds

    source = load_digits()
    grey = np.rint(source.images * (255 / 16)).astype(np.uint8)  # 0..16 → 0..255
    large = grey.repeat(4, axis=1).repeat(4, axis=2)
    images = np.repeat(large[:, None], 3, axis=1)
    labels = source.target.astype(np.int64)
    test, train = stratified(labels, TEST_IMAGES, seed=0)
    whole = Split(images, labels)
    return Dataset(
        name="digits",
        classes=tuple("0123456789"),
        train=whole.take(train),
        test=whole.take(test),
    )


def needs_download() -> bool:
    """Never: scikit-learn brings them."""
    return False
