"""What a study that plans its contrasts can say: changes of differences, equality, added seeds.

A change is the difference of two normalizations in one setting minus their difference in another,
seed by seed. With the same seed all of these runs start from the same convolutions, so it is a
paired difference like any other. A pair or a change is shown, or not, in one family of comparisons,
which the study's configuration states: see `normlab.study.contrasts`.

Seeds that are added after a look at the result are a second test. Testing again at 5% finds a
difference where there is none in up to 8.6% of studies that go from three seeds to five (Armitage,
McPherson & Rowe 1969, Journal of the Royal Statistical Society A 132, for many looks). A study
that plans several looks gives each an equal share of the 5% (Bonferroni, which needs no assumption
about how the looks depend on each other). A study that did not plan them has none left: its first
test used all 5%, and whatever a second one shows is beyond it. Its tests stay those of the seeds
that it planned.
"""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from normlab.findings.statistics import Difference
from normlab.study.contrasts import DEFAULT, Contrast
from normlab.study.plan import AXES, varying
from normlab.study.record import Study
from normlab.wording import axis_value, counted, listed, p_value, points, points_range

FEW = 6  # contrasts that a sentence names; the others are in the table

# The accuracy after the last epoch: by the arm's name, by the seed
Accuracies = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class Change:
    """How the difference of two normalizations changes from one setting to another.

    Attributes:
        contrast: What was planned.
        change: For each seed that all four arms have: the difference minus the reference's.
        here: The mean difference over these seeds.
        there: The mean difference in the reference setting.
        failures: The arms that failed with some seeds: it is not tested if there are any.
    """

    contrast: Contrast
    change: Difference
    here: float
    there: float
    failures: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether the seeds show a change; never if an arm failed with some of them."""
        return self.change.shown and not self.failures

    def equivalent(self, margin: float) -> bool:
        """Whether the seeds show that it is within ±`margin`; never if an arm failed."""
        return self.change.equivalent(margin) and not self.failures


def comparisons(study: Study) -> int:
    """The number of comparisons that tests are corrected for: all contrasts, at every look."""
    return max(1, len(study.family) * study.config.looks)


def number_tested(study: Study) -> str:
    """How many contrasts it tests, and how often: `3 contrasts at 2 looks`."""
    looks = study.config.looks
    return counted(len(study.family), "contrast") + (f" at {looks} looks" if looks > 1 else "")


def changes(study: Study, accuracies: Accuracies, failed: Set[str]) -> list[Change]:
    """The planned changes that have a common seed, in the order of the plan.

    Args:
        study: The study.
        accuracies: Of the runs that trained.
        failed: The names of the arms that failed with a seed.
    """
    number = comparisons(study)
    found = []
    for contrast in study.family:
        if contrast.reference is None:
            continue
        values = [accuracies.get(arm.name, {}) for arm in contrast.arms]
        seeds = [s for s in range(study.tested_seeds) if all(s in value for value in values)]
        if not seeds:
            continue
        first, second, before, other = (
            np.array([value[seed] for seed in seeds]) for value in values
        )
        # Rounded: values that differ in the last bit only are equal.
        change = np.round((first - second) - (before - other), 12)
        found.append(
            Change(
                contrast=contrast,
                change=Difference(contrast.first.name, contrast.second.name, change, number),
                here=float(np.mean(first - second)),
                there=float(np.mean(before - other)),
                failures=tuple(arm.name for arm in contrast.arms if arm.name in failed),
            )
        )
    return found


def planned_pairs(study: Study) -> frozenset[frozenset[str]]:
    """The pairs of arms in one setting that the study tests, by name."""
    return frozenset(
        frozenset((contrast.first.name, contrast.second.name))
        for contrast in study.family
        if contrast.reference is None
    )


def headline(study: Study, found: Sequence[Change]) -> list[str]:
    """For each axis with planned changes: whether differences are shown to depend on it."""
    sentences = []
    for axes in dict.fromkeys(_axes(change.contrast) for change in found):
        along = [c for c in found if _axes(c.contrast) == axes and len(c.change.differences) > 1]
        if not along:
            continue
        planned = sum(c.reference is not None and _axes(c) == axes for c in study.family)
        untested = planned - sum(not change.failures for change in along)
        label = listed([AXES[axis].label for axis in axes])
        shown = [change for change in along if change.shown]
        if shown:
            top = max(shown, key=lambda change: abs(change.change.mean.value))
            first, second = top.contrast.first.norm, top.contrast.second.norm
            text = (
                f"The difference between {first} and {second} depends on the {label}: "
                f"{_in_words(study, top)}"
            )
            if planned > 1:
                text += f"; {len(shown)} of {planned} planned changes along it are shown"
            sentences.append(f"{text}.")
        else:
            sentences.append(
                f"It is not shown that a difference between normalizations depends on the {label} "
                f"({counted(planned, 'planned change')}"
                f"{f', {untested} of them not tested' if untested else ''})."
            )
    return sentences


def further(study: Study, found: Sequence[Change], pairs: Sequence[Difference]) -> list[str]:
    """What is shown to be equal, what was tested, and how seeds were added.

    Args:
        study: The study.
        found: Its changes.
        pairs: Its differences in one setting.
    """
    if study.tested_seeds == 1 or not study.family:
        return []
    return [
        *_equal(study, found, pairs),
        tested(study),
        *_untested(study, found, pairs),
        *_looks(study),
    ]


def tested(study: Study) -> str:
    """The family of contrasts in words: what tests and intervals are corrected for."""
    axes = study.axes
    every = " in every setting" if axes else ""
    first = study.arms[0]
    against = [f"{AXES[a].label} {axis_value(getattr(first.setting, a))}" for a in axes]
    parts = []
    for text in study.config.contrasts or DEFAULT:
        if text == "pairs":
            parts.append(f"all pairs of normalizations{every}")
        elif text != "changes":
            parts.append(text)
        elif axes:
            parts.append(f"how each difference from {first.norm} changes against {listed(against)}")
    chosen = "its plan" if study.config.contrasts else "normlab's default"
    text = f"The study tests {number_tested(study)}, by {chosen}: {listed(parts)}."
    if comparisons(study) == 1:
        return f"{text} It is shown exactly if its interval leaves 0 out."
    return (
        f"{text} Tests and the intervals of differences are corrected for all of them "
        "(Bonferroni): all these intervals hold at once with 95%, and a difference is shown "
        "exactly if its interval leaves 0 out."
    )


def seeds_text(study: Study) -> str:
    """The number of seeds, and how it came about: `5 seeds (3 planned, 2 added later)`."""
    text = counted(study.config.seeds, "seed")
    numbers = (*study.earlier_seeds, study.config.seeds)
    added = [str(more - fewer) for fewer, more in pairwise(numbers)]
    return f"{text} ({numbers[0]} planned, {listed(added)} added later)" if added else text


def label(study: Study, contrast: Contrast) -> str:
    """A contrast in a table: `bn − gn, at batch size 2 minus at 32`."""
    difference = f"{contrast.first.norm} − {contrast.second.norm}"
    axes = study.axes
    if contrast.reference is None:
        return f"{difference}, {contrast.first.setting.text(axes)}" if axes else difference
    return f"{difference}, {_where(study, contrast)}"


def _where(study: Study, contrast: Contrast) -> str:
    """`batch size 2 minus 32`; on other axes, where both settings are."""
    assert contrast.reference is not None
    here, there = contrast.first.setting, contrast.reference[0].setting
    changing = _axes(contrast)
    others = [axis for axis in study.axes if axis not in changing]
    text = ", ".join(
        f"{AXES[axis].label} {axis_value(getattr(here, axis))} minus "
        f"{axis_value(getattr(there, axis))}"
        for axis in changing
    )
    return f"{text}, {here.text(others)}" if others else text


def _in_words(study: Study, change: Change) -> str:
    contrast, images, mean = change.contrast, study.images, change.change.mean
    assert contrast.reference is not None
    axes = _axes(contrast)
    others = [axis for axis in study.axes if axis not in axes]
    here, there = contrast.first.setting, contrast.reference[0].setting
    where = f", with {here.text(others)}" if others else ""
    return (
        f"{contrast.first.norm} − {contrast.second.norm} at {here.text(axes)} "
        f"({points(change.here, images)}) minus the same at {there.text(axes)} "
        f"({points(change.there, images)}) is {points(mean.value, images)} (95% interval "
        f"{points_range(mean.low, mean.high, images)}, corrected "
        f"{p_value(change.change.p_corrected)}){where}"
    )


def _axes(contrast: Contrast) -> tuple[str, ...]:
    """The axes along which a change is."""
    assert contrast.reference is not None
    return tuple(varying((contrast.first.setting, contrast.reference[0].setting)))


def _equal(study: Study, found: Sequence[Change], pairs: Sequence[Difference]) -> list[str]:
    """Which contrasts are shown to be within the margin: all else that is not shown may differ."""
    margin = study.config.margin / 100
    within = f"within ±{study.config.margin:g} points"
    equal = [
        label(study, Contrast(study.arm(pair.first), study.arm(pair.second)))
        for pair in pairs
        if pair.equivalent(margin)
    ]
    equal += [label(study, change.contrast) for change in found if change.equivalent(margin)]
    undecided = [c for c in pairs if not c.shown] + [c.change for c in found if not c.shown]
    if equal:
        more = [f"{len(equal) - FEW} more"] if len(equal) > FEW else []
        return [f"Shown to be {within} (two one-sided tests): {'; '.join([*equal[:FEW], *more])}."]
    if undecided and any(math.isfinite(pair.mean.low) for pair in undecided):
        return [
            f"Nothing is shown to be {within} (two one-sided tests): where no difference is "
            "shown, there may still be one."
        ]
    return []


def _untested(study: Study, found: Sequence[Change], pairs: Sequence[Difference]) -> list[str]:
    """How many of the planned contrasts could not be tested."""
    number = sum(math.isfinite(pair.p) for pair in pairs)
    number += sum(math.isfinite(c.change.p) and not c.failures for c in found)
    left = len(study.family) - number
    if not left:
        return []
    which = "It" if len(study.family) == 1 else f"{left} of them"
    return [f"{which} could not be tested: runs failed, are not finished, or are equal."]


def _looks(study: Study) -> list[str]:
    """How seeds were added, and what that means for the tests."""
    looks, numbers = study.config.looks, (*study.earlier_seeds, study.config.seeds)
    if len(numbers) == 1 and looks == 1:
        return []
    if len(numbers) <= looks:
        had = f"{listed(list(map(str, numbers)))} seeds" if len(numbers) > 1 else seeds_text(study)
        return [
            f"The study was planned with {looks} looks at the result, each with an equal share of "
            f"the 5%; this is look {len(numbers)} ({had})."
        ]
    return [
        f"The study was planned with {counted(numbers[0], 'seed')} and "
        f"{counted(looks, 'look')} at the result; seeds were added later, to "
        f"{listed(list(map(str, numbers[1:])))}, when results could be seen. Testing again until "
        "something is shown would show a difference in more than 5% of studies that have none. So "
        f"tests and intervals of differences are over the first {study.tested_seeds} seeds; means "
        "are over all."
    ]
