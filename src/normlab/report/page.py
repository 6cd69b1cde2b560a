"""The page about a run, or about several beside one another."""

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from normlab import layout, plots
from normlab.analysis import (
    ACCURACY,
    IMAGES,
    TARGET,
    analyze,
    compare,
    images_measured,
    names,
    percent,
)
from normlab.config import DataConfig, RunConfig
from normlab.data.dataset import Dataset, Split
from normlab.errors import UsageError
from normlab.evaluation import Evaluation, evaluate
from normlab.files import write_atomically
from normlab.model import HEADINGS
from normlab.report.figures import inline_svg, picture
from normlab.report.html import Picture, Table, fill
from normlab.run import Machine, Run


def write_report(
    runs: Sequence[Run],
    out: Path | None = None,
    *,
    data_root: Path | None = None,
    images: bool = True,
    published: Path | None = None,
) -> Path:
    """Evaluates finished runs and writes a page about them, and its figures as PNG.

    Args:
        runs: One or several.
        out: The page. Default: `report.html` in the run's folder, or in the folder that holds all.
        data_root: Folder of CIFAR-10, as in `Execution`.
        images: Whether the page shows pictures of mistakes.
        published: A file of published curves (`plots.read_published`) to draw behind the runs'.

    Returns:
        The page's path. The figures are in `figures/`, in the run's folder or beside the page.

    Raises:
        UsageError: The runs have no folder in common, or none of them has a published curve.
        RunError: A run is not finished, or its data is not what it was.
        DataError: A run's data is not there.
        NormlabError: A file cannot be read or written.
    """
    page = out or _home(runs) / "report.html"
    curves = plots.read_published(published) if published else {}
    if published and not any(_published(run, curves) for run in runs):
        raise UsageError(
            f"{published} has curves for {', '.join(curves)}: no run here has such a normalization"
        )
    datasets: dict[object, Dataset] = {}
    evaluations, splits = [], []
    for run in runs:
        config = run.config
        key = (run.data.fingerprint, config.dataset, config.holdout, config.split_seed)
        if key not in datasets:
            datasets[key] = run.dataset(data_root)
        evaluations.append(evaluate(run.network(), datasets[key], run.split))
        splits.append(datasets[key].split(run.split))
    write_atomically(page, render(runs, evaluations, splits if images else None, published=curves))
    figures = (runs[0].path if len(runs) == 1 else page.parent) / "figures"
    for name, figure in _figures(runs, evaluations, curves).items():
        plots.save(figure, figures / f"{name}.png")
    if len(runs) == 1:
        gallery = figures / "mistakes.png"
        if images:
            plots.save(plots.mistakes(evaluations[0], splits[0]), gallery)
        else:
            gallery.unlink(missing_ok=True)  # an earlier report's
    return page


def render(
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    splits: Sequence[Split] | None,
    *,
    published: dict[str, plots.Published] | None = None,
) -> str:
    """The page as HTML, in one file that opens from disk.

    Args:
        runs: One or several, each with at least one epoch.
        evaluations: One a run.
        splits: The evaluated images, one split a run; None leaves pictures out.
        published: Published curves by normalization.
    """
    sections = [
        _section(f"run{k}", name, run, evaluation, splits[k] if splits else None, published or {})
        for k, (name, run, evaluation) in enumerate(
            zip(names(runs), runs, evaluations, strict=True)
        )
    ]
    several = len(runs) > 1
    return fill(
        "page.html",
        title=f"{len(runs)} runs compared" if several else sections[0].name,
        sections=sections,
        comparison=_comparison(runs, evaluations) if several else None,
    )


