"""Pictures to try a run on: those of its own data."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normlab.data.dataset import Split
from normlab.data.sources import cifar10
from normlab.errors import DataError, RunError
from normlab.runs.run import Run

COUNT = 20

Example = tuple[NDArray[np.uint8], str]  # a picture, 32 × 32 × 3, and its class


def examples(run: Run, data_root: Path | None = None) -> list[Example] | str:
    """Up to 20 of the images that a run was measured on, evenly; or why there are none.

    Nothing is downloaded.

    Raises:
        DataError, RunError: The data in `data_root` is not there, or not the run's.
    """
    if run.config.dataset == "cifar10" and data_root is None and not cifar10.at_hand():
        return "CIFAR-10 is not on this machine; --data-root says where it is."
    try:
        dataset = run.dataset(data_root)
    except (DataError, RunError) as error:
        if data_root is not None:
            raise
        return f"{error}."
    split = dataset.split(run.split)
    places = _evenly(split, len(dataset.classes))
    pictures = np.ascontiguousarray(split.images[places].transpose(0, 2, 3, 1))
    return [
        (picture, dataset.classes[label])
        for picture, label in zip(pictures, split.labels[places], strict=True)
    ]


def _evenly(split: Split, classes: int) -> NDArray[np.int64]:
    """Places of the first images of each class."""
    of_each = max(1, COUNT // classes)
    found = [np.flatnonzero(split.labels == k)[:of_each] for k in range(classes)]
    return np.concatenate(found)[:COUNT]
