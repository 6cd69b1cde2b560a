"""Findings about a study as sentences, each from a number, and what the numbers cannot show."""

import math
from collections.abc import Sequence
from statistics import median

import numpy as np

from normlab.findings import contrasts
from normlab.findings.axes import best_along_axes
from normlab.findings.best import by_how_much, what_planned_pairs_show, which_is_best
from normlab.findings.fairness import differing_recipes
from normlab.findings.groups import Group, changes, main_group
from normlab.findings.pairs import certainty, other_pairs, seeds_needed
from normlab.findings.run import TARGET, has_target
from normlab.findings.search import searches
from normlab.study.plan import Arm
from normlab.study.record import Result, Study
from normlab.wording import counted, listed, percent, points

FEW_FAILURES = 5  # arms with failed runs that are named
STILL_RISING = 0.02  # accuracy gained in the last epoch: more epochs would gain more


def headline(study: Study, groups: Sequence[Group]) -> list[str]:
    """The best normalization in words, by how much, when that changes, how differences change."""
    main = main_group(groups)
    return [
        which_is_best(main),
        by_how_much(main, study.images),
        *what_planned_pairs_show(study, groups),
        best_along_axes(study, groups) or certainty(main),
        *contrasts.headline(study, changes(study, groups)),
    ]


def further(study: Study, groups: Sequence[Group]) -> list[str]:
    """The findings that are not in the headline."""
    main = main_group(groups)
    pairs = [pair for group in groups for pair in group.differences if pair.planned]
    return [
        # Without a varying axis it is in the headline.
        *([certainty(main)] if study.axes and main.tried > 1 else []),
        *other_pairs(study, groups),
        *contrasts.further(study, changes(study, groups), pairs),
        *seeds_needed(main, contrasts.comparisons(study)),
        *_still_rising(study, main),
        *_first_passed(study, main),
        *searches(study),
        *_failed_runs(study, groups),
        *_unfinished_runs(study.results),
        *differing_recipes(study, main),
        *_assumptions(main),
    ]


def passed_epoch(result: Result) -> int | None:
    """The first epoch above 70%, or None."""
    return next((k for k, share in enumerate(result.accuracies, 1) if share > TARGET), None)


def passed_epochs(study: Study, group: Group, arm: Arm) -> list[int | None]:
    """`passed_epoch` for each run of an arm that ended: a failed run never passed."""
    trained = [passed_epoch(result) for result in group.trained(study, arm)]
    return [*trained, *[None] * len(group.failed[arm.name])]


def ended_at_chance(study: Study, groups: Sequence[Group]) -> list[Result]:
    """The finished runs that are in no group, because they ended at chance."""
    trained = {
        (name, seed)
        for group in groups
        for name, by_seed in group.accuracies.items()
        for seed in by_seed
    }
    return [r for r in study.results if r.state == "done" and (r.arm, r.seed) not in trained]


def _still_rising(study: Study, group: Group) -> list[str]:
    """Whether training ended while accuracy rose fast: then it ranks how fast networks learn."""
    gains = {
        arm.norm: float(np.mean([r.accuracies[-1] - r.accuracies[-2] for r in trained]))
        for arm in group.arms
        if (trained := [r for r in group.trained(study, arm) if len(r.accuracies) > 1])
    }
    rising = {norm: gain for norm, gain in gains.items() if gain >= STILL_RISING}
    if not rising:
        return []
    fastest = max(rising.values())
    return [
        f"In the last epoch the accuracy of {listed([*rising])} still rose by "
        f"{'up to ' if len(rising) > 1 else ''}{points(fastest, study.images)}: with more epochs, "
        "the order may change."
    ]


def _first_passed(study: Study, group: Group) -> list[str]:
    """When accuracy first passed the assignment's target, if that is one for the data."""
    if not has_target(study.config.dataset):
        return []
    parts, any_passed = [], False
    for arm, _ in group.ranked:
        epochs = passed_epochs(study, group, arm)
        passed = [epoch for epoch in epochs if epoch is not None]
        any_passed |= bool(passed)
        if passed and len(passed) == len(epochs):
            parts.append(f"{arm.norm} in epoch {median(passed):g}")
        elif passed:
            parts.append(f"{arm.norm} with {len(passed)} of {len(epochs)} seeds")
        else:
            parts.append(f"{arm.norm} never")
    if not any_passed:
        return [f"No run passed {TARGET:.0%}."]
    return [f"Accuracy first passed {TARGET:.0%} (median): {listed(parts)}."]


def _failed_runs(study: Study, groups: Sequence[Group]) -> list[str]:
    """The runs that failed, each arm with the reason of its first."""
    chance = ended_at_chance(study, groups)
    failed: dict[str, list[Result]] = {}
    for result in study.results:
        if result.state == "failed" or result in chance:
            failed.setdefault(result.arm, []).append(result)
    sentences = []
    for arm, runs in [*failed.items()][:FEW_FAILURES]:
        problem = runs[0].problem or (
            f"it ended at chance, with {percent(runs[0].accuracies[-1], study.images)} of "
            f"{study.images:,} images"
        )
        sentences.append(
            f"{arm} failed with {len(runs)} seeds; with seed {runs[0].seed}: {problem}."
            if len(runs) > 1
            else f"{arm} with seed {runs[0].seed} failed: {problem}."
        )
    more = len(failed) - FEW_FAILURES
    return sentences + ([f"Runs of {counted(more, 'more arm')} failed."] if more > 0 else [])


def _unfinished_runs(results: Sequence[Result]) -> list[str]:
    unfinished = sum(result.state in ("waiting", "stopped") for result in results)
    if not unfinished:
        return []
    return [f"{unfinished} of {len(results)} runs are not finished: this is not the final result."]


def _assumptions(group: Group) -> list[str]:
    """What the tests and intervals rest on; nothing where there are none."""
    sentences = []
    if any(math.isfinite(pair.mean.low) for pair in group.differences):
        sentences.append(_about_tests(group))
    if any(not pair.same_failures for pair in group.differences):
        sentences.append(
            "Normalizations that failed with different seeds are not tested against each other: "
            "the seeds that are left are not a random sample. Their wins are counted, with the "
            "exact binomial interval."
        )
    if any(pair.neither and math.isfinite(pair.p) for pair in group.differences):
        sentences.append(
            "Normalizations that failed with the same seeds are tested over the other seeds: what "
            "is shown holds for seeds with which both train."
        )
    return sentences


def _about_tests(group: Group) -> str:
    recipes_used = [arm.recipe for arm in group.arms]
    same_batches = len({(r.batch_size, r.augment, r.mirror) for r in recipes_used}) == 1
    see = "see the same batches" if same_batches else "see the images in the same order"
    text = (
        "Normalizations are compared seed by seed, because with the same seed all start from the "
        f"same convolutions and {see}. Intervals and p-values are Student's for these paired "
        "differences, and assume that they are normally distributed"
    )
    seeds = max(len(pair.differences) for pair in group.differences)
    if seeds < 6:
        text += (
            f". With {seeds} seeds a permutation test, which needs no normal distribution, "
            "cannot reach 5%, so none is given"
        )
    return f"{text}."
