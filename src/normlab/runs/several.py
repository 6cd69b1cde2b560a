"""Several runs together: names that tell them apart, and a folder for a page about them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from normlab.errors import UsageError
from normlab.runs.run import Run


def names(runs: Sequence[Run]) -> list[str]:
    """Names that tell runs apart: their folders' names, with as many parent folders as necessary.

    Raises:
        UsageError: There is no run, or a run is given twice.
    """
    if not runs:
        raise UsageError("expected one run or more")
    paths = [run.path.resolve().parts for run in runs]
    endings = [[path[-k:] for k in range(1, len(path) + 1)] for path in paths]
    counts = Counter(ending for of_one_run in endings for ending in of_one_run)
    for run, path in zip(runs[::-1], paths[::-1], strict=True):  # the message names the later one
        if counts[path] > 1:
            raise UsageError(f"the run {run.path} is given twice: leave one out")
    return [
        str(Path(*next(ending for ending in of_one_run if counts[ending] == 1)))
        for of_one_run in endings
    ]


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder for a page about these runs."""
    if len(runs) == 1:
        return runs[0].path
    shared = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    if shared == Path(shared.anchor):
        raise UsageError(
            "these runs have no folder in common: say where the page should be written"
        )
    return shared
