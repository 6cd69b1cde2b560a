"""The figures of a run's page with their words; what the page and a notebook share is in `plots`.

A new figure is one entry in a list below.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure

from normlab.data.dataset import Split
from normlab.findings.run import ACCURACY, IMAGES, images_measured
from normlab.inference.evaluate import Evaluation
from normlab.report import plots
from normlab.report.rendering import PageFigure
from normlab.runs.run import Run
from normlab.runs.several import names
from normlab.table import Table
from normlab.wording import counted, percent


def curves(key: str, run: Run, published: Sequence[plots.Published]) -> list[PageFigure]:
    """Loss and accuracy by epoch; `key` is the prefix of the figures' names."""
    first, last = run.epochs[0], run.last
    over = f"over {last.epoch} epochs" if last.epoch > 1 else "after one epoch"
    return [
        PageFigure(
            name=f"{key}-loss",
            draw=lambda: plots.curves([run], published, quantities=["loss"]),
            alt=f"Loss {over}: {IMAGES[run.split]} from {first.loss:.2f} to {last.loss:.2f}, "
            f"training from {first.train_loss:.2f} to {last.train_loss:.2f}.",
        ),
        PageFigure(
            name=f"{key}-accuracy",
            draw=lambda: plots.curves([run], published, quantities=["accuracy"]),
            alt=f"Accuracy {over}: {ACCURACY[run.split]} ends at "
            f"{percent(last.accuracy, images_measured(run))}, "
            f"training accuracy at {percent(last.train_accuracy, run.data.train)}.",
        ),
    ]


def log(key: str, run: Run) -> PageFigure:
    """The training log: the learning rate as a curve, and a table of all epochs."""
    rates = plots.learning_rates(run)
    return PageFigure(
        name=f"{key}-learning-rate",
        draw=lambda: plots.learning_rate(run),
        alt=f"Learning rate over {counted(run.last.epoch, 'epoch')}: {_course(rates)}.",
        title="Training log",
        table=_epochs(run),
    )


def _course(rates: Sequence[float]) -> str:
    """How the learning rate changes, in words."""
    first, highest, last = rates[0], max(rates), rates[-1]
    if min(rates) == highest:
        return f"{first:.3g} throughout"
    course = [f"from {first:.3g}"]
    course += [f"up to {highest:.3g}"] if highest > first else []
    course += [f"down to {last:.3g}"] if last < highest else []
    return f"{course[0]} {' and '.join(course[1:])}"


def _epochs(run: Run) -> Table:
    """One row per epoch. What is measured on training images only is not repeated."""
    images, measured = images_measured(run), run.split != "train"
    return Table(
        caption="The learning rate is that of the epoch's last step",
        head=(
            *("epoch", "training loss", "training accuracy"),
            *([f"{run.split} loss", ACCURACY[run.split]] if measured else []),
            *("learning rate", "seconds"),
        ),
        kinds=("plain", *["number"] * (6 if measured else 4)),
        rows=[
            (
                str(epoch.epoch),
                f"{epoch.train_loss:.4f}",
                percent(epoch.train_accuracy, run.data.train),
                *([f"{epoch.loss:.4f}", percent(epoch.accuracy, images)] if measured else []),
                f"{epoch.learning_rate:.3g}",
                f"{epoch.seconds:.1f}",
            )
            for epoch in run.epochs
        ],
    )


def classes(key: str, name: str, evaluation: Evaluation) -> list[PageFigure]:
    """Accuracy and confusion of the classes."""
    return [
        PageFigure(
            name=f"{key}-classes",
            draw=lambda: plots.class_accuracy({name: evaluation}),
            alt=f"Accuracy of each class: {_class_list(evaluation)}.",
            title="Accuracy of each class",
            table=_confused_pairs(evaluation),
        ),
        PageFigure(
            name=f"{key}-confusion",
            draw=lambda: plots.confusion(evaluation),
            alt=_confusion_alt(evaluation),
            title="Confusion",
            caption="Rows: true class. Columns: predicted class. The stronger the colour, the "
            "larger the share of the row.",
        ),
    ]


def curves_compared(runs: Sequence[Run]) -> list[PageFigure]:
    """Loss and accuracy of several runs by epoch."""
    named = [*zip(names(runs), runs, strict=True)]
    losses = ", ".join(f"{name} {run.last.loss:.2f}" for name, run in named)
    accuracies = ", ".join(
        f"{name} {percent(run.last.accuracy, images_measured(run))}" for name, run in named
    )
    return [
        PageFigure(
            name="all-loss",
            draw=lambda: plots.curves(runs, quantities=["loss"]),
            alt=f"Loss by epoch; last: {losses}.",
        ),
        PageFigure(
            name="all-accuracy",
            draw=lambda: plots.curves(runs, quantities=["accuracy"]),
            alt=f"Accuracy by epoch; last: {accuracies}.",
        ),
    ]


def classes_compared(evaluations: dict[str, Evaluation]) -> list[PageFigure]:
    """Accuracy of each class in several runs, by the runs' names; none if their classes differ."""
    if len({evaluation.classes for evaluation in evaluations.values()}) > 1:
        return []
    return [
        PageFigure(
            name="all-classes",
            draw=lambda: plots.class_accuracy(evaluations),
            alt="Accuracy of each class in each run; the table has the numbers.",
            title="Accuracy of each class",
            table=_class_table(evaluations),
        )
    ]


def files(
    runs: Sequence[Run],
    evaluations: Sequence[Evaluation],
    splits: Sequence[Split] | None,
    published: Sequence[Sequence[plots.Published]],
) -> dict[str, Figure]:
    """The figures that are written beside the page, by name. Arguments: see `run_page.render`."""
    single = len(runs) == 1
    figures: dict[str, Figure] = {"curves": plots.curves(runs, published[0] if single else ())}
    if len({evaluation.classes for evaluation in evaluations}) == 1:
        by_run = dict(zip(names(runs), evaluations, strict=True))
        figures["class-accuracy"] = plots.class_accuracy(by_run)
    if single:
        figures["confusion"] = plots.confusion(evaluations[0])
        if splits:
            figures["mistakes"] = plots.mistakes(evaluations[0], splits[0])
    return figures


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
        true, predicted, count = pairs[0]
        names = evaluation.classes
        most = f"most often {names[true]} was taken for {names[predicted]}, {count:,} times"
    return (
        f"Confusion matrix: {evaluation.correct:,} of {len(evaluation.labels):,} images lie on the "
        f"diagonal; {most}."
    )


def _confused_pairs(evaluation: Evaluation) -> Table | None:
    pairs = evaluation.confused_pairs(5)
    if not pairs:
        return None
    return Table(
        caption="Most frequent mistakes",
        head=("true class", "predicted", "images", "the reverse"),
        kinds=("name", "name", "number", "number"),
        rows=[
            (
                evaluation.classes[true],
                evaluation.classes[predicted],
                f"{count:,}",
                f"{evaluation.confusion[predicted, true]:,}",
            )
            for true, predicted, count in pairs
        ],
    )


def _class_table(evaluations: dict[str, Evaluation]) -> Table:
    shares = [[row[-1] for row in e.table.rows] for e in evaluations.values()]
    names = next(iter(evaluations.values())).classes
    return Table(
        caption="Share of each class's images that are classified correctly",
        head=("class", *plots.run_labels([*evaluations])),
        kinds=("name", *("number" for _ in evaluations)),
        rows=[*zip(names, *shares, strict=True)],
    )
