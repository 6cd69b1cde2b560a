"""What a study's numbers say, each sentence from a number; also that they do not say something."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import median

import numpy as np

from normlab import recipes
from normlab.errors import RunError
from normlab.findings import statistics
from normlab.findings.run import TARGET
from normlab.findings.statistics import Difference, Estimate
from normlab.recipes import Recipe
from normlab.study import tuning
from normlab.study.plan import AXES, Arm, Setting, settings, varying
from normlab.study.record import Result, Study
from normlab.wording import (
    axis_value,
    listed,
    p_value,
    percent,
    points,
    probability,
    setting_value,
    signed_points,
    spaced,
    span,
)

GOAL = 0.005  # a difference that one would like to see
EDGES = 6  # optima at the edge of a search that are named
NUMBERED = 3  # rivals whose numbers stand in the headline; the others' are in the table


@dataclass(frozen=True)
class Group:
    """The arms of a setting, with what their finished runs say.

    Attributes:
        setting: What they are compared in.
        arms: Those that have finished runs.
        accuracies: Of each arm, by name: the last epochs', by seed.
        failures: Which arms could not be trained, or not with all seeds, in words.
        differences: The pairs of arms that share seeds, over these; corrected over all groups.
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
        """How many the arm with the most has."""
        return max(map(len, self.accuracies.values()))

    def mean(self, arm: Arm) -> Estimate:
        """Of an arm, over its seeds."""
        return statistics.mean(list(self.accuracies[arm.name].values()))

    def difference(self, above: Arm, below: Arm) -> Difference | None:
        """Between two arms, the first minus the second; None where they share no seed."""
        for found in self.differences:
            if (found.first, found.second) == (above.name, below.name):
                return found
            if (found.first, found.second) == (below.name, above.name):
                return dataclasses.replace(
                    found,
                    first=above.name,
                    second=below.name,
                    differences=-found.differences,
                )
        return None

    def better_first(self, one: Arm, other: Arm) -> Difference | None:
        """Between two arms, the one first that is higher over the seeds that both finished.

        That need not be the one with the higher mean, which is over all that each finished.
        """
        found = self.difference(one, other)
        return found if found is None or found.mean.value >= 0 else self.difference(other, one)


def groups(study: Study) -> list[Group]:
    """A study's settings, those with finished runs alone.

    Raises:
        RunError: No run is finished.
    """
    found = []
    for setting, arms in settings(study.arms).items():
        accuracies = {
            arm.name: {r.seed: r.accuracies[-1] for r in runs}
            for arm in arms
            if (runs := study.of(arm))
        }
        if accuracies:
            done = tuple(arm for arm in arms if arm.name in accuracies)
            failures = tuple(said for arm in arms if (said := _failure(study, arm)))
            found.append(Group(setting, done, accuracies, failures))
    if not found:
        raise RunError(f"{study.path} has no finished run yet: give the command that made it again")
    seeds = range(study.config.seeds)
    compared = statistics.differences(
        *(
            {
                name: [by_seed.get(seed, math.nan) for seed in seeds]
                for name, by_seed in group.accuracies.items()
            }
            for group in found
        )
    )
    return [
        dataclasses.replace(group, differences=tuple(own))
        for group, own in zip(found, compared, strict=True)
    ]


def _failure(study: Study, arm: Arm) -> str:
    """What became of an arm of which runs failed: `bn could not be trained`; else empty."""
    seeds = study.config.seeds
    failed = sum(r.arm == arm.name and r.state == "failed" for r in study.results)
    if failed == seeds:
        return f"{arm.norm} could not be trained"
    return f"{arm.norm} failed with {failed} of {seeds} seeds" if failed else ""


def main_group(found: Sequence[Group]) -> Group:
    """The setting in which the highest mean was reached: what the page is mostly about."""
    return max(found, key=lambda group: group.ranked[0][1].value)


