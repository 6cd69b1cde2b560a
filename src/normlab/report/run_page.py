"""The page about a run, or about several runs together."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normlab import notation
from normlab.config import DataConfig, RunConfig
from normlab.data.dataset import Dataset, Split
from normlab.errors import UsageError
from normlab.findings.run import (
    ACCURACY,
    IMAGES,
    TARGET,
    analyze,
    compare,
    has_target,
    images_measured,
)
from normlab.inference.evaluate import Evaluation, evaluate
from normlab.inference.explain import IMAGES_PER_CLASS, class_maps
from normlab.network import zoo
from normlab.network.boards import BOARDS
from normlab.network.model import Network
from normlab.network.summary import Summary
from normlab.network.widths import budget_in_force
from normlab.report import plots, run_figures
from normlab.report.embed import picture
from normlab.report.rendering import PAGE_MARK, Picture, render_template
from normlab.runs.isolation import isolated
from normlab.runs.provenance import Machine, started_from, taught_by
from normlab.runs.run import Run
from normlab.runs.several import common_folder, names
from normlab.storage.files import refuse_foreign, refuse_link, write_atomically
from normlab.table import Table
from normlab.wording import (
    counted,
    decimals,
    duration,
    large_number,
    listed,
    percent,
    setting_value,
    spaced,
)


@isolated()
def write_report(
    runs: Sequence[Run],
    out: Path | str | None = None,
    *,
    data_root: Path | None = None,
    images: bool = True,
    published: Path | str | None = None,
) -> Path:
    """Evaluates finished runs and writes a page about them, with its figures as PNG.

    Args:
        runs: One run or several.
        out: The page. Default: `report.html` in the run's folder, or in the folder that holds all
            runs.
        data_root: The folder of the data, as in `Execution`.
        images: Whether the page shows pictures of mistakes.
        published: A file of published curves (`plots.read_published`) to draw behind the runs'.

    Returns:
        The path of the page. Its figures are beside it: in `figures/` if it is `report.html`, in
        `NAME-figures/` if it is `NAME.html`.

    Raises:
        UsageError: There is no run, or a run is given twice; the runs have no folder in common;
            none of them has a published curve; another file has the name of the page or of one of
            its figures.
        RunError: A run is not finished, or its data has changed.
        DataError: The data of a run is missing.
        NormlabError: A file cannot be read or written.
    """
    names(runs)  # UsageError before anything is evaluated
    page = Path(out) if out else common_folder(runs) / "report.html"
    # Two pages in a folder have their own figures.
    folder = page.parent / ("figures" if page.stem == "report" else f"{page.stem}-figures")
    refuse_link(folder)
    in_runs_folder = page == runs[0].path / "report.html"  # where the names are normlab's
    if not in_runs_folder:
        refuse_foreign(page, PAGE_MARK)
    curves = _published_curves(runs, published)
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
    figures = run_figures.files(runs, evaluations, shown, curves)
    if not in_runs_folder and not page.exists():  # else the figures are the page's
        for name in (*figures, "mistakes"):
            refuse_foreign(folder / f"{name}.png", plots.PNG_MARK)
    write_atomically(page, render(runs, evaluations, shown, published=curves, maps=maps))
    for name, figure in figures.items():
        plots.save(figure, folder / f"{name}.png")
    if not images:
        (folder / "mistakes.png").unlink(missing_ok=True)  # of an earlier report
    return page


def render(
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    splits: Sequence[Split] | None,
    *,
    published: Sequence[Sequence[plots.Published]] | None = None,
    maps: Sequence[NDArray[np.float32] | str] | None = None,
) -> str:
    """The page as HTML, in one file that opens from disk.

    Args:
        runs: One or several, each with at least one epoch.
        evaluations: One per run.
        splits: The evaluated images, one split per run; None leaves pictures out.
        published: For each run, the published curves to draw behind its own.
        maps: For each run the result of `normlab.inference.explain.class_maps`, or a sentence that
            says why there are no maps; None leaves them out.
    """
    run_names = names(runs)
    sections = [
        _section(
            f"run{k}",
            name,
            runs[k],
            evaluations[k],
            splits[k] if splits else None,
            published[k] if published else (),
            maps[k] if maps else None,
        )
        for k, name in enumerate(run_names)
    ]
    several = len(runs) > 1
    return render_template(
        "page.html",
        title=f"{len(runs)} runs compared" if several else run_names[0],
        sections=sections,
        comparison=_comparison(runs, evaluations) if several else None,
    )


def _section(
    key: str,
    name: str,
    run: Run,
    evaluation: Evaluation,
    split: Split | None,
    published: Sequence[plots.Published],
    maps: NDArray[np.float32] | str | None,
) -> dict[str, object]:
    """The contents of a run's section. `mistakes` is None if pictures are left out."""
    return {
        "name": name,
        "about": _about(run),
        "tiles": _tiles(run, evaluation),
        "findings": analyze(run, evaluation),
        "curves": run_figures.curves(key, run, published),
        "curves_note": _curves_note(run, published),
        "log": run_figures.log(key, run),
        "mistakes": None if split is None else _mistakes(evaluation, split),
        "classes": run_figures.classes(key, name, evaluation),
        "maps": _maps(maps, evaluation.classes, split) if isinstance(maps, np.ndarray) else maps,
        "layers": run.summary.table,
        "layers_note": run.summary.note,
        "boards": boards_table(run.summary) or f"There is no C program: {run.summary.no_program}.",
        "picture_bytes": f"{math.prod(run.summary.input):,}",
        "settings": _settings(run),
        "machines": Table(
            caption="Computed on",
            head=[spaced(field.name) for field in dataclasses.fields(Machine)],
            kinds=["plain"] * len(dataclasses.fields(Machine)),
            rows=[[str(value) for value in dataclasses.astuple(m)] for m in run.machines],
        ),
    }


