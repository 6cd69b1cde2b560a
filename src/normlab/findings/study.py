"""Findings about a study as sentences, each from a number, and what the numbers cannot show."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import median

import numpy as np

from normlab import recipes
from normlab.errors import RunError
from normlab.findings import contrasts, statistics
from normlab.findings.run import TARGET
from normlab.findings.statistics import Difference, Estimate
from normlab.recipes import Recipe
from normlab.study import tuning
from normlab.study.plan import AXES, Arm, Setting, settings, varying
from normlab.study.record import Result, Study
from normlab.wording import (
    axis_value,
    by_name,
    listed,
    p_value,
    percent,
    points,
    points_range,
    probability,
    rounded_setting,
    spaced,
    span,
)

GOAL = 0.005  # a difference that a study should be able to detect
FEW_EDGES = 6  # arms with an optimum at the edge of the search that are named
FEW_RIVALS = 3  # rivals with numbers in the headline; the numbers of the others are in the table
FEW_PAIRS = 10  # pairs with a sentence; the others are in the table
FEW_FAILURES = 5  # arms with failed runs that are named


@dataclass(frozen=True)
class Group:
    """The arms that are compared in one setting, with their finished runs.

    Attributes:
        setting: The setting that they share.
        arms: The arms that have finished runs.
        accuracies: For each arm, by name, the accuracy after the last epoch by seed.
        failures: The arms that failed with some or all seeds, as text.
        differences: The pairs of arms with common seeds; corrected for all contrasts of the study.
    """

    setting: Setting
    arms: tuple[Arm, ...]
    accuracies: dict[str, dict[int, float]]
    failures: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()

    @cached_property
    def ranked(self) -> list[tuple[Arm, Estimate]]:
        """The arms with their means, the highest first."""
        means = [(arm, self.mean(arm)) for arm in self.arms]
        return sorted(means, key=lambda pair: -pair[1].value)

    @cached_property
    def seeds(self) -> int:
        """The number of seeds of the arm that has the most."""
        return max(map(len, self.accuracies.values()))

    def mean(self, arm: Arm) -> Estimate:
        """The mean accuracy of an arm over its seeds."""
        return statistics.mean(list(self.accuracies[arm.name].values()))

    def difference(self, first: Arm, second: Arm) -> Difference | None:
        """The first arm minus the second; None if they have no common seed."""
        for pair in self.differences:
            if (pair.first, pair.second) == (first.name, second.name):
                return pair
            if (pair.first, pair.second) == (second.name, first.name):
                return dataclasses.replace(
                    pair, first=first.name, second=second.name, differences=-pair.differences
                )
        return None

    def better_first(self, one: Arm, other: Arm) -> Difference | None:
        """The difference of two arms, with the better arm over their common seeds first.

        It need not be the arm with the higher mean, which is over all seeds that an arm finished.
        """
        pair = self.difference(one, other)
        return pair if pair is None or pair.mean.value >= 0 else self.difference(other, one)


def group_by_setting(study: Study) -> list[Group]:
    """The groups of a study that have finished runs, in the order of their settings.

    Raises:
        RunError: No run is finished.
    """
    groups = []
    for setting, arms in settings(study.arms).items():
        accuracies = {
            arm.name: {result.seed: result.accuracies[-1] for result in results}
            for arm in arms
            if (results := study.of(arm))
        }
        if accuracies:
            finished = tuple(arm for arm in arms if arm.name in accuracies)
            failures = tuple(text for arm in arms if (text := _failure(study, arm)))
            groups.append(Group(setting, finished, accuracies, failures))
    if not groups:
        raise RunError(f"{study.path} has no finished run yet: give the command that made it again")
    seeds, planned = range(study.tested_seeds), contrasts.planned_pairs(study)
    compared = statistics.differences(
        *(
            {
                name: [by_seed.get(seed, math.nan) for seed in seeds]
                for name, by_seed in group.accuracies.items()
            }
            for group in groups
        ),
        comparisons=contrasts.comparisons(study),
    )
    return [
        dataclasses.replace(
            group,
            differences=tuple(
                dataclasses.replace(pair, planned=frozenset((pair.first, pair.second)) in planned)
                for pair in pairs
            ),
        )
        for group, pairs in zip(groups, compared, strict=True)
    ]


def changes(study: Study, groups: Sequence[Group]) -> list[contrasts.Change]:
    """The planned changes of differences from one setting to another."""
    accuracies = {name: seeds for group in groups for name, seeds in group.accuracies.items()}
    return contrasts.changes(study, accuracies)


def main_group(groups: Sequence[Group]) -> Group:
    """The group with the highest mean: what the page is mostly about."""
    return max(groups, key=lambda group: group.ranked[0][1].value)


def along(groups: Sequence[Group], axis: str) -> list[Group]:
    """The main group and the groups that differ from it only along an axis, in order."""
    main = main_group(groups).setting
    line = [
        group
        for group in groups
        if dataclasses.replace(group.setting, **{axis: getattr(main, axis)}) == main
    ]
    if any(isinstance(getattr(group.setting, axis), str | None) for group in line):
        return line
    return sorted(line, key=lambda group: getattr(group.setting, axis))


def headline(study: Study, groups: Sequence[Group]) -> list[str]:
    """The best normalization, by how much, when that changes, and how differences change."""
    main = main_group(groups)
    return [
        _best(main, study.images),
        _changes(study, groups) or _certainty(main),
        *contrasts.headline(study, changes(study, groups)),
    ]


def further(study: Study, groups: Sequence[Group]) -> list[str]:
    """The findings that are not in the headline."""
    main = main_group(groups)
    pairs = [pair for group in groups for pair in group.differences if pair.planned]
    return [
        # Without a varying axis it is in the headline.
        *([_certainty(main)] if varying(settings(study.arms)) and main.seeds > 1 else []),
        *_other_pairs(main, study.images),
        *contrasts.further(study, changes(study, groups), pairs),
        *_seeds_needed(main, contrasts.comparisons(study)),
        *_first_passed(study, main),
        *_searches(study),
        *_failed_runs(study.results),
        *_unfinished_runs(study.results),
        *_differing_recipes(study, main),
        *_assumptions(main),
    ]


def passed_epoch(result: Result) -> int | None:
    """The first epoch above 70%, or None."""
    return next((k for k, share in enumerate(result.accuracies, 1) if share > TARGET), None)


def settings_by_norm(arms: Sequence[Arm], field: str) -> dict[str, str]:
    """A setting of the recipe as text, for each normalization."""
    return {arm.norm: rounded_setting(getattr(arm.recipe, field)) for arm in arms}


# Headline


def _best(group: Group, images: int) -> str:
    """Which normalization has the highest mean, and above which others it is shown to be."""
    (best, mean), *others = group.ranked
    seeds = len(group.accuracies[best.name])
    tied = [arm.norm for arm, other in others if math.isclose(other.value, mean.value)]
    leaders = f"{listed([best.norm, *tied])} {'have' if tied else 'has'}"
    text = f"{leaders} the highest mean accuracy, {percent(mean.value, images)}"
    text += f" over {seeds} seeds" if seeds > 1 else " (one run)"
    failed = "".join(f"; {failure}" for failure in group.failures)
    if not others:
        return f"{text}{failed}; nothing was compared with it."
    if group.seeds == 1:
        return f"{text}{failed}; one seed cannot show a difference between normalizations."
    below: list[str] = []
    undecided: list[str] = []
    above: list[str] = []  # over the seeds that both finished
    untested: list[str] = []
    for place, (arm, _) in enumerate(others):
        pair = group.better_first(best, arm)
        if pair is None:
            undecided.append(f"{arm.norm} (no seed in common)")
        elif not pair.planned:
            untested.append(arm.norm)
        elif len(pair.differences) == 1:
            undecided.append(f"{arm.norm} (one seed in common)")
        else:
            numbers = f" ({_numbers(pair, images)})" if place < FEW_RIVALS else ""
            decided = below if pair.first == best.name else above
            (decided if pair.shown else undecided).append(f"{arm.norm}{numbers}")
    if below:
        text += f", and is shown to be above {listed(below)}"
    if undecided:
        text += (
            f"{'; with' if below else ', but with'} these seeds no difference can be shown between "
            f"{best.norm if tied else 'it'} and {listed(undecided)}"
        )
    if above:
        text += f"; but over the seeds that both finished, {listed(above)} is shown to be above it"
    if untested:
        text += f"; the study did not plan to test it against {listed(untested)}"
    return f"{text}{failed}."


def _numbers(pair: Difference, images: int) -> str:
    """The mean difference, its interval and its p-value."""
    mean = pair.mean
    interval = (
        f"95% interval {points_range(mean.low, mean.high, images)}"
        if math.isfinite(mean.low)
        else "no interval, because the seeds show no spread"
    )
    return f"{points(mean.value, images)}, {interval}, corrected {p_value(pair.p_corrected)}"


def _changes(study: Study, groups: Sequence[Group]) -> str | None:
    """Where along the axes another normalization leads than the best of the main group."""
    axes = varying(settings(study.arms))
    parts = [
        part
        for axis in axes
        for part in (
            _changes_along(study, groups, axis, [other for other in axes if other != axis]),
            *_failures_along(groups, axis),
        )
    ]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else None


def _changes_along(study: Study, groups: Sequence[Group], axis: str, others: Sequence[str]) -> str:
    """Which normalizations lead along an axis: `the highest mean depends on the batch size: …`."""
    main = main_group(groups)
    best = main.ranked[0][0].norm
    line, missing = along(groups, axis), _missing(study, groups, axis)
    leads = [_lead(part, axis, best, study.images) for part in _split_by_leader(line, best)]
    if len(leads) > 1:
        text = f"the highest mean depends on the {AXES[axis].label}: {listed(leads)}"
    elif missing:
        values = listed([axis_value(getattr(group.setting, axis)) for group in line])
        text = f"at {AXES[axis].label} {values}, {best} has the highest mean"
    else:
        text = f"at every {AXES[axis].label} that was tried, {best} has the highest mean"
    if missing:
        text += f"; at {listed(missing)}, no run is finished"
    if others:
        text += f", with {main.setting.text(others)}"
    return text


def _missing(study: Study, groups: Sequence[Group], axis: str) -> list[str]:
    """The values of an axis, beside the main group, that have no finished run."""
    main, finished = main_group(groups).setting, {group.setting for group in groups}
    return [
        axis_value(getattr(setting, axis))
        for setting in settings(study.arms)
        if setting not in finished
        and dataclasses.replace(setting, **{axis: getattr(main, axis)}) == main
    ]


def _split_by_leader(line: Sequence[Group], best: str) -> list[list[Group]]:
    """Neighbours along an axis with the same leader, whose lead is shown in all or in none."""

    def leader(group: Group) -> tuple[str, bool]:
        gap = _gap(group, best)
        return group.ranked[0][0].norm, gap is not None and gap.shown

    return [list(part) for _, part in groupby(line, leader)]


def _lead(part: Sequence[Group], axis: str, best: str, images: int) -> str:
    """Which normalization leads in neighbouring groups: `gn at 2 (1.20 points above bn, shown)`."""
    first, last = (axis_value(getattr(group.setting, axis)) for group in (part[0], part[-1]))
    text = f"{part[0].ranked[0][0].norm} at {span(first, last)}"
    gaps = [gap for group in part if (gap := _gap(group, best)) is not None]
    if not gaps:
        return text
    widest = max(gap.mean.value for gap in gaps)
    verdict = "shown" if gaps[0].shown else "not shown" if gaps[0].planned else "not tested"
    return (
        f"{text} ({'up to ' if len(gaps) > 1 else ''}{points(widest, images)} above {best}, "
        f"{verdict})"
    )


def _gap(group: Group, best: str) -> Difference | None:
    """The lead of another normalization over the main group's best; None if it does not lead.

    Over the seeds that both finished, the one with the higher mean need not lead.
    """
    leader = group.ranked[0][0]
    for arm in group.arms:
        if arm.norm == best and arm is not leader:
            gap = group.difference(leader, arm)
            return gap if gap is not None and gap.mean.value > 0 else None
    return None


def _failure(study: Study, arm: Arm) -> str:
    """The failures of an arm: `bn could not be trained`; empty without any."""
    seeds = study.config.seeds
    failed = sum(r.arm == arm.name and r.state == "failed" for r in study.results)
    if failed == seeds:
        return f"{arm.norm} could not be trained"
    return f"{arm.norm} failed with {failed} of {seeds} seeds" if failed else ""


def _failures_along(groups: Sequence[Group], axis: str) -> list[str]:
    """The failures elsewhere on an axis: `bn could not be trained at batch size 2`."""
    values: dict[str, list[str]] = {}
    for group in along(groups, axis):
        if group is not main_group(groups):
            for failure in group.failures:
                values.setdefault(failure, []).append(axis_value(getattr(group.setting, axis)))
    return [
        f"{failure} at {AXES[axis].label} {listed(places)}" for failure, places in values.items()
    ]


def _certainty(group: Group) -> str:
    """The probability that the best normalization is the best again with a new seed."""
    if len(group.arms) < 2:
        return "A comparison needs at least two normalizations."
    best, second = (arm for arm, _ in group.ranked[:2])
    pair = group.better_first(best, second)
    if pair is None or math.isinf(pair.mean.high):  # one seed, or seeds without a spread
        return f"More seeds would show whether {best.norm} is above {second.norm}."
    if pair.first == second.name:
        best, second = second, best
    value, low, high = map(probability, (pair.wins.value, pair.wins.low, pair.wins.high))
    text = (
        f"With a new seed, {best.norm} would be above {second.norm} with a probability of {value}"
    )
    if low == high:
        return f"{text}, assuming normally distributed differences."
    return f"{text} (95% interval {low} to {high})."


# Further findings


def _other_pairs(group: Group, images: int) -> list[str]:
    """The pairs of normalizations without the best one, which the headline compares."""
    if group.seeds < 2:
        return []
    ranked = [arm for arm, _ in group.ranked]
    sentences = [
        _pair(group, above, below, images)
        for k, above in enumerate(ranked[1:], start=1)
        for below in ranked[k + 1 :]
        if (pair := group.difference(above, below)) is None or pair.planned
    ]
    more = len(sentences) - FEW_PAIRS
    return sentences[:FEW_PAIRS] + ([f"{more} more pairs are in the table."] if more > 0 else [])


def _pair(group: Group, above: Arm, below: Arm, images: int) -> str:
    pair = group.better_first(above, below)
    if pair is None or len(pair.differences) == 1:
        shared = "no seed" if pair is None else "only one seed"
        return f"{above.norm} and {below.norm} have {shared} in common."
    norms = {above.name: above.norm, below.name: below.norm}
    first, second = norms[pair.first], norms[pair.second]
    verdict = (
        f"is shown to be above {second}"
        if pair.shown
        else f"and {second}: no difference can be shown"
    )
    return f"{first} {verdict} ({_numbers(pair, images)})."


def _seeds_needed(group: Group, comparisons: int) -> list[str]:
    spreads = [
        (float(np.std(pair.differences, ddof=1)), len(pair.differences))
        for pair in group.differences
        if len(pair.differences) >= 3
    ]
    if not spreads:
        return []
    spread, seeds = sorted(spreads)[len(spreads) // 2]
    if spread == 0:
        return []
    needed, least, most = (
        f"{number:,}"
        if (number := statistics.seeds_needed(GOAL, s, comparisons))
        else "10,000 or more"
        for s in (spread, *statistics.spread_interval(spread, seeds))
    )
    return [
        f"The difference between two normalizations varies between seeds with a standard deviation "
        f"of {100 * spread:.2f} points (median pair, {seeds} seeds). Detecting a true difference "
        f"of {100 * GOAL:.1f} points four times in five would take about {needed} seeds ({least} "
        f"to {most} by the 95% interval of that standard deviation)."
    ]


def _first_passed(study: Study, group: Group) -> list[str]:
    """When accuracy first passed the assignment's target."""
    parts, any_passed = [], False
    for arm, _ in group.ranked:
        epochs = [passed_epoch(result) for result in study.of(arm)]
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


