"""Example pictures for the page, from the run's own data set."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normlab.data import source_of
from normlab.errors import DataError, RunError
from normlab.notes import note
from normlab.report.plots import rgb
from normlab.runs.run import Run

COUNT = 20

Example = tuple[NDArray[np.uint8], str]  # S × S × 3, and its class


def load_examples(run: Run, data_root: Path | None = None) -> list[Example] | str:
    """Up to 20 images of the split that a run was evaluated on, equally many of its first classes.

    Where the data is not on this machine, the reason is returned instead. Nothing is downloaded.

    Raises:
        DataError: There is no such data in `data_root`.
        RunError: It is not the data that the run was trained on.
    """
    source = source_of(run.config.dataset)
    if source is not None and data_root is None and source.needs_download():
        return f"{run.config.dataset} is not on this machine; give its folder with --data-root."
    try:
        dataset = run.dataset(data_root, any_copy=True)
    except (DataError, RunError) as error:
        if data_root is not None:
            raise
        # Visitors are not told: it names a folder.
        note(f"there are no pictures to try: {error}")
        return "their data cannot be read; the server's output says why."
    classes = dataset.classes
    first = dataset.split(run.split).first_of_each_class(
        max(1, COUNT // len(classes)), len(classes)
    )
    return [
        (np.ascontiguousarray(rgb(image)), classes[label])
        for image, label in zip(first.images[:COUNT], first.labels, strict=False)
    ]
