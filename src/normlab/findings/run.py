"""Conclusions in words, each drawn from a number; nothing is said where the numbers say nothing.

Sampling errors are of the choice of images: what would change had other images of the same kind
been drawn. How much another seed would change is not in them; only repeated runs show that.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np

from normlab import notation
from normlab.errors import UsageError
from normlab.inference.evaluate import Evaluation
from normlab.runs.run import Run
from normlab.wording import listed, percent, points, setting_value, spaced

TARGET = 0.70  # the assignment's accuracy
OVERFITTING = 0.05  # a gap from which one speaks of overfitting without "slight"
TREND = 5  # epochs; by chance, five numbers stand in falling order once in 120 times
IMAGES = {"train": "training images", "holdout": "held-out images", "test": "test images"}
ACCURACY = {"train": "training accuracy", "holdout": "held-out accuracy", "test": "test accuracy"}

_Z = NormalDist().inv_cdf(0.975)  # of 95% intervals


def analyze(run: Run, evaluation: Evaluation) -> list[str]:
    """What a run's numbers say, one sentence or two to a finding.

    Args:
        run: A run with at least one epoch.
        evaluation: Of its network, on the split that its curve is measured on.

    Raises:
        ValueError: The evaluation is of another split, or the run has training images alone.
    """
    if evaluation.split != run.split:
        raise ValueError(f"the curve is of {run.split}, the evaluation of {evaluation.split}")
    findings = (_accuracy, _again, _target, _best, _chance, _gap, _trend, _classes, _pair)
    return [said for finding in findings if (said := finding(run, evaluation))]


def compare(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[str]:
    """What several runs' numbers say beside one another, and what they cannot say.

    Args:
        runs: At least two, each with at least one epoch.
        evaluations: One a run, on the split that its curve is measured on.
    """
    called = names(runs)
    alike = _grouped(runs, _images)
    compared = [group for group in alike if len(group) > 1]
    said = []
    if len(alike) > 1:
        groups = ", and among ".join(listed([called[k] for k in group]) for group in compared)
        said.append(
            f"Not all runs are measured on the same images: accuracies compare only among {groups}."
            if compared
            else f"{listed(called)} are measured on different images: their accuracies do not "
            "compare."
        )
    for group in compared:
        of = f" of {listed([called[k] for k in group])}" if len(alike) > 1 else ""
        said += _ranked([(called[k], runs[k], evaluations[k]) for k in group], of)
    said += _seeds(called, runs)
    said.append(_settings(runs))
    hardest = [_extremes(evaluation) for evaluation in evaluations]
    worst = {e.classes[pair[0]] for e, pair in zip(evaluations, hardest, strict=True) if pair}
    if all(hardest) and len(worst) == 1:
        said.append(f"The hardest class is the same in all: {worst.pop()}.")
    return said


def names(runs: Sequence[Run]) -> list[str]:
    """Names that tell runs apart: the folders', with as many of those above as it takes.

    Raises:
        UsageError: There is no run, or one twice.
    """
    if not runs:
        raise UsageError("expected one run or more")
    paths = [run.path.resolve().parts for run in runs]
    ends = [[path[-k:] for k in range(1, len(path) + 1)] for path in paths]
    given = Counter(end for own in ends for end in own)
    for run, path in zip(runs[::-1], paths[::-1], strict=True):  # of two the later is named
        if given[path] > 1:
            raise UsageError(f"the run {run.path} is given twice: leave one out")
    return [str(Path(*next(end for end in own if given[end] == 1))) for own in ends]


def images_measured(run: Run) -> int:
    """How many images its accuracy is measured on; ValueError where there are none."""
    if run.split == "train":
        raise ValueError(f"{run.name} has no images to be measured on but those of its training")
    return run.data.holdout or run.data.test


def interval(right: int, images: int) -> tuple[float, float]:
    """The 95% interval of a share of images, by Wilson's score (1927, JASA 22)."""
    share, z2 = right / images, _Z**2
    center = (share + z2 / (2 * images)) / (1 + z2 / images)
    half = _Z / (1 + z2 / images) * sqrt(share * (1 - share) / images + z2 / (4 * images**2))
    return max(0.0, center - half), min(1.0, center + half)