def _searches(study: Study) -> list[str]:
    """Whether the search was equal for all, and which optima may lie outside it."""
    sentences = []
    for what in study.config.tune:
        setting = spaced(tuning.FIELDS[what])
        best = [t for arm in study.arms if (t := tuning.best(study.trials, arm.name, what))]
        runs = {
            len({(t.value, t.epochs) for t in study.trials if (t.arm, t.what) == (b.arm, what)})
            for b in best
        }
        if len(runs) == 1 and len(best) == len(study.arms):
            sentences.append(
                f"The {setting} was searched for every normalization with {runs.pop()} runs each "
                "on held-out images, over the same values."
            )
        edge = [f"{t.arm} ({t.value:.4g})" for t in best if tuning.on_edge(t, study.trials)]
        if edge:
            more = [f"{len(edge) - FEW_EDGES} more arms"] if len(edge) > FEW_EDGES else []
            sentences.append(
                f"The best {setting} for {listed([*edge[:FEW_EDGES], *more])} lies at the edge of "
                "the searched values: a better one may lie beyond."
            )
        if study.config.holdout:
            sentences.append(
                f"The {setting} was chosen on the same held-out images that accuracy is measured "
                "on here: this accuracy is somewhat too high."
            )
    return sentences


def _failed_runs(results: Sequence[Result]) -> list[str]:
    failed: dict[str, list[Result]] = {}
    for result in results:
        if result.state == "failed":
            failed.setdefault(result.arm, []).append(result)
    sentences = [
        f"{arm} failed with {len(runs)} seeds; with seed {runs[0].seed}: {runs[0].problem}."
        if len(runs) > 1
        else f"{arm} with seed {runs[0].seed} failed: {runs[0].problem}."
        for arm, runs in [*failed.items()][:FEW_FAILURES]
    ]
    more = len(failed) - FEW_FAILURES
    return sentences + ([f"Runs of {more} more arms failed."] if more > 0 else [])