def along(found: Sequence[Group], axis: str) -> list[Group]:
    """The main group and those that differ from it along one axis alone, in order."""
    main = main_group(found).setting
    alike = [
        group
        for group in found
        if dataclasses.replace(group.setting, **{axis: getattr(main, axis)}) == main
    ]
    if any(isinstance(getattr(group.setting, axis), str | None) for group in alike):
        return alike
    return sorted(alike, key=lambda group: getattr(group.setting, axis))


def headline(study: Study, found: Sequence[Group]) -> list[str]:
    """The answer in two sentences: which is best, by how much, how sure; and when it changes."""
    main = main_group(found)
    return [_best(main, study.images), _changes(study, found) or _certainty(main)]


def further(study: Study, found: Sequence[Group]) -> list[str]:
    """What else there is to say."""
    main = main_group(found)
    return [
        # Where nothing varies it is in the headline.
        *([_certainty(main)] if varying(settings(study.arms)) and main.seeds > 1 else []),
        *_every_pair(main, study.images),
        *_seeds_needed(main, sum(len(group.differences) for group in found)),
        *_passed(study, main),
        *_searched(study),
        *_failed(study.results),
        *_recipes(study, main),
        *_assumptions(main, sum(len(group.differences) for group in found)),
    ]


def interval(estimate: Estimate, images: int) -> str:
    """The 95% interval of a difference, in percentage points."""
    if not math.isfinite(estimate.low):
        return "no interval, for the seeds show no spread"
    low, high = (signed_points(value, images) for value in (estimate.low, estimate.high))
    return f"95% interval {low} to {high}"


def _best(group: Group, images: int) -> str:
    (best, mean), *others = group.ranked
    seeds = len(group.accuracies[best.name])
    tied = [arm.norm for arm, other in others if math.isclose(other.value, mean.value)]
    leads = f"{listed([best.norm, *tied])} {'have' if tied else 'has'}"
    said = f"{leads} the highest mean accuracy, {percent(mean.value, images)}"
    said += f" over {seeds} seeds" if seeds > 1 else " (one run)"
    failed = "".join(f"; {failure}" for failure in group.failures)
    if not others:
        return f"{said}{failed}; nothing was compared with it."
    if group.seeds == 1:
        return f"{said}{failed}; with one seed no difference between normalizations can be shown."
    shown: list[str] = []
    open_: list[str] = []
    above: list[str] = []  # over the seeds that both finished
    for place, (arm, _) in enumerate(others):
        found = group.better_first(best, arm)
        if found is None:
            open_.append(f"{arm.norm} (no seed in common)")
        elif len(found.differences) == 1:
            open_.append(f"{arm.norm} (one seed in common)")
        else:
            numbers = (
                f" ({points(found.mean.value, images)}, {interval(found.mean, images)}, "
                f"corrected {p_value(found.p_holm)})"
            )
            ahead = shown if found.first == best.name else above
            (ahead if found.shown else open_).append(
                f"{arm.norm}{numbers if place < NUMBERED else ''}"
            )
    if shown:
        said += f", and is shown to be above {listed(shown)}"
    if open_:
        said += (
            f"{'; between' if shown else ', but between'} {best.norm if tied else 'it'} and "
            f"{listed(open_)} no difference can be shown with these seeds"
        )
    if above:
        said += f"; but over the seeds that both finished {listed(above)} is shown to be above it"
    return f"{said}{failed}."


def _changes(study: Study, found: Sequence[Group]) -> str | None:
    """Where along an axis another normalization than the main group's best leads."""
    main = main_group(found)
    best = main.ranked[0][0].norm
    axes = varying(settings(study.arms))
    said = []
    for axis in axes:
        line, missing = along(found, axis), _missing(study, found, axis)
        parts = [_lead(own, axis, best, study.images) for own in _leaders(line, best)]
        if len(parts) > 1:
            said.append(f"the highest mean depends on the {AXES[axis].label}: {listed(parts)}")
        elif not missing:
            said.append(f"at every {AXES[axis].label} that was tried {best} has the highest mean")
        else:
            where = f"{AXES[axis].label} {_each(line, axis)}"
            said.append(f"at {where} {best} has the highest mean")
        if missing:
            said[-1] += f"; at {listed(missing)} no run is finished"
        others = [other for other in axes if other != axis]
        if others:
            said[-1] += f", with {main.setting.text(others)}"
        said += _failures_along(found, axis)
    text = "; ".join(said)
    return f"{text[0].upper()}{text[1:]}." if text else None


