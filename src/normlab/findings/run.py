"""Findings about runs as sentences, each derived from a number. Without evidence, no sentence.

Sampling errors are those of the choice of images: how much a result would change with other images
of the same kind. They do not include the effect of the seed; only repeated runs show that.
"""

import dataclasses
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from normlab import notation
from normlab.errors import RunError
from normlab.findings.statistics import proportion_interval
from normlab.inference.evaluate import Evaluation
from normlab.runs.run import Run
from normlab.runs.several import names
from normlab.wording import SPLIT_WORDS, counted, listed, percent, points, setting_value, spaced

TARGET = 0.70  # the accuracy that the assignment asks for
OVERFITTING = 0.05  # a smaller gap is "slight" overfitting
TREND = 5  # epochs; by chance, five numbers are in falling order once in 120 times
ANNEALED = 0.05  # of the highest learning rate; below, it has fallen to 0
IMAGES = {split: f"{word} images" for split, word in SPLIT_WORDS.items()}
ACCURACY = {split: f"{word} accuracy" for split, word in SPLIT_WORDS.items()}

_CONFIGURED = (  # what runs may differ in beside their recipes, in the order it is told
    *("activation", "budget", "ram", "flash", "macs", "board"),
    *("holdout", "split_seed", "train_images", "label_noise"),
    *("precision", "recalibrate", "branches", "balance"),
    *("start_from", "teacher", "teacher_weight", "teacher_temperature"),
)
_Z = NormalDist().inv_cdf(0.975)  # of 95% intervals


def analyze(run: Run, evaluation: Evaluation) -> list[str]:
    """The findings about one run, one or two sentences each.

    Args:
        run: A run with at least one epoch.
        evaluation: The evaluation of its network on the split of its curve.

    Raises:
        ValueError: The evaluation is of another split.
        RunError: The run has training images only.
    """
    if evaluation.split != run.split:
        raise ValueError(f"the curve is of {run.split}, the evaluation of {evaluation.split}")
    findings = (
        _balanced_accuracy,
        _accuracy,
        _accuracy_again,
        _target,
        _best_epoch,
        _chance_or_underfitting,
        _gap,
        _trend,
        _extreme_classes,
        _confused_pair,
    )
    return [text for finding in findings if (text := finding(run, evaluation))]