def _accuracy(run: Run, _: Evaluation) -> str:
    last, images = run.last, images_measured(run)
    low, high = interval(round(last.accuracy * images), images)
    epochs = "the only epoch" if last.epoch == 1 else f"the last of {last.epoch} epochs"
    untouched = " The test split was not read." if run.split == "holdout" else ""
    return (
        f"One run: {percent(last.accuracy, images)} of the {images:,} {IMAGES[run.split]} are "
        f"answered rightly after {epochs} (95% sampling interval {percent(low, images)} to "
        f"{percent(high, images)}).{untouched}"
    )


def _again(run: Run, evaluation: Evaluation) -> str | None:
    images = len(evaluation.labels)
    now = percent(evaluation.accuracy, images)
    if evaluation.tta:
        return f"Averaged over test-time augmentation ({evaluation.tta}) it is {now}."
    if now == percent(run.last.accuracy, images):
        return None
    return (
        f"Evaluated again, the same weights got {now}: "
        "the last digits differ from machine to machine."
    )


def _target(run: Run, _: Evaluation) -> str:
    images = images_measured(run)
    if passed := run.first_above(TARGET):
        return (
            f"Accuracy first passed {TARGET:.0%} in epoch {passed.epoch} "
            f"({percent(passed.accuracy, images)})."
        )
    best = run.best
    return (
        f"No epoch passed {TARGET:.0%}: the highest is {percent(best.accuracy, images)}, "
        f"in epoch {best.epoch}."
    )


def _best(run: Run, _: Evaluation) -> str | None:
    best, last = run.best, run.last
    if best.accuracy == last.accuracy:
        return None
    return (
        f"The best epoch is {best.epoch} with {percent(best.accuracy, images_measured(run))}. "
        f"It is chosen on the {IMAGES[run.split]} it is measured on, and so optimistic: "
        "the last epoch is the one to report."
    )


def _chance(run: Run, evaluation: Evaluation) -> str | None:
    """Whether the network does better than the most frequent class, or is far from fitting."""
    images = images_measured(run)
    counts = np.bincount(evaluation.labels)
    if np.count_nonzero(counts) < 2:
        return None
    chance = counts.max() / counts.sum()
    train, last = run.last.train_accuracy, run.last.accuracy
    if last <= chance + _Z * sqrt(_variance(last, images)):
        return (
            f"Always answering with the most frequent class would get {percent(chance, images)}: "
            "the network does not clearly do better."
        )
    if max(train, last) < (1 + chance) / 2 and train - last < OVERFITTING:
        return (
            f"It underfits: even of the training images it gets only "
            f"{percent(train, run.data.train)}, less than half way from the most frequent class's "
            f"share ({percent(chance, images)}) to all. More parameters, more epochs or another "
            "learning rate may help."
        )
    return None


def _gap(run: Run, _: Evaluation) -> str:
    train, last, images = run.last.train_accuracy, run.last.accuracy, images_measured(run)
    error = _Z * sqrt(_variance(train, run.data.train) + _variance(last, images))
    measured, trained = ACCURACY[run.split], percent(train, run.data.train)
    gap = train - last
    if abs(gap) <= error:
        return (
            f"Training accuracy ({trained}) and {measured} differ by less than sampling error "
            f"(±{points(error, images)}): the gap says nothing."
        )
    if gap < 0:
        hindered = [
            *(["on augmented images"] if run.recipe.augment else []),
            *(["with dropout"] if run.recipe.dropout else []),
            "while the weights still change",
        ]
        return (
            f"{measured.capitalize()} is {points(-gap, images)} above training accuracy "
            f"({trained}). That is no sign of anything wrong: training accuracy is measured "
            f"{listed(hindered)}."
        )
    above = f"Training accuracy ({trained}) is {points(gap, images)} above {measured}"
    if gap < OVERFITTING:
        return f"{above}, more than sampling error (±{points(error, images)}): slight overfitting."
    return f"{above}: overfitting. More augmentation, more dropout or a smaller network may help."


