"""The first sentences about a study: which normalization is best, and by how much."""

import math
from collections.abc import Sequence, Set

from normlab.findings import contrasts
from normlab.findings.groups import Group
from normlab.findings.pairs import how_often_each_trained, tested
from normlab.findings.statistics import Difference
from normlab.study.plan import Arm, settings
from normlab.study.record import Study
from normlab.wording import listed, percent, points

FEW_RIVALS = 3  # rivals with numbers in the headline; the numbers of the others are in the table


def which_is_best(group: Group) -> str:
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
        rivals = listed(untested) if len(untested) <= FEW_RIVALS else "the others"
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


def by_how_much(group: Group, images: int) -> str:
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
            unequal.append(
                how_often_each_trained(group, best, arm, images if place < FEW_RIVALS else None)
            )
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
    return f"{points(pair.mean.value, images)} {where} ({', '.join(tested(pair, images))})"


def _over_seeds(group: Group, arm: Arm) -> str:
    """Over how many seeds a mean is: ` over 5 seeds`, ` over 3 of 5 seeds`, ` (one run)`."""
    trained, ended = len(group.accuracies[arm.name]), group.ended(arm)
    if trained < ended:
        return f" over {trained} of {ended} seeds"
    return f" over {trained} seeds" if trained > 1 else " (one run)"


def _failures(group: Group, named: Set[str]) -> str:
    """The arms that failed, without those that are named already."""
    texts = (text for name, text in group.failures.items() if name not in named)
    return "".join(f"; {text}" for text in texts)


def what_planned_pairs_show(study: Study, groups: Sequence[Group]) -> list[str]:
    """What the planned pairs show, where a study planned several, but not all."""
    planned = len(contrasts.planned_pairs(study))
    every = sum(math.comb(len(arms), 2) for arms in settings(study.arms).values())
    if not 1 < planned < every:
        return []
    norms = {arm.name: arm.norm for arm in study.arms}
    below: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        where = f" at {group.setting.text(study.axes)}" if study.axes else ""
        for pair in group.ordered_pairs:
            if pair.shown:
                below.setdefault((norms[pair.first], where), []).append(norms[pair.second])
    number = sum(map(len, below.values()))
    text = f"Of the {planned} pairs that the study planned to test, "
    if not number:
        return [f"{text}none shows a difference."]
    above = "; ".join(f"{n} is above {listed(others)}{at}" for (n, at), others in below.items())
    return [f"{text}{number} {'shows' if number == 1 else 'show'} a difference: {above}."]