def _unfinished_runs(results: Sequence[Result]) -> list[str]:
    unfinished = sum(result.state in ("waiting", "stopped") for result in results)
    if not unfinished:
        return []
    return [f"{unfinished} of {len(results)} runs are not finished: this is not the final result."]


def _differing_recipes(study: Study, group: Group) -> list[str]:
    """What the arms differ in besides the normalization."""
    differing: list[str] = []
    scaled: list[str] = []
    searched = [tuning.FIELDS[what] for what in study.config.tune]
    all_searched = True  # whether this study searched all that differs
    for field in dataclasses.fields(Recipe):
        values = {arm.norm: getattr(arm.recipe, field.name) for arm in group.arms}
        if len(set(values.values())) > 1:
            here = field.name in searched
            texts = by_name(settings_by_norm(group.arms, field.name))
            text = f"{spaced(field.name)} ({texts}{', searched here' if here else ''})"
            rescaled = field.name == "learning_rate" and group.setting.batch_size is not None
            (scaled if rescaled and not here else differing).append(text)
            all_searched &= here or rescaled
    sentences = []
    if differing:
        recorded = "" if all_searched else ", as recorded in normlab"
        sentences.append(
            "Besides the normalization, the arms differ in what was found best for each on "
            f"held-out images{recorded}: {listed(differing)}."
        )
    sentences += _tuned_with_bn(study, group)
    if scaled:
        sentences.append(
            f"The arms differ in their {scaled[0]}: each is its recipe's, scaled to the compared "
            "batch size."
        )
    if study.config.batch_sizes and "lr" not in study.config.tune:
        sentences.append(
            "The learning rate is the recipe's, scaled with the square root of the batch size "
            "(Hoffer, Hubara & Soudry 2017)."
        )
    return sentences