def _trend(run: Run, _: Evaluation) -> str | None:
    """Only where each of the last epochs went the same way, by at least 1% in all."""
    last = run.epochs[-TREND:]
    loss = [e.loss for e in last]
    if len(last) < TREND:
        return None
    each = f"in each of the last {TREND} epochs, from {loss[0]:.4f} to {loss[-1]:.4f}"
    of = IMAGES[run.split]
    if all(b < a for a, b in pairwise(loss)) and loss[-1] < 0.99 * loss[0]:
        return f"The loss on the {of} was still falling {each}: more epochs may help."
    if (
        all(b > a for a, b in pairwise(loss))
        and loss[-1] > 1.01 * loss[0]
        and last[-1].train_loss < last[0].train_loss
    ):
        return (
            f"The loss on the {of} was rising {each}, while the training loss fell: overfitting, "
            "fewer epochs may do."
        )
    return None


def _classes(run: Run, evaluation: Evaluation) -> str | None:
    pair = _extremes(evaluation)
    if pair is None:
        return None
    counts = evaluation.confusion.sum(axis=1)
    hard, easy = (
        f"{evaluation.classes[k]} ({percent(evaluation.class_accuracy[k], counts[k])})"
        for k in pair
    )
    return (
        f"The hardest class is {hard}, the easiest {easy}; "
        f"the difference is larger than sampling error. All {IMAGES[run.split]} are counted."
    )


def _pair(_: Run, evaluation: Evaluation) -> str | None:
    errors = np.triu(evaluation.confusion + evaluation.confusion.T, k=1)
    most = errors.max()
    if most < 2 or np.count_nonzero(errors == most) > 1:
        return None
    a, b = divmod(int(errors.argmax()), len(evaluation.classes))
    wrong = len(evaluation.labels) - evaluation.correct
    there, back = evaluation.confusion[a, b], evaluation.confusion[b, a]
    one, other = evaluation.classes[a], evaluation.classes[b]
    return (
        f"The most confused pair is {one} and {other}, {most:,} of the {wrong:,} mistakes: "
        f"{one} is taken for {other} {_in_images(there)}, {other} for {one} {_in_images(back)}."
    )


def _ranked(group: Sequence[tuple[str, Run, Evaluation]], of: str) -> list[str]:
    """The highest accuracy on the same images, and how far it is ahead of the others."""
    group = sorted(group, key=lambda one: -one[1].last.accuracy)
    first, run, evaluation = group[0]
    top, images = run.last.accuracy, images_measured(run)
    leaders = [name for name, run, _ in group if run.last.accuracy == top]
    said = [f"Highest last accuracy{of}: {listed(leaders)}, {percent(top, images)}."]
    for other, run, answers in group[len(leaders) :]:
        difference = top - run.last.accuracy
        error = _paired_error(evaluation, answers)
        said.append(
            f"{first} is {points(difference, images)} ahead of {other}, "
            f"{'within' if difference <= error else 'more than'} the sampling error on the same "
            f"{images:,} images (±{points(error, images)}, 95%)."
        )
    return said


def _paired_error(one: Evaluation, other: Evaluation) -> float:
    """Half of the 95% interval of a difference of accuracies on the same images.

    Half an image is added to each of the four outcomes, so that few images are not taken for
    certainty (Agresti and Min, 2005, Statistics in Medicine 24).
    """
    right = one.predictions == one.labels, other.predictions == other.labels
    images = len(one.labels) + 2
    only_one = ((right[0] & ~right[1]).sum() + 0.5) / images
    only_other = ((right[1] & ~right[0]).sum() + 0.5) / images
    return float(_Z * sqrt((only_one + only_other - (only_one - only_other) ** 2) / images))


def _grouped(runs: Sequence[Run], key: Callable[[Run], object]) -> list[list[int]]:
    """The places of runs that have the same key."""
    groups: dict[object, list[int]] = {}
    for k, run in enumerate(runs):
        groups.setdefault(key(run), []).append(k)
    return [*groups.values()]


