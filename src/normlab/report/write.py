"""Writes the page about runs, and its figures."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from normlab.data.dataset import Dataset, Split
from normlab.errors import UsageError
from normlab.findings.run import names
from normlab.inference.evaluate import evaluate
from normlab.inference.explain import class_maps
from normlab.network.model import Network
from normlab.report import plots
from normlab.report.run_page import render
from normlab.runs.run import Run
from normlab.storage.files import write_atomically


def write_report(
    runs: Sequence[Run],
    out: Path | str | None = None,
    *,
    data_root: Path | None = None,
    images: bool = True,
    published: Path | str | None = None,
) -> Path:
    """Evaluates finished runs and writes a page about them, and its figures as PNG.

    Args:
        runs: One or several.
        out: The page. Default: `report.html` in the run's folder, or in the folder that holds all.
        data_root: Where the data lies, as in `Execution`.
        images: Whether the page shows pictures of mistakes.
        published: A file of published curves (`plots.read_published`) to draw behind the runs'.

    Returns:
        The page's path. The figures are in `figures/`, in the run's folder or beside the page.

    Raises:
        UsageError: There is no run, or one twice; the runs have no folder in common; none of them
            has a published curve.
        RunError: A run is not finished, or its data is not what it was.
        DataError: A run's data is not there.
        NormlabError: A file cannot be read or written.
    """
    called = names(runs)
    page = Path(out) if out else _home(runs) / "report.html"
    known = plots.read_published(published) if published else {}
    curves = [_published(run, known) for run in runs]
    if published and not any(curves):
        raise UsageError(
            f"{published} has curves for {', '.join(known)}: no run here has such a normalization"
        )
    datasets: dict[object, Dataset] = {}
    evaluations, splits, maps = [], [], []
    for run in runs:
        config = run.config
        key = (run.data.fingerprint, config.dataset, config.holdout, config.split_seed)
        if key not in datasets:
            datasets[key] = run.dataset(data_root)
        network, split = run.network(), datasets[key].split(run.split)
        evaluations.append(evaluate(network, datasets[key], run.split))
        splits.append(split)
        maps.append(_class_maps(network, split, len(run.data.classes)))
    shown = splits if images else None
    write_atomically(page, render(runs, evaluations, shown, published=curves, maps=maps))

    single = len(runs) == 1
    figures: dict[str, Figure] = {"curves": plots.curves(runs, curves[0] if single else ())}
    if len({evaluation.classes for evaluation in evaluations}) == 1:
        by_run = dict(zip(called, evaluations, strict=True))
        figures["class-accuracy"] = plots.class_accuracy(by_run)
    if single:
        figures["confusion"] = plots.confusion(evaluations[0])
        if images:
            figures["mistakes"] = plots.mistakes(evaluations[0], splits[0])
    folder = (runs[0].path if single else page.parent) / "figures"
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    if single and not images:
        (folder / "mistakes.png").unlink(missing_ok=True)  # an earlier report's
    return page


def _class_maps(network: Network, split: Split, classes: int) -> NDArray[np.float32] | str:
    """The classes' heat maps; where there are none, why, for the page to say."""
    try:
        return class_maps(network, split, classes)
    except UsageError as error:
        return f"There are no heat maps: {error}."


def _published(run: Run, curves: dict[str, plots.Published]) -> list[plots.Published]:
    """The published curve of a run's normalization; a published network as it is has its own."""
    norm = run.config.norm.partition("=")[0]
    if run.config.network.startswith("seed-") and run.config.norm == "bn":
        norm = run.config.network.removeprefix("seed-")
    return [curves[norm]] if norm in curves else []


def _home(runs: Sequence[Run]) -> Path:
    """The folder that a page about these runs belongs to."""
    if len(runs) == 1:
        return runs[0].path
    shared = Path(os.path.commonpath([run.path.resolve().parent for run in runs]))
    if shared == Path(shared.anchor):
        raise UsageError(
            "these runs have no folder in common: say where the page should be written"
        )
    return shared