def _comparison(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> dict[str, object]:
    """The contents of the page about several runs together."""
    return {
        "about": "One row per run; last: accuracy after the last epoch.",
        "runs": runs_table(runs),
        "findings": compare(runs, evaluations),
        "curves": run_figures.curves_compared(runs),
        "classes": run_figures.classes_compared(dict(zip(names(runs), evaluations, strict=True))),
    }


def _about(run: Run) -> str:
    held = " The test split was not read." if run.split == "holdout" else ""
    return (
        f"{run.config.network} with {normalization(run)}, {counted(run.last.epoch, 'epoch')} "
        f"on {run.config.dataset}, seed {run.config.seed}. One run.{held}"
    )


def _tiles(run: Run, evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """The large numbers at the top: label, value, note."""
    images = images_measured(run)
    passed, best = run.first_above(TARGET), run.best
    balanced = (
        f"Balanced {ACCURACY[run.split]}",
        percent(evaluation.balanced_accuracy, images),
        "the classes are unbalanced: mean of their accuracies",
    )
    target = (
        f"First above {TARGET:.0%}",
        f"epoch {passed.epoch}" if passed else "never",
        f"in {counted(run.last.epoch, 'epoch')}",
    )
    return [
        *([balanced] if evaluation.unbalanced else []),
        (
            f"{ACCURACY[run.split].capitalize()}, last epoch",
            percent(run.last.accuracy, images),
            f"of {images:,} images, one run",
        ),
        (
            "Best epoch",
            percent(best.accuracy, images),
            f"epoch {best.epoch}, chosen on the {IMAGES[run.split]}: optimistic",
        ),
        *([target] if has_target(run.config.dataset) else []),
        ("Parameters", f"{run.summary.parameters:,}", ""),
        ("MACs per image", large_number(run.summary.macs), ""),
        ("Time", duration(run.seconds), "training and evaluation"),
    ]


def _curves_note(run: Run, published: Sequence[plots.Published]) -> str:
    augmented = "augmented, " if run.recipe.augment else ""
    note = (
        f"Solid: {IMAGES[run.split]}, after each epoch. Dashed: training images, {augmented}while "
        "the weights change."
    )
    if run.teacher:
        note += (
            " The training loss is a weighted sum of the loss for the labels and the divergence "
            "from the teacher."
        )
    if run.config.balance:
        note += " In the training loss, images are weighted by their class."
    if run.recipe.label_smoothing:
        note += " The training loss is that of smoothed labels, and so higher than without them."
    return note + "".join(f" Grey: {curve.label}." for curve in published)


def _mistakes(evaluation: Evaluation, split: Split) -> list[Picture]:
    pictures = []
    for k in evaluation.mistakes():
        true = evaluation.classes[evaluation.labels[k]]
        predicted = evaluation.classes[evaluation.predictions[k]]
        confidence = f"{evaluation.probabilities[k].max():.1%}"
        pictures.append(
            Picture(
                picture(split.images[k]),
                alt=f"{true}, taken for {predicted}",
                title=true,
                lines=(f"→ {predicted}", confidence),
                size=split.images.shape[2],
            )
        )
    return pictures


def _maps(maps: NDArray[np.float32], classes: Sequence[str], split: Split | None) -> list[Picture]:
    """The heat maps of the classes, each with the place where it is brightest.

    With the images, each has the mean of those that it is about beside it.
    """
    pictures = []
    for k, (name, values, colored) in enumerate(
        zip(classes, maps, plots.colored(maps), strict=True)
    ):
        if np.isnan(values).any():
            continue  # the class has no images
        where = _brightest_place(values)
        alt = f"{name}: brightest {where}"
        size = len(values)
        mean = ""
        if split is not None:
            images = split.images[np.flatnonzero(split.labels == k)[:IMAGES_PER_CLASS]]
            mean = picture(images.mean(0).round().astype(np.uint8))
        pictures.append(
            Picture(picture(colored), alt, name, lines=(where,), size=size, beside=mean)
        )
    return pictures


def _brightest_place(values: NDArray[np.float32]) -> str:
    """Where a map is highest: `top left`, `at the centre`."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    across = ("left", "centre", "right")[3 * int(column) // values.shape[1]]
    down = ("top", "middle", "bottom")[3 * int(row) // values.shape[0]]
    return "at the centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


def _settings(run: Run) -> list[tuple[str, str, bool]]:
    """Name, value, whether it is code: the configuration, the resolved recipe, the data."""
    recipe = dataclasses.asdict(run.recipe)
    data_fields = DataConfig.__annotations__
    own_fields = [field.name for field in dataclasses.fields(RunConfig)]
    order = [*(name for name in own_fields if name not in data_fields), *data_fields]
    config = {
        name: getattr(run.config, name)
        for name in order
        if name not in recipe and name != "start_from" and not name.startswith("teacher")
    }
    config["budget"] = _budget(run)
    numbers = {"mean": run.data.mean, "standard deviation": run.data.std}
    return [
        *((spaced(name), setting_value(value), False) for name, value in config.items()),
        *((spaced(k), setting_value(v), False) for k, v in recipe.items()),
        *(
            [("stopped after", f"{counted(run.stopped_after, 'epoch')}, by a callback", False)]
            if run.stopped_after
            else []
        ),
        *([("start", started_from(run.start, run.config), False)] if run.start else []),
        *([("teacher", taught_by(run.teacher, run.config), False)] if run.teacher else []),
        ("layout", run.layout, True),
        (
            "images",
            f"{run.data.train:,} training, "
            + (f"{run.data.holdout:,} held out, " if run.data.holdout else "")
            + f"{run.data.test:,} test",
            False,
        ),
        *((name, decimals(values), False) for name, values in numbers.items()),
        ("data fingerprint", run.data.fingerprint, True),
        *(("note", note, False) for note in run.data.notes),
    ]


def _budget(run: Run) -> int | None:
    """The budget that the widths were solved with; None for none."""
    try:
        blocks = notation.parse(zoo.find(run.config.network))
    except notation.LayoutError:  # a name of another version
        return run.config.budget
    return budget_in_force(blocks, run.config.budget, run.config)


def runs_table(runs: Sequence[Run]) -> Table:
    """One row per run: parameters, MACs, best and last accuracy, time."""
    of = " or ".join(IMAGES[split] for split in dict.fromkeys(run.split for run in runs))
    target = any(has_target(run.config.dataset) for run in runs)
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        images, passed = images_measured(run), run.first_above(TARGET)
        first = str(passed.epoch) if passed else "never"
        first = first if has_target(run.config.dataset) else "–"
        rows.append(
            (
                name,
                percent(run.last.accuracy, images),
                normalization(run),
                f"{run.summary.parameters:,}",
                f"{run.summary.macs:,}",
                f"{percent(run.best.accuracy, images)} ({run.best.epoch})",
                *([first] if target else []),
                duration(run.seconds),
            )
        )
    return Table(
        caption=f"Best: the highest of all epochs (and its epoch), chosen on the {of}: optimistic",
        head=(
            *("run", "last", "normalization", "parameters", "MACs", "best"),
            *([f"first above {TARGET:.0%}"] if target else []),
            "time",
        ),
        kinds=("name", "number", "name", *["number"] * (5 if target else 4)),
        rows=rows,
    )


def boards_table(summary: Summary) -> Table | None:
    """A network beside the boards that it fits and does not fit; None if it has no C program."""
    memory = summary.memory
    if memory is None:
        return None
    rows = []
    for board in sorted(BOARDS.values(), key=lambda board: board.ram):
        parts = (("flash", memory.constants, board.flash), ("RAM", memory.arena, board.ram))
        excess = [f"{used - has:,} bytes of {part}" for part, used, has in parts if used > has]
        shares = [f"{used / has:.1%} of {has:,}" for _, used, has in parts]
        rows.append((board.title, *shares, f"no: {listed(excess)} too many" if excess else "yes"))
    return Table(
        caption=f"In int8: {memory.constants:,} bytes of flash beside a few kB of code, "
        f"{memory.arena:,} bytes of RAM",
        head=("board", "flash", "RAM", "fits"),
        kinds=("name", "number", "number", "plain"),
        rows=rows,
    )


def normalization(run: Run) -> str:
    """A run's normalization, and those of blocks that have another."""
    others = Counter(b.norm for b in notation.parse(run.layout) if b.norm is not None)
    blocks = ", ".join(f"{name} in {counted(n, 'block')}" for name, n in others.items())
    return f"{run.config.norm} ({blocks})" if others else run.config.norm


def _published_curves(runs: Sequence[Run], path: Path | str | None) -> list[list[plots.Published]]:
    """For each run the published curves of its normalization.

    Raises:
        UsageError: There is a file, and no run has a curve in it.
    """
    known = plots.read_published(path) if path else {}
    curves = [[known[norm]] if (norm := _published_norm(run)) in known else [] for run in runs]
    if path and not any(curves):
        raise UsageError(
            f"{path} has curves for {', '.join(known)}: no run here has any of these normalizations"
        )
    return curves


def _published_norm(run: Run) -> str:
    """The normalization whose published curve a run is compared with."""
    network = run.config.network
    if network.startswith("seed-") and run.config.norm == "bn":
        return network.removeprefix("seed-")  # a published network, unchanged
    return run.config.norm.partition("=")[0]


def _class_maps(network: Network, split: Split, classes: int) -> NDArray[np.float32] | str:
    """The heat maps of the classes, or a sentence that says why there are none."""
    try:
        return class_maps(network, split, classes)
    except UsageError as error:
        return f"There are no heat maps: {error}."
