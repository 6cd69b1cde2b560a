"""The page about a run, or about several beside one another."""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from normlab import notation
from normlab.config import DataConfig, RunConfig
from normlab.data.dataset import Split
from normlab.findings.run import ACCURACY, IMAGES, TARGET, analyze, compare, images_measured, names
from normlab.inference.evaluate import Evaluation
from normlab.report import plots
from normlab.report.figures import inline_svg, picture
from normlab.report.html import Picture, fill
from normlab.runs.run import Machine, Run
from normlab.table import Table
from normlab.wording import duration, large_number, percent, setting_value, spaced


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
        evaluations: One a run.
        splits: The evaluated images, one split a run; None leaves pictures out.
        published: Published curves to draw behind a run's own, for each run.
        maps: For each run what `normlab.explanation.class_maps` gives, or why there are none; None
            leaves them out.
    """
    called = names(runs)
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
        for k, name in enumerate(called)
    ]
    several = len(runs) > 1
    return fill(
        "page.html",
        title=f"{len(runs)} runs compared" if several else called[0],
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
    """What the page says of one run. `mistakes` is None where pictures are left out."""
    last, first = run.last, run.epochs[0]
    measured = ACCURACY[run.split]
    images = images_measured(run)
    accuracy = percent(last.accuracy, images)
    over = f"over {last.epoch} epochs" if last.epoch > 1 else "after one epoch"
    return {
        "name": name,
        "about": _about(run),
        "tiles": _tiles(run),
        "findings": analyze(run, evaluation),
        "loss": inline_svg(
            plots.curves([run], published, quantities=["loss"]),
            f"{key}-loss",
            f"Loss {over}: {IMAGES[run.split]} from {first.loss:.2f} to {last.loss:.2f}, "
            f"training from {first.train_loss:.2f} to {last.train_loss:.2f}.",
        ),
        "accuracy": inline_svg(
            plots.curves([run], published, quantities=["accuracy"]),
            f"{key}-accuracy",
            f"Accuracy {over}: {measured} ends at {accuracy}, "
            f"training accuracy at {percent(last.train_accuracy, run.data.train)}.",
        ),
        "curves_note": _curves_note(run, published),
        "mistakes": None if split is None else _mistakes(evaluation, split),
        "classes": inline_svg(
            plots.class_accuracy({name: evaluation}),
            f"{key}-classes",
            f"Accuracy of each class: {_class_list(evaluation)}.",
        ),
        "confusion": inline_svg(
            plots.confusion(evaluation), f"{key}-confusion", _confusion_alt(evaluation)
        ),
        "pairs": _pairs(evaluation),
        "maps": maps if maps is None or isinstance(maps, str) else _maps(maps, evaluation.classes),
        "layers": run.summary.table,
        "layers_note": run.summary.note,
        "settings": _settings(run),
        "machines": Table(
            caption="Computed on",
            head=[spaced(field.name) for field in dataclasses.fields(Machine)],
            kinds=["plain"] * len(dataclasses.fields(Machine)),
            rows=[[str(value) for value in dataclasses.astuple(m)] for m in run.machines],
        ),
    }


def _comparison(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> dict[str, object]:
    """What the page says of several runs together; `classes…` where they share their classes."""
    called = names(runs)
    ends = ", ".join(
        f"{name} {percent(run.last.accuracy, images_measured(run))}"
        for name, run in zip(called, runs, strict=True)
    )
    same = len({evaluation.classes for evaluation in evaluations}) == 1
    by_run = dict(zip(called, evaluations, strict=True))
    return {
        "about": "A row a run; last: accuracy after the last epoch.",
        "runs": runs_table(runs),
        "findings": compare(runs, evaluations),
        "loss": inline_svg(
            plots.curves(runs, quantities=["loss"]),
            "all-loss",
            "Loss by epoch; last: "
            + ", ".join(f"{n} {run.last.loss:.2f}" for n, run in zip(called, runs, strict=True))
            + ".",
        ),
        "accuracy": inline_svg(
            plots.curves(runs, quantities=["accuracy"]),
            "all-accuracy",
            f"Accuracy by epoch; last: {ends}.",
        ),
        "classes": inline_svg(
            plots.class_accuracy(by_run),
            "all-classes",
            "Accuracy of each class in each run; the table has the figures.",
        )
        if same
        else None,
        "class_table": _class_table(by_run) if same else None,
    }


def _about(run: Run) -> str:
    epochs = "1 epoch" if run.last.epoch == 1 else f"{run.last.epoch} epochs"
    held = " The test split was not read." if run.split == "holdout" else ""
    return (
        f"{run.config.network} with {normalization(run)}, {epochs} on {run.config.dataset}, "
        f"seed {run.config.seed}. One run.{held}"
    )


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """The figures that stand large: label, value, note."""
    images = images_measured(run)
    passed, best = run.first_above(TARGET), run.best
    return [
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
        (
            f"First above {TARGET:.0%}",
            f"epoch {passed.epoch}" if passed else "never",
            f"of {run.last.epoch}",
        ),
        ("Parameters", f"{run.summary.parameters:,}", ""),
        ("MACs an image", large_number(run.summary.macs), ""),
        ("Time", duration(run.seconds), "training and evaluation"),
    ]


def _curves_note(run: Run, published: Sequence[plots.Published]) -> str:
    how = [*(["as augmented"] if run.recipe.augment else []), "while the weights change"]
    note = (
        f"Solid: {IMAGES[run.split]}, after each epoch. Dashed: training images, {', '.join(how)}."
    )
    if run.recipe.label_smoothing:
        note += " The training loss is that of smoothed labels, higher than that of plain ones."
    return note + "".join(f" Grey: {curve.label}." for curve in published)


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


def _maps(maps: NDArray[np.float32], classes: Sequence[str]) -> list[Picture]:
    """The classes' heat maps, each with where it is brightest."""
    pictures = []
    for name, values, colored in zip(classes, maps, plots.colored(maps), strict=True):
        if np.isnan(values).any():
            continue  # no images
        where = _place(values)
        alt = f"{name}: brightest {where}"
        pictures.append(Picture(picture(colored), alt=alt, title=name, lines=(where,)))
    return pictures