def _images(run: Run) -> object:
    """What two runs have in common that are measured on the same images."""
    drawn = run.config.split_seed if run.data.holdout else None
    return run.data.fingerprint, run.data.holdout, drawn


def _arm(run: Run) -> object:
    """What two runs have in common that differ in the seed at most."""
    return run.layout, run.config.norm, run.recipe, run.data, run.config.split_seed


def _seeds(called: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """What seeds change: measured where runs repeat one another, else not known."""
    said, single = [], []
    for arm in _grouped(runs, _arm):
        if len({runs[k].config.seed for k in arm}) == 1:
            single += [called[k] for k in arm]
            continue
        accuracies = [runs[k].last.accuracy for k in arm]
        spread = points(max(accuracies) - min(accuracies), images_measured(runs[arm[0]]))
        said.append(
            f"{listed([called[k] for k in arm])} differ only in the seed; their last "
            f"accuracies lie {spread} apart. A difference of this size is no sign of a better "
            "normalization."
        )
    if single:
        this = "This is one run each"
        if said:
            this = f"{listed(single)} {'is one run' if len(single) == 1 else 'are one run each'}"
        said.append(
            f"{this}: how much another seed would change is in none of these errors. "
            "Only repeats with several seeds can put a difference down to the normalization."
        )
    return said


def _settings(runs: Sequence[Run]) -> str:
    """What the runs differ in beside their normalization."""
    differ = []
    lines = [notation.parse(run.layout) for run in runs]
    if len({tuple(dataclasses.replace(block, norm=None) for block in line) for line in lines}) > 1:
        parameters = listed([f"{n:,}" for n in dict.fromkeys(r.summary.parameters for r in runs)])
        differ.append(f"the layout ({parameters} parameters)")
    settings = [
        *(("recipe", field.name) for field in dataclasses.fields(runs[0].recipe)),
        ("config", "budget"),
        ("config", "holdout"),
        ("config", "split_seed"),
        ("config", "train_images"),
        ("config", "label_noise"),
    ]
    for where, name in settings:
        values = list(dict.fromkeys(getattr(getattr(run, where), name) for run in runs))
        if len(values) > 1:
            differ.append(f"{spaced(name)} ({listed([setting_value(v) for v in values])})")
    if len({run.data.fingerprint for run in runs}) > 1:
        differ.append("the data")
    seeds = len({run.config.seed for run in runs}) > 1
    norms = {
        (run.config.norm, *(block.norm for block in line if block.norm))
        for run, line in zip(runs, lines, strict=True)
    }
    if differ and len(norms) > 1:
        return (
            f"Beside the normalization{' and the seed' if seeds else ''} the runs differ in "
            f"{listed(differ)}: a difference cannot be put down to the normalization alone."
        )
    same = [*(["the normalization"] if len(norms) > 1 else []), *(["the seed"] if seeds else [])]
    if same or differ:
        return f"The runs differ in nothing but {listed([*same, *differ])}."
    return "The runs differ in no setting."


def _extremes(evaluation: Evaluation) -> tuple[int, int] | None:
    """The hardest and the easiest class, where their difference exceeds sampling error.

    They are the extremes of many: the error is Bonferroni's, for all pairs of classes.
    """
    accuracy, counts = evaluation.class_accuracy, evaluation.confusion.sum(axis=1)
    present = np.count_nonzero(counts)
    if present < 2:
        return None
    hard, easy = int(np.nanargmin(accuracy)), int(np.nanargmax(accuracy))
    z = NormalDist().inv_cdf(1 - 0.05 / (present * (present - 1)))
    error = z * sqrt(sum(_variance(accuracy[k], counts[k]) for k in (hard, easy)))
    return (hard, easy) if accuracy[easy] - accuracy[hard] > error else None


def _variance(share: float, images: int) -> float:
    """A share's binomial variance; one right and one wrong image are added, so it is never 0."""
    smoothed = (share * images + 1) / (images + 2)
    return float(smoothed * (1 - smoothed) / images)


def _in_images(count: int) -> str:
    return {0: "in none", 1: "in one image"}.get(count, f"in {count:,} images")