def _tuned_with_bn(study: Study, group: Group) -> list[str]:
    """Whether others are trained with a recipe whose settings were found for bn."""
    name = group.arms[0].config.recipe or ""
    if recipes.tuned_settings(name, "bn") is None:
        return []
    norms = [arm.norm for arm in group.arms]
    left_out = [
        arm.norm
        for arm in group.arms
        if arm.config.untuned and recipes.tuned_settings(name, arm.norm)
    ]
    unknown = [norm for norm in norms if recipes.tuned_settings(name, norm) is None]
    if not (left_out or ("bn" in norms and unknown)):
        return []
    text = f"The recipe {name} was made with bn"
    if left_out:
        text += f", and the settings found best for {listed(left_out)} are left out"
    if "bn" in norms:
        text += ": this may favour bn"
        text += " in all settings but the learning rate" if "lr" in study.config.tune else ""
    return [f"{text}."]


def _assumptions(group: Group) -> list[str]:
    seeds = group.seeds
    if seeds < 2 or len(group.arms) < 2:
        return []
    recipes_used = [arm.recipe for arm in group.arms]
    same_batches = len({(r.batch_size, r.augment, r.mirror) for r in recipes_used}) == 1
    see = "see the same batches" if same_batches else "see the images in the same order"
    text = (
        "Normalizations are compared seed by seed, because with the same seed all start from the "
        f"same convolutions and {see}. Intervals and p-values are Student's for these paired "
        "differences, and assume that they are normally distributed."
    )
    if seeds < 6:
        text += (
            f" With {seeds} seeds a permutation test, which needs no normal distribution, cannot "
            "reach 5%, so none is given."
        )
    return [text]