def _place(values: NDArray[np.float32]) -> str:
    """Where a map is highest, in words."""
    row, column = np.unravel_index(values.argmax(), values.shape)
    across = ("left", "centre", "right")[3 * int(column) // values.shape[1]]
    down = ("top", "middle", "bottom")[3 * int(row) // values.shape[0]]
    return "at the centre" if (down, across) == ("middle", "centre") else f"{down} {across}"


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
    data_fields = DataConfig.__annotations__
    own_fields = [name for name in RunConfig.RECORDED if name not in data_fields]
    order = [*own_fields, *data_fields]
    asked = {name: getattr(run.config, name) for name in order if name not in recipe}
    numbers = {"mean": run.data.mean, "standard deviation": run.data.std}
    return [
        *((spaced(name), setting_value(value), False) for name, value in asked.items()),
        *((spaced(k), setting_value(v), False) for k, v in recipe.items()),
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


def runs_table(runs: Sequence[Run]) -> Table:
    """Runs beside one another: parameters, MACs, best and last accuracy, time. A row a run."""
    of = " or ".join(IMAGES[split] for split in dict.fromkeys(run.split for run in runs))
    rows = []
    for name, run in zip(names(runs), runs, strict=True):
        images, passed = images_measured(run), run.first_above(TARGET)
        rows.append(
            (
                name,
                normalization(run),
                f"{run.summary.parameters:,}",
                f"{run.summary.macs:,}",
                percent(run.last.accuracy, images),
                f"{percent(run.best.accuracy, images)} ({run.best.epoch})",
                str(passed.epoch) if passed else "never",
                duration(run.seconds),
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
    shares = [[row[-1] for row in e.table.rows] for e in evaluations.values()]
    classes = next(iter(evaluations.values())).classes
    return Table(
        caption="Share of each class's images answered rightly",
        head=("class", *evaluations),
        kinds=("name", *("number" for _ in evaluations)),
        rows=[*zip(classes, *shares, strict=True)],
    )


def normalization(run: Run) -> str:
    """A run's normalization, and the blocks that have another."""
    own = Counter(b.norm for b in notation.parse(run.layout) if b.norm is not None)
    blocks = ", ".join(f"{name} in {n} block{'s' * (n > 1)}" for name, n in own.items())
    return f"{run.config.norm} ({blocks})" if own else run.config.norm