@dataclass(frozen=True)
class Tile:
    """A figure that stands large."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Section:
    """What the page says of one run. `mistakes` is None where pictures are left out."""

    name: str
    about: str
    tiles: Sequence[Tile]
    findings: Sequence[str]
    loss: Markup
    accuracy: Markup
    curves_note: str
    mistakes: Sequence[Picture] | None
    classes: Markup
    confusion: Markup
    pairs: Table | None
    layers: Table
    layers_note: str
    settings: Sequence[tuple[str, str, bool]]
    machines: Table


@dataclass(frozen=True)
class Comparison:
    """What the page says of several runs together; `classes…` where they share their classes."""

    about: str
    runs: Table
    findings: Sequence[str]
    loss: Markup
    accuracy: Markup
    classes: Markup | None
    class_table: Table | None


def _section(
    key: str,
    name: str,
    run: Run,
    evaluation: Evaluation,
    split: Split | None,
    published: dict[str, plots.Published],
) -> Section:
    curve = _published(run, published)
    last, first = run.last, run.epochs[0]
    measured = ACCURACY[run.split]
    images = images_measured(run)
    accuracy = percent(last.accuracy, images)
    over = f"over {last.epoch} epochs" if last.epoch > 1 else "after one epoch"
    return Section(
        name=name,
        about=_about(run),
        tiles=_tiles(run),
        findings=analyze(run, evaluation),
        loss=inline_svg(
            plots.loss_curve([run], curve),
            f"{key}-loss",
            f"Loss {over}: {IMAGES[run.split]} from {first.loss:.2f} to {last.loss:.2f}, "
            f"training from {first.train_loss:.2f} to {last.train_loss:.2f}.",
        ),
        accuracy=inline_svg(
            plots.accuracy_curve([run], curve),
            f"{key}-accuracy",
            f"Accuracy {over}: {measured} ends at {accuracy}, "
            f"training accuracy at {percent(last.train_accuracy, run.data.train)}.",
        ),
        curves_note=_curves_note(run, [c.label for c in curve]),
        mistakes=None if split is None else _mistakes(evaluation, split),
        classes=inline_svg(
            plots.class_accuracy({name: evaluation}),
            f"{key}-classes",
            f"Accuracy of each class: {_class_list(evaluation)}.",
        ),
        confusion=inline_svg(
            plots.confusion(evaluation), f"{key}-confusion", _confusion_alt(evaluation)
        ),
        pairs=_pairs(evaluation),
        layers=Table(
            caption=run.layout,
            head=HEADINGS,
            kinds=("plain", "plain", "number", "number", "number", "number"),
            rows=run.summary.cells(),
            foot=("all", "", "", f"{run.summary.parameters:,}", f"{run.summary.macs:,}", ""),
        ),
        layers_note=(
            f"MACs: multiply-accumulates for one image. Field: receptive field, the side in pixels "
            f"of the patch that an output sees. {run.summary.running_statistics:,} running "
            "statistics are kept beside the parameters."
        ),
        settings=_settings(run),
        machines=Table(
            caption="Computed on",
            head=[_spaced(field.name) for field in dataclasses.fields(Machine)],
            kinds=["plain"] * len(dataclasses.fields(Machine)),
            rows=[[str(value) for value in dataclasses.astuple(m)] for m in run.machines],
        ),
    )


def _comparison(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> Comparison:
    called = names(runs)
    splits = dict.fromkeys(run.split for run in runs)
    of = " or ".join(IMAGES[split] for split in splits)
    ends = ", ".join(
        f"{name} {percent(run.last.accuracy, images_measured(run))}"
        for name, run in zip(called, runs, strict=True)
    )
    same = len({evaluation.classes for evaluation in evaluations}) == 1
    by_run = dict(zip(called, evaluations, strict=True))
    return Comparison(
        about=f"One line a run; accuracy on the {of}, after the last epoch.",
        runs=_runs_table(called, runs, of),
        findings=compare(runs, evaluations),
        loss=inline_svg(
            plots.loss_curve(runs),
            "all-loss",
            "Loss by epoch; last: "
            + ", ".join(f"{n} {run.last.loss:.2f}" for n, run in zip(called, runs, strict=True))
            + ".",
        ),
        accuracy=inline_svg(
            plots.accuracy_curve(runs), "all-accuracy", f"Accuracy by epoch; last: {ends}."
        ),
        classes=inline_svg(
            plots.class_accuracy(by_run),
            "all-classes",
            "Accuracy of each class in each run; the table has the figures.",
        )
        if same
        else None,
        class_table=_class_table(by_run) if same else None,
    )


def _about(run: Run) -> str:
    epochs = "1 epoch" if run.last.epoch == 1 else f"{run.last.epoch} epochs"
    held = " The test split was not read." if run.split == "holdout" else ""
    return (
        f"{run.config.network} with {_normalization(run)}, {epochs} on {run.config.dataset}, "
        f"seed {run.config.seed}. One run.{held}"
    )


def _tiles(run: Run) -> list[Tile]:
    images = images_measured(run)
    passed, best = run.first_above(TARGET), run.best
    return [
        Tile(
            f"{ACCURACY[run.split].capitalize()}, last epoch",
            percent(run.last.accuracy, images),
            f"of {images:,} images, one run",
        ),
        Tile(
            "Best epoch",
            percent(best.accuracy, images),
            f"epoch {best.epoch}, chosen on the {IMAGES[run.split]}: optimistic",
        ),
        Tile(
            f"First above {TARGET:.0%}",
            f"epoch {passed.epoch}" if passed else "never",
            f"of {run.last.epoch}",
        ),
        Tile("Parameters", f"{run.summary.parameters:,}"),
        Tile("MACs an image", _large(run.summary.macs)),
        Tile("Time", _duration(run.seconds), "training and evaluation"),
    ]


def _curves_note(run: Run, published: Sequence[str]) -> str:
    how = [*(["as augmented"] if run.recipe.augment else []), "while the weights change"]
    note = (
        f"Solid: {IMAGES[run.split]}, after each epoch. Dashed: training images, {', '.join(how)}."
    )
    return note + "".join(f" Grey: {label}." for label in published)


def _mistakes(evaluation: Evaluation, split: Split) -> list[Picture]:
    pictures = []
    for k in evaluation.mistakes():
        true = evaluation.classes[evaluation.labels[k]]
        answer = evaluation.classes[evaluation.predictions[k]]
        confidence = f"{evaluation.probabilities[k].max():.1%}"
        pictures.append(
            Picture(
                picture(split.images[k]),
                alt=f"{true}, taken for {answer}",
                title=true,
                lines=(f"→ {answer}", confidence),
            )
        )
    return pictures


def _class_list(evaluation: Evaluation) -> str:
    images = evaluation.confusion.sum(axis=1)
    return ", ".join(
        f"{name} {percent(share, count) if count else 'no images'}"
        for name, share, count in zip(
            evaluation.classes, evaluation.class_accuracy, images, strict=True
        )
    )


def _confusion_alt(evaluation: Evaluation) -> str:
    pairs = evaluation.confused_pairs(1)
    most = "no mistakes"
    if pairs:
        true, answer, count = pairs[0]
        classes = evaluation.classes
        most = f"most often {classes[true]} was taken for {classes[answer]}, {count:,} times"
    return (
        f"Confusion matrix: {evaluation.correct:,} of {len(evaluation.labels):,} images lie on the "
        f"diagonal; {most}."
    )


def _pairs(evaluation: Evaluation) -> Table | None:
    pairs = evaluation.confused_pairs(5)
    if not pairs:
        return None
    return Table(
        caption="Most frequent mistakes",
        head=("true class", "answer", "images", "the other way"),
        kinds=("name", "name", "number", "number"),
        rows=[
            (
                evaluation.classes[true],
                evaluation.classes[answer],
                f"{count:,}",
                f"{evaluation.confusion[answer, true]:,}",
            )
            for true, answer, count in pairs
        ],
    )


def _settings(run: Run) -> list[tuple[str, str, bool]]:
    """Name, value, whether it is code: what was asked for, the recipe in force, the data."""
    recipe = dataclasses.asdict(run.recipe)
    order = [*RunConfig.__annotations__, *DataConfig.__annotations__]
    asked = {name: getattr(run.config, name) for name in order if name not in recipe}
    numbers = {"mean": run.data.mean, "standard deviation": run.data.std}
    return [
        *((_spaced(name), _shown(value), False) for name, value in asked.items()),
        *((_spaced(k), _shown(v), False) for k, v in recipe.items()),
        ("layout", run.layout, True),
        (
            "images",
            f"{run.data.train:,} training, "
            + (f"{run.data.holdout:,} held out, " if run.data.holdout else "")
            + f"{run.data.test:,} test",
            False,
        ),
        *((name, ", ".join(f"{v:.4f}" for v in values), False) for name, values in numbers.items()),
        ("data fingerprint", run.data.fingerprint, True),
        *(("note", note, False) for note in run.data.notes),
    ]


def _runs_table(called: Sequence[str], runs: Sequence[Run], of: str) -> Table:
    rows = []
    for name, run in zip(called, runs, strict=True):
        images, passed = images_measured(run), run.first_above(TARGET)
        rows.append(
            (
                name,
                _normalization(run),
                f"{run.summary.parameters:,}",
                f"{run.summary.macs:,}",
                percent(run.last.accuracy, images),
                f"{percent(run.best.accuracy, images)} ({run.best.epoch})",
                str(passed.epoch) if passed else "never",
                _duration(run.seconds),
            )
        )
    return Table(
        caption=f"Best: highest of all epochs, chosen on the {of} and so optimistic (its epoch)",
        head=(
            *("run", "normalization", "parameters", "MACs", "last", "best"),
            *(f"first above {TARGET:.0%}", "time"),
        ),
        kinds=("name", "name", *["number"] * 6),
        rows=rows,
    )


def _class_table(evaluations: dict[str, Evaluation]) -> Table:
    first = next(iter(evaluations.values()))
    return Table(
        caption="Share of each class's images answered rightly",
        head=("class", *evaluations),
        kinds=("name", *("number" for _ in evaluations)),
        rows=[
            (
                name,
                *(
                    percent(e.class_accuracy[k], images) if images else "–"
                    for e in evaluations.values()
                    for images in (int(e.confusion[k].sum()),)
                ),
            )
            for k, name in enumerate(first.classes)
        ],
    )


def _figures(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], published: dict[str, plots.Published]
) -> dict[str, Figure]:
    figures = {
        "curves": plots.curves(runs, _published(runs[0], published) if len(runs) == 1 else [])
    }
    if len({evaluation.classes for evaluation in evaluations}) == 1:
        by_run = dict(zip(names(runs), evaluations, strict=True))
        figures["class-accuracy"] = plots.class_accuracy(by_run)
    if len(runs) == 1:
        figures["confusion"] = plots.confusion(evaluations[0])
    return figures


def _published(run: Run, curves: dict[str, plots.Published]) -> list[plots.Published]:
    """The published curve of a run's normalization: `seed-gn` is the published gn."""
    norm = run.config.network.removeprefix("seed-")
    if norm not in curves:
        norm = run.config.norm.partition("=")[0]
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


def _normalization(run: Run) -> str:
    own = Counter(b.norm for b in layout.parse(run.layout) if b.norm is not None)
    blocks = ", ".join(f"{name} in {n} block{'s' * (n > 1)}" for name, n in own.items())
    return f"{run.config.norm} ({blocks})" if own else run.config.norm


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", then ".join(map(str, value)) or "none"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _large(number: int) -> str:
    for unit, size in (("billion", 10**9), ("million", 10**6)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number:,}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