def compare(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[str]:
    """The findings about several runs together, and what they cannot show.

    Args:
        runs: At least two, each with at least one epoch.
        evaluations: One per run, on the split of its curve.

    Raises:
        ValueError: There are more or fewer evaluations than runs, or of other splits.
    """
    if [run.split for run in runs] != [evaluation.split for evaluation in evaluations]:
        raise ValueError("each run needs its evaluation, on the split of its curve")
    run_names = names(runs)
    same_images = _grouped(runs, _images)
    sentences = []
    if len(same_images) > 1:
        sentences.append(_different_images(run_names, same_images))
    for group in same_images:
        if len(group) > 1:
            of = f" of {listed([run_names[k] for k in group])}" if len(same_images) > 1 else ""
            sentences += _ranking([(run_names[k], runs[k], evaluations[k]) for k in group], of)
    sentences += _seeds(run_names, runs)
    sentences.append(_differing_settings(runs))
    extremes = [_extremes(evaluation) for evaluation in evaluations]
    hardest = {e.classes[pair[0]] for e, pair in zip(evaluations, extremes, strict=True) if pair}
    if all(extremes) and len(hardest) == 1:
        sentences.append(f"The hardest class is the same in all runs: {hardest.pop()}.")
    return sentences


def images_measured(run: Run) -> int:
    """The number of images that its accuracy is measured on.

    Raises:
        RunError: The run has training images only.
    """
    if run.split == "train":
        raise RunError(f"{run.path} has only training images: there is no accuracy to report")
    return run.data.holdout or run.data.test


def result(run: Run) -> str:
    """How many images the network classifies correctly after the last epoch, on one line."""
    images = getattr(run.data, run.split)
    correct = round(run.last.accuracy * images)
    return (
        f"{correct:,} of {images:,} {IMAGES[run.split]} classified correctly "
        f"({percent(run.last.accuracy, images)}), with "
        f"{counted(run.summary.parameters, 'parameter')}"
    )


def little_learned(run: Run) -> str | None:
    """A remark about a run that is nearer to guessing than to its task; None for another.

    That is: both accuracies are less than a quarter of the way from guessing (1 / classes) to 100%.
    """
    last, chance = run.last, 1 / len(run.data.classes)
    images = getattr(run.data, run.split)
    if max(last.train_accuracy, last.accuracy) >= chance + (1 - chance) / 4:
        return None
    return (
        f"{percent(last.accuracy, images)} of the {IMAGES[run.split]} are classified correctly; "
        f"guessing would get {chance:.0%}. {counted(run.summary.parameters, 'parameter')} or "
        f"{counted(last.epoch, 'epoch')} may be too few: try a larger network (`normlab zoo` lists "
        "some), more --epochs, or another --learning-rate"
    )


# Findings about one run


def _balanced_accuracy(run: Run, evaluation: Evaluation) -> str | None:
    """Only of unbalanced classes, where accuracy is mostly that of the frequent ones."""
    if not evaluation.unbalanced:
        return None
    balanced = percent(evaluation.balanced_accuracy, len(evaluation.labels))
    return f"Balanced accuracy, the mean of the classes' accuracies, is {balanced}. " + unbalanced(
        evaluation.labels, evaluation.classes, IMAGES[run.split]
    )


def unbalanced(labels: NDArray[np.int64], classes: Sequence[str], images: str) -> str:
    """How unbalanced classes are, and what always answering the most frequent one would get.

    Args:
        labels: The true classes, int64 N.
        classes: The classes' names.
        images: What the images are called.
    """
    number, counts = len(labels), np.bincount(labels)
    present = np.flatnonzero(counts)
    most, least = int(counts.argmax()), int(present[counts[present].argmin()])
    return (
        f"The classes are unbalanced: of {number:,} {images}, {classes[most]} has "
        f"{counts[most]:,} and {classes[least]} {counts[least]:,}; always answering "
        f"{classes[most]} would get a balanced accuracy of {percent(1 / len(present), number)} "
        f"and an accuracy of {percent(counts[most] / number, number)}."
    )


def _accuracy(run: Run, _: Evaluation) -> str:
    last, images = run.last, images_measured(run)
    low, high = proportion_interval(round(last.accuracy * images), images)
    epochs = "the only epoch" if last.epoch == 1 else f"the last of {last.epoch} epochs"
    untouched = " The test split was not read." if run.split == "holdout" else ""
    return (
        f"One run: {percent(last.accuracy, images)} of the {images:,} {IMAGES[run.split]} are "
        f"classified correctly after {epochs} (95% sampling interval {percent(low, images)} to "
        f"{percent(high, images)}).{untouched}"
    )


def _accuracy_again(run: Run, evaluation: Evaluation) -> str | None:
    images = len(evaluation.labels)
    accuracy = percent(evaluation.accuracy, images)
    if evaluation.tta:
        return f"Averaged over test-time augmentation ({evaluation.tta}), accuracy is {accuracy}."
    if accuracy == percent(run.last.accuracy, images):
        return None
    return (
        f"Evaluated again, the same weights got {accuracy}: "
        "the last digits differ from machine to machine."
    )


def has_target(dataset: str) -> bool:
    """Whether the assignment's target is one for a data set: it is about CIFAR-10."""
    return dataset == "cifar10"


def _target(run: Run, _: Evaluation) -> str | None:
    if not has_target(run.config.dataset):
        return None
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


def _best_epoch(run: Run, _: Evaluation) -> str | None:
    best, last = run.best, run.last
    if best.accuracy == last.accuracy:
        return None
    return (
        f"The best epoch is {best.epoch} with {percent(best.accuracy, images_measured(run))}. "
        f"It was chosen on the same {IMAGES[run.split]} that it is measured on, so it is "
        "optimistic: report the last epoch."
    )


def _chance_or_underfitting(run: Run, evaluation: Evaluation) -> str | None:
    """Whether the network is no better than the most frequent class, or is far from fitting."""
    images = images_measured(run)
    counts = np.bincount(evaluation.labels)
    if np.count_nonzero(counts) < 2:
        return None
    chance = counts.max() / counts.sum()
    train, last = run.last.train_accuracy, run.last.accuracy
    if last <= chance + _Z * sqrt(_variance(last, images)):
        return (
            f"Always predicting the most frequent class would give {percent(chance, images)}: "
            "the network is not clearly better."
        )
    parameters = counted(run.summary.parameters, "parameter")
    if max(train, last) < (1 + chance) / 2 and train - last < OVERFITTING:
        return (
            f"The network underfits: with {parameters} it classifies only "
            f"{percent(train, run.data.train)} of the training images correctly, less than halfway "
            f"from the share of the most frequent class ({percent(chance, images)}) to 100%. "
            "More parameters, more epochs or another learning rate may help."
        )
    return None


def _gap(run: Run, _: Evaluation) -> str:
    train, last, images = run.last.train_accuracy, run.last.accuracy, images_measured(run)
    error = _Z * sqrt(_variance(train, run.data.train) + _variance(last, images))
    measured, trained = ACCURACY[run.split], percent(train, run.data.train)
    gap = train - last
    if abs(gap) <= error:
        return (
            f"Training accuracy ({trained}) and {measured} differ by less than the sampling error "
            f"(±{points(error, images)}): no gap can be shown."
        )
    if gap < 0:
        conditions = [
            *(["on augmented images"] if run.recipe.augment else []),
            *(["with dropout"] if run.recipe.dropout else []),
            "while the weights still change",
        ]
        return (
            f"{measured.capitalize()} is {points(-gap, images)} above training accuracy "
            f"({trained}). This does not indicate a problem: training accuracy is measured "
            f"{listed(conditions)}."
        )
    above = f"Training accuracy ({trained}) is {points(gap, images)} above {measured}"
    if gap < OVERFITTING:
        return (
            f"{above}, more than the sampling error (±{points(error, images)}): slight overfitting."
        )
    return f"{above}: overfitting. More augmentation, more dropout or a smaller network may help."


def _trend(run: Run, _: Evaluation) -> str | None:
    """Only if the loss moved the same way in each of the last epochs, by at least 1% in total.

    A loss falls where the learning rate falls to 0: that does not show that more epochs help.
    """
    last = run.epochs[-TREND:]
    loss = [epoch.loss for epoch in last]
    if len(last) < TREND:
        return None
    each = f"in each of the last {TREND} epochs, from {loss[0]:.4f} to {loss[-1]:.4f}"
    images = IMAGES[run.split]
    fell = all(b < a for a, b in pairwise(loss)) and loss[-1] < 0.99 * loss[0]
    if fell and last[-1].learning_rate >= ANNEALED * run.recipe.learning_rate:
        return f"The loss on the {images} was still falling {each}: more epochs may help."
    if (
        all(b > a for a, b in pairwise(loss))
        and loss[-1] > 1.01 * loss[0]
        and last[-1].train_loss < last[0].train_loss
    ):
        return (
            f"The loss on the {images} was rising {each}, while the training loss fell: "
            "overfitting. Fewer epochs may be enough."
        )
    return None


def _extreme_classes(run: Run, evaluation: Evaluation) -> str | None:
    pair = _extremes(evaluation)
    if pair is None:
        return None
    accuracy, counts = evaluation.class_accuracy, evaluation.confusion.sum(axis=1)
    hardest, easiest = (
        [evaluation.classes[other] for other in np.flatnonzero(accuracy == accuracy[k])]
        for k in pair
    )
    lowest, highest = (percent(accuracy[k], counts[k]) for k in pair)
    return (
        f"The hardest {'class is' if len(hardest) == 1 else 'classes are'} {listed(hardest)} "
        f"({lowest}), the easiest {listed(easiest)} ({highest}); the difference is larger than the "
        f"sampling error. All {IMAGES[run.split]} are counted."
    )


def _confused_pair(_: Run, evaluation: Evaluation) -> str | None:
    errors = np.triu(evaluation.confusion + evaluation.confusion.T, k=1)
    most = errors.max()
    if most < 2 or np.count_nonzero(errors == most) > 1:
        return None
    a, b = divmod(int(errors.argmax()), len(evaluation.classes))
    wrong = len(evaluation.labels) - evaluation.correct
    first, second = evaluation.classes[a], evaluation.classes[b]
    return (
        f"The most confused pair is {first} and {second}, {most:,} of the {wrong:,} mistakes: "
        f"{first} is taken for {second} {_in_images(evaluation.confusion[a, b])}, "
        f"{second} for {first} {_in_images(evaluation.confusion[b, a])}."
    )


def _in_images(count: int) -> str:
    return {0: "in none", 1: "in one image"}.get(count, f"in {count:,} images")


# Findings about several runs


def _different_images(run_names: Sequence[str], same_images: Sequence[Sequence[int]]) -> str:
    """Which runs can be compared, if they are not all measured on the same images."""
    groups = [listed([run_names[k] for k in group]) for group in same_images if len(group) > 1]
    if not groups:
        return (
            f"{listed(run_names)} are measured on different images: their accuracies cannot be "
            "compared."
        )
    return (
        "Not all runs are measured on the same images: accuracies can be compared only among "
        f"{', and among '.join(groups)}."
    )


def _ranking(group: Sequence[tuple[str, Run, Evaluation]], of: str) -> list[str]:
    """The highest accuracy on the same images, and its distance to the others."""
    group = sorted(group, key=lambda named: -named[1].last.accuracy)
    first, best, evaluation = group[0]
    top, images = best.last.accuracy, images_measured(best)
    leaders = [name for name, run, _ in group if run.last.accuracy == top]
    sentences = [f"Highest last-epoch accuracy{of}: {listed(leaders)}, {percent(top, images)}."]
    for name, run, other in group[len(leaders) :]:
        difference = top - run.last.accuracy
        error = _paired_error(evaluation, other)
        sentences.append(
            f"{first} is {points(difference, images)} ahead of {name}, "
            f"{'within' if difference <= error else 'more than'} the sampling error on the same "
            f"{images:,} images (±{points(error, images)}, 95%)."
        )
    return sentences


def _seeds(run_names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """The effect of the seed: measured if runs are repeats of one another, else not known."""
    sentences, single = [], []
    for arm in _grouped(runs, _arm):
        arm_names = [run_names[k] for k in arm]
        if len({runs[k].config.seed for k in arm}) == 1:
            single += arm_names
            continue
        accuracies = [runs[k].last.accuracy for k in arm]
        spread = points(max(accuracies) - min(accuracies), images_measured(runs[arm[0]]))
        sentences.append(
            f"{listed(arm_names)} differ only in the seed; their last-epoch accuracies are "
            f"{spread} apart. A difference of this size does not show that a normalization is "
            "better."
        )
    if single:
        subject = "Each is a single run"
        if sentences:
            subject = (
                f"{listed(single)} {'is a single run' if len(single) == 1 else 'are single runs'}"
            )
        sentences.append(
            f"{subject}: these errors do not include the effect of another seed. "
            "Only repeats with several seeds can attribute a difference to the normalization."
        )
    return sentences


def _differing_settings(runs: Sequence[Run]) -> str:
    """What the runs differ in besides their normalization."""
    differing = []
    layouts = [notation.parse(run.layout) for run in runs]
    plain = {tuple(dataclasses.replace(block, norm=None) for block in line) for line in layouts}
    if len(plain) > 1:
        parameters = listed([f"{n:,}" for n in dict.fromkeys(r.summary.parameters for r in runs)])
        differing.append(f"the layout ({parameters} parameters)")
    settings = [
        *(("recipe", field.name) for field in dataclasses.fields(runs[0].recipe)),
        *(("config", name) for name in _CONFIGURED),
    ]
    for where, name in settings:
        values = list(dict.fromkeys(getattr(getattr(run, where), name) for run in runs))
        if len(values) > 1:
            differing.append(f"{spaced(name)} ({listed([setting_value(v) for v in values])})")
    ends = list(dict.fromkeys(run.last.epoch for run in runs))
    if len(ends) > 1 and any(run.last.epoch != run.recipe.epochs for run in runs):
        differing.append(f"the last epoch ({listed([str(epoch) for epoch in ends])})")
    if len({run.data.fingerprint for run in runs}) > 1:
        differing.append("the data")
    seeds = len({run.config.seed for run in runs}) > 1
    norms = {
        (run.config.norm, *(block.norm for block in line if block.norm))
        for run, line in zip(runs, layouts, strict=True)
    }
    if differing and len(norms) > 1:
        return (
            f"Besides the normalization{' and the seed' if seeds else ''}, the runs differ in "
            f"{listed(differing)}: a difference cannot be attributed to the normalization alone."
        )
    expected = [
        *(["the normalization"] if len(norms) > 1 else []),
        *(["the seed"] if seeds else []),
    ]
    if expected or differing:
        return f"The runs differ only in {listed([*expected, *differing])}."
    return "The runs have the same settings."


def _grouped(runs: Sequence[Run], key: Callable[[Run], object]) -> list[list[int]]:
    """The indices of runs with equal keys."""
    groups: dict[object, list[int]] = {}
    for k, run in enumerate(runs):
        groups.setdefault(key(run), []).append(k)
    return [*groups.values()]


def _images(run: Run) -> object:
    """Equal for runs that are measured on the same images."""
    split_seed = run.config.split_seed if run.data.holdout else None
    return run.data.fingerprint, run.data.holdout, split_seed


def _arm(run: Run) -> object:
    """Equal for runs that differ at most in the seed.

    The last epoch counts: a run that a callback stopped early is no repeat of a whole one.
    """
    config = run.config
    return (
        *(run.layout, config.norm, config.activation, run.recipe, run.data, run.last.epoch),
        *(config.split_seed, config.label_noise, config.precision, config.recalibrate),
        *(config.branches, config.balance, run.start),
        *(run.teacher, config.teacher_weight, config.teacher_temperature),
    )


# Sampling errors


def _extremes(evaluation: Evaluation) -> tuple[int, int] | None:
    """The hardest and the easiest class, if their difference exceeds the sampling error.

    They are the extremes of many classes: the error has Bonferroni's correction for all pairs.
    """
    accuracy, counts = evaluation.class_accuracy, evaluation.confusion.sum(axis=1)
    present = np.count_nonzero(counts)
    if present < 2:
        return None
    hardest, easiest = int(np.nanargmin(accuracy)), int(np.nanargmax(accuracy))
    z = NormalDist().inv_cdf(1 - 0.05 / (present * (present - 1)))
    error = z * sqrt(sum(_variance(accuracy[k], counts[k]) for k in (hardest, easiest)))
    return (hardest, easiest) if accuracy[easiest] - accuracy[hardest] > error else None


def _paired_error(one: Evaluation, other: Evaluation) -> float:
    """Half the 95% interval of a difference of accuracies on the same images.

    Half an image is added to each of the four outcomes, so that the error of few images is never 0
    (Agresti and Min, 2005, Statistics in Medicine 24).
    """
    correct = one.predictions == one.labels, other.predictions == other.labels
    images = len(one.labels) + 2
    only_one = ((correct[0] & ~correct[1]).sum() + 0.5) / images
    only_other = ((correct[1] & ~correct[0]).sum() + 0.5) / images
    return float(_Z * sqrt((only_one + only_other - (only_one - only_other) ** 2) / images))


def _variance(share: float, images: int) -> float:
    """The binomial variance of a share; one right and one wrong image are added: it is never 0."""
    smoothed = (share * images + 1) / (images + 2)
    return float(smoothed * (1 - smoothed) / images)