def _missing(study: Study, found: Sequence[Group], axis: str) -> list[str]:
    """Where along an axis, beside the main group, no run is finished."""
    main, finished = main_group(found).setting, {group.setting for group in found}
    return [
        axis_value(getattr(setting, axis))
        for setting in settings(study.arms)
        if setting not in finished
        and dataclasses.replace(setting, **{axis: getattr(main, axis)}) == main
    ]


def _each(line: Sequence[Group], axis: str) -> str:
    """All values along an axis: `32 and 64`."""
    return listed([axis_value(getattr(group.setting, axis)) for group in line])


def _leaders(line: Sequence[Group], best: str) -> list[list[Group]]:
    """Neighbours along an axis where the same normalization leads, and all show it or none."""

    def leader(group: Group) -> tuple[str, bool]:
        gap = _gap(group, best)
        return group.ranked[0][0].norm, gap is not None and gap.shown

    return [list(own) for _, own in groupby(line, leader)]


def _lead(own: Sequence[Group], axis: str, best: str, images: int) -> str:
    """Which normalization leads there, and by how much: `gn at 2 (1.20 points above bn, shown)`."""
    first, last = (axis_value(getattr(g.setting, axis)) for g in (own[0], own[-1]))
    text = f"{own[0].ranked[0][0].norm} at {span(first, last)}"
    gaps = [gap for group in own if (gap := _gap(group, best)) is not None]
    if not gaps:
        return text
    widest = max(gap.mean.value for gap in gaps)
    return (
        f"{text} ({'up to ' if len(gaps) > 1 else ''}{points(widest, images)} above {best}, "
        f"{'shown' if gaps[0].shown else 'not shown'})"
    )


def _gap(group: Group, best: str) -> Difference | None:
    """By how much another normalization leads before the main group's best; None where it is not.

    Over the seeds that both finished the one with the higher mean need not lead.
    """
    leader = group.ranked[0][0]
    for arm in group.arms:
        if arm.norm == best and arm is not leader:
            gap = group.difference(leader, arm)
            return gap if gap is not None and gap.mean.value > 0 else None
    return None


def _failures_along(found: Sequence[Group], axis: str) -> list[str]:
    """Which arms could not be trained elsewhere on an axis: `bn could not be trained at … 2`."""
    where: dict[str, list[str]] = {}
    for group in along(found, axis):
        if group is not main_group(found):
            for failure in group.failures:
                where.setdefault(failure, []).append(axis_value(getattr(group.setting, axis)))
    return [
        f"{failure} at {AXES[axis].label} {listed(values)}" for failure, values in where.items()
    ]


def _certainty(group: Group) -> str:
    """How probable it is that the best wins again."""
    if len(group.arms) < 2:
        return "More normalizations would say more."
    best, second = (arm for arm, _ in group.ranked[:2])
    found = group.better_first(best, second)
    if found is None or math.isinf(found.mean.high):  # one seed, or seeds without a spread
        return f"More seeds would say whether {best.norm} is above {second.norm}."
    if found.first == second.name:
        best, second = second, best
    wins = found.wins
    said = f"With a new seed {best.norm} would be above {second.norm} with a probability of "
    if probability(wins.low) == probability(wins.high):
        return f"{said}{probability(wins.value)}, if differences are normally distributed."
    low, high = probability(wins.low), probability(wins.high)
    return f"{said}{probability(wins.value)} (95% interval {low} to {high})."


