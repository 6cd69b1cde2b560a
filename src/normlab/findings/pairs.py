"""Two normalizations in words: their difference, how sure it is, how many seeds would show it."""

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from normlab.findings import statistics
from normlab.findings.groups import Group, main_group
from normlab.findings.statistics import Difference
from normlab.study.plan import Arm
from normlab.study.record import Study
from normlab.wording import counted, p_value, points, points_range, probability

GOAL = 0.005  # a difference that a study should be able to detect
FEW_PAIRS = 6  # pairs with a sentence; the others are in the table


def certainty(group: Group) -> str:
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


def other_pairs(study: Study, groups: Sequence[Group]) -> list[str]:
    """The tested pairs without the main group's best one, which the headline compares."""
    main = main_group(groups)
    best = main.ranked[0][0]
    pairs = []
    for group in sorted(groups, key=lambda group: group is not main):
        if group.tried > 1:
            where = "" if group is main else f"At {group.setting.text(study.axes)}, "
            pairs += [
                (where, group, above, below)
                for (above, _), (below, _) in combinations(group.ranked, 2)
                if above is not best
                and ((pair := group.difference(above, below)) is None or pair.planned)
            ]
    sentences = [
        f"{where}{_pair(group, above, below, study.images)}"
        for where, group, above, below in pairs[:FEW_PAIRS]
    ]
    more = len(pairs) - FEW_PAIRS
    if more > 0:
        sentences.append(f"{counted(more, 'more pair')} {_are(more)} in the table.")
    return sentences


def _pair(group: Group, above: Arm, below: Arm, images: int) -> str:
    if group.failed[above.name] != group.failed[below.name]:
        return f"{how_often_each_trained(group, above, below, images)}."
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


def how_often_each_trained(group: Group, one: Arm, other: Arm, images: int | None) -> str:
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


def _numbers(pair: Difference, images: int) -> str:
    """The mean difference, its interval and its p-value, as far as they are known."""
    return ", ".join([points(pair.mean.value, images), *tested(pair, images)])


def tested(pair: Difference, images: int) -> list[str]:
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


def seeds_needed(group: Group, comparisons: int) -> list[str]:
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
