"""The handwritten digits that scikit-learn carries: a data set that needs no download."""

import numpy as np
from sklearn.datasets import load_digits

from normlab.data.dataset import Dataset, Split
from normlab.data.splitting import stratified

TEST_IMAGES = 360  # of 1797, about a fifth


def load() -> Dataset:
    """The digits, 8 × 8 and grey, as 32 × 32 pictures with three equal channels.

    1,437 training and 360 test images in ten classes; the split is always the same one.
    Source: the test part of UCI's "Optical Recognition of Handwritten Digits".
    """
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
