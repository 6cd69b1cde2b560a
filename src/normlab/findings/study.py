"""Findings about a study as sentences, each from a number, and what the numbers cannot show."""

import dataclasses
import math
from collections.abc import Sequence, Set
from itertools import combinations, groupby
from statistics import median

import numpy as np

from normlab import recipes
from normlab.findings import contrasts, statistics
from normlab.findings.groups import Group, along, changes, main_group
from normlab.findings.run import TARGET, has_target
from normlab.findings.search import searches
from normlab.findings.statistics import Difference
from normlab.network import zoo
from normlab.recipes import Recipe
from normlab.study import tuning
from normlab.study.plan import AXES, Arm, settings, varying
from normlab.study.record import Result, Study
from normlab.wording import (
    axis_value,
    by_name,
    counted,
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
FEW_RIVALS = 3  # rivals with numbers in the headline; the numbers of the others are in the table
FEW_PAIRS = 6  # pairs with a sentence; the others are in the table
FEW_FAILURES = 5  # arms with failed runs that are named
STILL_RISING = 0.02  # accuracy gained in the last epoch: more epochs would gain more


def headline(study: Study, groups: Sequence[Group]) -> list[str]:
    """The best normalization in words, by how much, when that changes, how differences change."""
    main = main_group(groups)
    return [
        _best(main),
        _by_how_much(main, study.images),
        *_planned_pairs(study, main),
        _changes(study, groups) or _certainty(main),
        *contrasts.headline(study, changes(study, groups)),
    ]


def further(study: Study, groups: Sequence[Group]) -> list[str]:
    """The findings that are not in the headline."""
    main = main_group(groups)
    pairs = [pair for group in groups for pair in group.differences if pair.planned]
    return [
        # Without a varying axis it is in the headline.
        *([_certainty(main)] if varying(settings(study.arms)) and main.tried > 1 else []),
        *_other_pairs(main, study.images),
        *contrasts.further(study, changes(study, groups), pairs),
        *_seeds_needed(main, contrasts.comparisons(study)),
        *_still_rising(study, main),
        *_first_passed(study, main),
        *searches(study),
        *_failed_runs(study, groups),
        *_unfinished_runs(study.results),
        *_differing_recipes(study, main),
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


def settings_by_norm(arms: Sequence[Arm], field: str) -> dict[str, str]:
    """A setting of the recipe as text, for each normalization."""
    return {arm.norm: rounded_setting(getattr(arm.recipe, field)) for arm in arms}


# Headline


def _best(group: Group) -> str:
    """Which normalization is best, and above which others it is shown to be, without a number."""
    leaders = _leaders(group)
    best = group.ranked[0][0]
    if len(group.arms) == 1:
        if group.untrained:
            return f"Only {best.norm} trained; nothing can be compared with it."
        return f"Nothing was compared with {best.norm}."
    # An arm with fewer seeds has a higher mean.
    highest = max(group.mean(arm).value for arm in group.arms)
    if_counted = " if failed runs count as zero"
    ranked = "" if math.isclose(highest, group.mean(best).value) else if_counted
    has, it = ("have", best.norm) if len(leaders) > 1 else ("has", "it")
    if group.tried == 1:
        return (
            f"{listed(leaders)} {has} the highest accuracy{ranked}; one seed cannot show a "
            "difference between normalizations."
        )
    standing = {arm.norm: _standing(group, best, arm) for arm, _ in group.ranked[1:]}
    kinds = ("below", "above", "failures differ", "untested")
    shown, above, apart, untested = (
        [norm for norm, found in standing.items() if found == kind] for kind in kinds
    )
    tied = [arm for arm, _ in group.ranked[1:] if arm.norm in leaders]
    arms = {arm.norm: arm for arm in group.arms}
    below = [n for n in shown if all(_standing(group, t, arms[n]) == "below" for t in tied)]
    below_one = [norm for norm in shown if norm not in below]
    undecided = [
        norm if found == "undecided" else f"{norm} ({found})"
        for norm, found in standing.items()
        if found not in kinds and not (norm in leaders and found == "undecided")
    ]
    if below:
        is_best = f"{'are' if len(leaders) > 1 else 'is'} best{ranked}"
        texts = [f"{listed(leaders)} {is_best}: shown to be above {listed(below)}"]
    else:
        texts = [f"{listed(leaders)} {has} the highest mean accuracy{ranked}"]
    if "undecided" in (standing[norm] for norm in leaders[1:]):
        texts.append("their means are equal")
    if below_one:
        texts.append(f"{best.norm} is shown to be above {listed(below_one)}")
    if undecided:
        texts.append(f"{it} is not shown to be above {listed(undecided, 'or')}")
    if apart:
        texts.append(f"there is no test against {listed(apart)}, because their failures differ")
    if above:
        texts.append(
            f"but over the seeds that both finished, {listed(above)} is shown to be above {it}"
        )
    if untested:
        rivals = listed(untested) if len(untested) <= FEW_RIVALS else f"{len(untested)} others"
        texts.append(f"the study did not plan to test {it} against {rivals}")
    if group.guessing:
        texts.append("no run of the study is above chance")
    return f"{'; '.join(texts)}."


def _standing(group: Group, best: Arm, arm: Arm) -> str:
    """What is shown of another arm: `below` or `above` the best; else why nothing is shown."""
    pair = group.better_first(best, arm)
    if group.failed[arm.name] != group.failed[best.name]:
        return "failures differ"
    if pair is None:
        return "no seed in common"
    if not pair.planned:
        return "untested"
    if len(pair.differences) == 1:
        return "one seed in common"
    if not pair.shown:
        return "undecided"
    return "below" if pair.first == best.name else "above"


def _leaders(group: Group) -> list[str]:
    """The best normalization, and those with the same mean."""
    (best, _), *others = group.ranked
    ties = [arm.norm for arm, _ in others if math.isclose(group.score(arm), group.score(best))]
    return [best.norm, *ties]


def _by_how_much(group: Group, images: int) -> str:
    """The best mean accuracy, and its differences to those of the nearest rivals."""
    (best, mean), *others = group.ranked
    several = len(_leaders(group)) > 1
    texts = [
        f"{'Their' if several else 'Its'} mean accuracy is {percent(mean.value, images)}"
        f"{_over_seeds(group, best)}"
    ]
    named: set[str] = set()  # arms whose failures are named by then
    differences, unequal = [], []
    for place, (arm, _) in enumerate(others):
        standing = _standing(group, best, arm)
        if standing == "failures differ" and group.tried > 1:
            unequal.append(_unequal(group, best, arm, images if place < FEW_RIVALS else None))
            named |= {best.name, arm.name}
        elif standing in ("below", "above", "undecided") and place < FEW_RIVALS:
            pair = group.better_first(best, arm)
            assert pair is not None  # else nothing of it is shown or undecided
            differences.append(_difference_to(arm.norm, pair, best, images))
    if differences:
        texts.append(f"{best.norm if several else 'it'} is {listed(differences)}")
    return f"{'; '.join([*texts, *unequal])}{_failures(group, named)}."


def _difference_to(norm: str, pair: Difference, best: Arm, images: int) -> str:
    """How far the best is above another: `1.16 points above ln (95% interval …, corrected …)`."""
    where = f"above {norm}"
    if pair.first != best.name:
        where = f"below {norm} over the seeds that both finished"
    return f"{points(pair.mean.value, images)} {where} ({', '.join(_tested(pair, images))})"


def _over_seeds(group: Group, arm: Arm) -> str:
    """Over how many seeds a mean is: ` over 5 seeds`, ` over 3 of 5 seeds`, ` (one run)`."""
    trained, ended = len(group.accuracies[arm.name]), group.ended(arm)
    if trained < ended:
        return f" over {trained} of {ended} seeds"
    return f" over {trained} seeds" if trained > 1 else " (one run)"


def _unequal(group: Group, one: Arm, other: Arm, images: int | None) -> str:
    """How often each of two arms trained whose failures differ, instead of a test.

    Args:
        group: Their group.
        one: The arm that is named first.
        other: The other one.
        images: The number of images, for their difference over the common seeds; None without it.
    """
    text = (
        f"{one.norm} trained with {len(group.accuracies[one.name])} of "
        f"{counted(group.ended(one), 'seed')}, {other.norm} with "
        f"{len(group.accuracies[other.name])} of {group.ended(other)}"
    )
    values, others = group.accuracies[one.name], group.accuracies[other.name]
    common = values.keys() & others.keys()
    if not common:
        return f"{text}, but never both with the same one"
    if images is None:
        return text
    lead = float(np.mean([values[seed] - others[seed] for seed in common]))
    above, below = (one, other) if lead >= 0 else (other, one)
    return (
        f"{text}: over the {f'{len(common)} seeds' if len(common) > 1 else 'one seed'} with which "
        f"both trained, {above.norm} is {points(abs(lead), images)} above {below.norm}"
    )


def _failures(group: Group, named: Set[str]) -> str:
    """The arms that failed, without those that are named already."""
    texts = (text for name, text in group.failures.items() if name not in named)
    return "".join(f"; {text}" for text in texts)


def _numbers(pair: Difference, images: int) -> str:
    """The mean difference, its interval and its p-value, as far as they are known."""
    return ", ".join([points(pair.mean.value, images), *_tested(pair, images)])


def _tested(pair: Difference, images: int) -> list[str]:
    """The seeds, the interval and the p-value of a difference, as far as they are known."""
    low, high = pair.mean.low, pair.mean.high
    texts = []
    if len(pair.added):
        texts.append(f"over the {counted(len(pair.differences), 'planned seed')}")
    if math.isfinite(low):
        texts.append(f"95% interval {points_range(low, high, images)}")
    else:
        texts.append("no interval, because the seeds show no spread")
    if not math.isnan(pair.p_corrected):
        texts.append(f"corrected {p_value(pair.p_corrected)}")
    return texts


def _planned_pairs(study: Study, group: Group) -> list[str]:
    """What the planned pairs show, where a study of one setting planned several, but not all."""
    planned = len(contrasts.planned_pairs(study))
    if varying(settings(study.arms)) or not 1 < planned < math.comb(len(study.arms), 2):
        return []
    norms = {arm.name: arm.norm for arm in group.arms}
    below: dict[str, list[str]] = {}
    for pair in group.ordered_pairs:
        if pair.shown:
            below.setdefault(norms[pair.first], []).append(norms[pair.second])
    number = sum(map(len, below.values()))
    text = f"Of the {planned} pairs that the study planned to test, "
    if not number:
        return [f"{text}none shows a difference."]
    above = "; ".join(f"{norm} is above {listed(others)}" for norm, others in below.items())
    return [f"{text}{number} {'shows' if number == 1 else 'show'} a difference: {above}."]


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
    for problem, places in missing.items():
        text += f"; at {listed(places)}, {problem}"
    if others:
        text += f", with {main.setting.text(others)}"
    return text


def _missing(study: Study, groups: Sequence[Group], axis: str) -> dict[str, list[str]]:
    """The values of an axis, beside the main group, where no run trained, by the reason."""
    main, trained = main_group(groups).setting, {group.setting for group in groups}
    open_arms = {r.arm for r in study.results if r.state in ("waiting", "stopped")}
    values: dict[str, list[str]] = {}
    for setting, arms in settings(study.arms).items():
        beside = dataclasses.replace(setting, **{axis: getattr(main, axis)}) == main
        if beside and setting not in trained:
            unfinished = any(arm.name in open_arms for arm in arms)
            problem = "no run is finished" if unfinished else "nothing could be trained"
            values.setdefault(problem, []).append(axis_value(getattr(setting, axis)))
    return values


def _split_by_leader(line: Sequence[Group], best: str) -> list[list[Group]]:
    """Neighbours along an axis with the same leader and the same verdict on its lead."""

    def leader(group: Group) -> tuple[str, str]:
        gap = _gap(group, best)
        return group.ranked[0][0].norm, "" if gap is None else _verdict(gap)

    return [list(part) for _, part in groupby(line, leader)]


def _verdict(gap: Difference) -> str:
    """Whether a lead is shown."""
    if not gap.same_failures:
        return "not shown: their failures differ"
    if not gap.planned:
        return "not tested"
    return "shown" if gap.shown else "not shown"


def _lead(part: Sequence[Group], axis: str, best: str, images: int) -> str:
    """Which normalization leads in neighbouring groups: `gn at 2 (1.20 points above bn, shown)`."""
    first, last = (axis_value(getattr(group.setting, axis)) for group in (part[0], part[-1]))
    text = f"{part[0].ranked[0][0].norm} at {span(first, last)}"
    gaps = [gap for group in part if (gap := _gap(group, best)) is not None]
    if not gaps:
        return text
    widest = max(gap.mean.value for gap in gaps)
    return (
        f"{text} ({'up to ' if len(gaps) > 1 else ''}{points(widest, images)} above {best}, "
        f"{_verdict(gaps[0])})"
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


def _failures_along(groups: Sequence[Group], axis: str) -> list[str]:
    """The failures elsewhere on an axis: `bn could not be trained at batch size 2`."""
    values: dict[str, list[str]] = {}
    for group in along(groups, axis):
        if group is not main_group(groups):
            for failure in group.failures.values():
                values.setdefault(failure, []).append(axis_value(getattr(group.setting, axis)))
    return [
        f"{failure} at {AXES[axis].label} {listed(places)}" for failure, places in values.items()
    ]


def _certainty(group: Group) -> str:
    """The probability that the best normalization is above its nearest rival with a new seed.

    That is the second, or one that failed with other seeds and wins more often than the second.
    """
    if len(group.arms) < 2:
        if group.untrained:
            return f"Only {group.arms[0].norm} trained, so there is no difference to measure."
        return "A comparison needs at least two normalizations."
    best, *others = (arm for arm, _ in group.ranked)
    rivals = others[:1] + [
        arm for arm in others[1:] if group.failed[arm.name] != group.failed[best.name]
    ]
    pairs = [(arm, group.difference(best, arm)) for arm in rivals]
    second, pair = min(pairs, key=lambda rival: rival[1].wins.value if rival[1] else math.inf)
    if pair is not None and pair.wins.value < pair.swapped.wins.value:
        best, second, pair = second, best, pair.swapped
    if pair is None and group.failed[best.name] != group.failed[second.name]:
        return f"{best.norm} and {second.norm} never trained with the same seed."
    if pair is not None and not pair.planned:
        return (
            f"The study did not plan to test {best.norm} against {second.norm}: it does not say "
            "which would be above with a new seed."
        )
    # One seed, or seeds without a spread, say nothing. Failures are counted, and do.
    if pair is None or (math.isinf(pair.mean.high) and not pair.failed):
        return f"More seeds would show whether {best.norm} is above {second.norm}."
    value, low, high = map(probability, (pair.wins.value, pair.wins.low, pair.wins.high))
    text = (
        f"With a new seed, {best.norm} would be above {second.norm} with a probability of {value}"
    )
    if pair.failed:
        return f"{text} (95% interval {low} to {high}), where a failed run counts as a loss."
    if low == high:
        return f"{text}, assuming normally distributed differences."
    return f"{text} (95% interval {low} to {high})."


# Further findings


def _other_pairs(group: Group, images: int) -> list[str]:
    """The pairs of normalizations without the best one, which the headline compares."""
    if group.tried < 2:
        return []
    ranked = [arm for arm, _ in group.ranked]
    pairs = [
        (above, below)
        for above, below in combinations(ranked[1:], 2)
        if (pair := group.difference(above, below)) is None or pair.planned
    ]
    sentences = [_pair(group, above, below, images) for above, below in pairs[:FEW_PAIRS]]
    more = len(pairs) - FEW_PAIRS
    if more > 0:
        sentences.append(f"{counted(more, 'more pair')} {_are(more)} in the table.")
    return sentences


def _pair(group: Group, above: Arm, below: Arm, images: int) -> str:
    if group.failed[above.name] != group.failed[below.name]:
        return f"{_unequal(group, above, below, images)}."
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


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _seeds_needed(group: Group, comparisons: int) -> list[str]:
    """How many seeds would show a small difference; nothing where the seeds show no spread."""
    spreads = [
        (spread, len(pair.differences))
        for pair in group.differences
        if (spread := _spread(pair)) is not None
    ]
    if not spreads:
        return []
    spread, seeds = sorted(spreads)[len(spreads) // 2]
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
        f"{_seeds_for_the_lead(group, comparisons)}"
    ]


def _spread(pair: Difference) -> float | None:
    """The standard deviation of a difference between seeds; None of few seeds, or equal ones."""
    if len(pair.differences) < 3 or np.ptp(pair.differences) == 0:
        return None
    return float(np.std(pair.differences, ddof=1))


def _seeds_for_the_lead(group: Group, comparisons: int) -> str:
    """How many seeds would show the best mean's lead over the second, where it is not shown."""
    best, second = (arm for arm, _ in group.ranked[:2])
    pair = group.difference(best, second)
    if pair is None or not pair.planned or pair.shown or pair.mean.value <= 0:
        return ""
    spread = _spread(pair)
    if spread is None:
        return ""
    needed = statistics.seeds_needed(pair.mean.value, spread, comparisons)
    if needed is None or needed <= len(pair.differences):
        return ""
    return (
        f" If {best.norm} is as far above {second.norm} as it seems here, about {needed:,} seeds "
        "would show it."
    )


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


def _differing_recipes(study: Study, group: Group) -> list[str]:
    """What the arms differ in besides the normalization."""
    differing: list[str] = []
    scaled: list[str] = []
    searched = tuning.fields(study.config)
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
    sentences += [*_made_with_bn(study, group), *_layout_chosen_with(group)]
    if scaled:
        sentences.append(
            f"The arms differ in their {scaled[0]}: each is its recipe's, scaled to the compared "
            "batch size."
        )
    if "lr" not in study.config.tune:
        given = study.config.learning_rate
        if study.config.batch_sizes:
            rate = "the recipe's" if given is None else f"{given:g} at the recipe's batch size"
            sentences.append(
                f"The learning rate is {rate}, scaled with the square root of the batch size "
                "(Hoffer, Hubara & Soudry 2017)."
            )
        if len(group.arms) > 1 and not all(map(_has_own_settings, group.arms)):
            sentences.append(
                "One learning rate was tried. Another may suit one normalization better than the "
                "others: --tune lr searches it for each."
            )
    return sentences


def _has_own_settings(arm: Arm) -> bool:
    """Whether an arm is trained with the settings that a search found for its normalization."""
    found = recipes.tuned_settings(arm.config.recipe or "", arm.norm)
    return found is not None and not arm.config.untuned


def _made_with_bn(study: Study, group: Group) -> list[str]:
    """Whether others are trained with a recipe that was made with bn, and what that may favour."""
    name = group.arms[0].config.recipe or ""
    norms = [arm.norm for arm in group.arms]
    if name not in recipes.MADE_WITH_BN or len(norms) < 2:
        return []
    text = f"The recipe {name} was made with bn"
    left_out = [
        arm.norm
        for arm in group.arms
        if arm.config.untuned and recipes.tuned_settings(name, arm.norm)
    ]
    if left_out:
        text += f", and the settings found best for {listed(left_out)} are left out"
    if "bn" not in norms:
        return [f"{text}."]
    text += ": this may favour bn"
    if all(map(_has_own_settings, group.arms)):
        text += " in every setting that was not searched for each normalization"
    elif study.config.tune:
        searched = listed([*dict.fromkeys(tuning.KNOBS[w].label for w in study.config.tune)])
        text += f" in all settings but the {searched}"
    return [f"{text}."]


def _layout_chosen_with(group: Group) -> list[str]:
    """With which normalizations the layout of a named network was chosen."""
    known = zoo.ZOO.get(group.setting.network)
    if known is None or not known.chosen_with or len(group.arms) < 2:
        return []
    text = f"The layout of {group.setting.network} was chosen with {known.chosen_with}"
    alone = known.chosen_with == "bn" and any(arm.norm == "bn" for arm in group.arms)
    return [f"{text} alone: this too may favour bn." if alone else f"{text}."]


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