def _every_pair(group: Group, images: int) -> list[str]:
    """The pairs below the best: what is not in the headline."""
    said = []
    order = [arm for arm, _ in group.ranked]
    if group.seeds < 2:
        return []
    for k, above in enumerate(order[1:], start=1):
        for below in order[k + 1 :]:
            found = group.better_first(above, below)
            if found is None or len(found.differences) == 1:
                shared = "no seed" if found is None else "one seed alone"
                said.append(f"{above.norm} and {below.norm} have {shared} in common.")
                continue
            norms = {above.name: above.norm, below.name: below.norm}
            first, second = norms[found.first], norms[found.second]
            verdict = (
                f"is shown to be above {second}"
                if found.shown
                else f"and {second}: no difference can be shown"
            )
            said.append(
                f"{first} {verdict} ({points(found.mean.value, images)}, "
                f"{interval(found.mean, images)}, corrected {p_value(found.p_holm)})."
            )
    more = [f"{len(said) - 10} more pairs are in the table."] if len(said) > 10 else []
    return said[:10] + more


def _seeds_needed(group: Group, pairs: int) -> list[str]:
    spreads = [
        (float(np.std(found.differences, ddof=1)), len(found.differences))
        for found in group.differences
        if len(found.differences) >= 3
    ]
    if not spreads:
        return []
    spread, seeds = sorted(spreads)[len(spreads) // 2]
    if spread == 0:
        return []
    needed, least, most = (
        f"{number:,}" if (number := statistics.seeds_needed(GOAL, own, pairs)) else "10,000 or more"
        for own in (spread, *statistics.spread_interval(spread, seeds))
    )
    return [
        f"Differences between two normalizations vary from seed to seed by {100 * spread:.2f} "
        f"points (the standard deviation of a pair in the middle): to see a true difference of "
        f"{100 * GOAL:.1f} points four times in five would take about {needed} seeds; by the 95% "
        f"interval of that deviation, which {seeds} seeds gave, {least} to {most}."
    ]


def _passed(study: Study, group: Group) -> list[str]:
    """When accuracy first passed the assignment's."""
    parts, passed = [], False
    for arm, _ in group.ranked:
        epochs = [passed_epoch(result) for result in study.of(arm)]
        known = [epoch for epoch in epochs if epoch is not None]
        passed |= bool(known)
        if known and len(known) == len(epochs):
            parts.append(f"{arm.norm} in epoch {median(known):g}")
        elif known:
            parts.append(f"{arm.norm} with {len(known)} of {len(epochs)} seeds")
        else:
            parts.append(f"{arm.norm} never")
    if not passed:
        return [f"No run passed {TARGET:.0%}."]
    return [f"Accuracy first passed {TARGET:.0%} (median): {listed(parts)}."]


def passed_epoch(result: Result) -> int | None:
    """The first epoch above 70%, or None."""
    return next((k for k, share in enumerate(result.accuracies, 1) if share > TARGET), None)


def _searched(study: Study) -> list[str]:
    """How fair the search was, and where its optimum may lie outside."""
    said = []
    for what in study.config.tune:
        found = [t for arm in study.arms if (t := tuning.best(study.trials, arm.name, what))]
        counts = {
            len({(t.value, t.epochs) for t in study.trials if (t.arm, t.what) == (own.arm, what)})
            for own in found
        }
        setting = spaced(tuning.FIELDS[what])
        if len(counts) == 1 and len(found) == len(study.arms):
            said.append(
                f"The {setting} was searched for every normalization with the same "
                f"{counts.pop()} runs on held-out images, over the same values."
            )
        edge = [f"{t.arm} ({t.value:.4g})" for t in found if tuning.on_edge(t, study.trials)]
        if edge:
            more = [f"{len(edge) - EDGES} more arms"] if len(edge) > EDGES else []
            said.append(
                f"The {setting} found for {listed([*edge[:EDGES], *more])} lies at the edge of "
                "what was tried: a better one may lie beyond."
            )
        if study.config.holdout:
            said.append(
                f"The {setting} was chosen by the same held-out images that accuracy is given on "
                "here: it is somewhat too high for that."
            )
    return said


def _failed(results: Sequence[Result]) -> list[str]:
    failed: dict[str, list[Result]] = {}
    for result in results:
        if result.state == "failed":
            failed.setdefault(result.arm, []).append(result)
    open_ = sum(result.state in ("waiting", "stopped") for result in results)
    said = [
        f"{arm} failed with {len(own)} seeds; with seed {own[0].seed}: {own[0].problem}."
        if len(own) > 1
        else f"{arm} with seed {own[0].seed} failed: {own[0].problem}."
        for arm, own in [*failed.items()][:5]
    ]
    if len(failed) > 5:
        said.append(f"Runs of {len(failed) - 5} more arms failed.")
    if open_:
        said.append(f"{open_} of {len(results)} runs are not finished: this is not the end result.")
    return said


def _recipes(study: Study, group: Group) -> list[str]:
    """What the arms differ in beside the normalization."""
    differing: list[str] = []
    scaled: list[str] = []
    searched = [tuning.FIELDS[what] for what in study.config.tune]
    here = True  # whether all that differs was searched in this study
    for field in dataclasses.fields(Recipe):
        each = setting_of_each(group.arms, field.name)
        if len(set(each.values())) > 1:
            by = ", searched here" if field.name in searched else ""
            text = f"{spaced(field.name)} ({in_words(each)}{by})"
            rescaled = field.name == "learning_rate" and group.setting.batch_size is not None
            (scaled if rescaled and not by else differing).append(text)
            here &= bool(by) or rescaled
    said = []
    earlier = "" if here else ", in normlab's records"
    if differing:
        said.append(
            "Beside the normalization the arms differ in what was found best for each on held-out "
            f"images{earlier}: {listed(differing)}."
        )
    said += _made_with_bn(study, group)
    if scaled:
        said.append(
            f"The arms differ in their {scaled[0]}: each is its recipe's, scaled to the batch size "
            "that is compared."
        )
    if study.config.batch_sizes and "lr" not in study.config.tune:
        said.append(
            "The learning rate goes with the square root of the batch size, from the recipe's on "
            "(Hoffer, Hubara & Soudry 2017)."
        )
    return said


def _made_with_bn(study: Study, group: Group) -> list[str]:
    """That a recipe whose settings were found for bn is in force for others too."""
    name = group.arms[0].config.recipe or ""
    if recipes.tuned_settings(name, "bn") is None:
        return []
    norms = [arm.norm for arm in group.arms]
    left_out = [
        a.norm for a in group.arms if a.config.untuned and recipes.tuned_settings(name, a.norm)
    ]
    unknown = [norm for norm in norms if recipes.tuned_settings(name, norm) is None]
    if not (left_out or ("bn" in norms and unknown)):
        return []
    said = f"The recipe {name} was made with bn"
    if left_out:
        said += f", and what was found best for {listed(left_out)} is left out"
    if "bn" in norms:
        said += ": bn may be favoured"
        said += " in all but the learning rate" if "lr" in study.config.tune else ""
    return [f"{said}."]


def setting_of_each(arms: Sequence[Arm], field: str) -> dict[str, object]:
    """A setting of a recipe, as each normalization was trained with it."""
    return {arm.norm: getattr(arm.recipe, field) for arm in arms}


def in_words(each: Mapping[str, object]) -> str:
    """What each has: `bn 64, gn 128`; where all have the same, that alone."""
    texts = {norm: _setting(value) for norm, value in each.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return ", ".join(f"{norm} {text}" for norm, text in texts.items())


def _setting(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else setting_value(value)


def _assumptions(group: Group, pairs: int) -> list[str]:
    seeds = group.seeds
    if seeds < 2 or len(group.arms) < 2:
        return []
    in_force = [arm.recipe for arm in group.arms]
    alike = len({(r.batch_size, r.augment, r.mirror) for r in in_force}) == 1
    batches = "see the same batches" if alike else "see the images in the same order"
    said = (
        "Normalizations are compared seed by seed, for at a seed all start from the same "
        f"convolutions and {batches}. Intervals and p-values are Student's, of these "
        "paired differences, and take them to be normally distributed; p-values are corrected for "
        f"all {pairs} pairs that are compared (Holm), intervals are not."
    )
    if seeds < 6:
        said += (
            f" With {seeds} seeds a permutation test, which needs no normal distribution, cannot "
            "reach 5%, so none is given."
        )
    return [said]
