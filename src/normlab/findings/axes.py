"""Whether another normalization is best elsewhere along the axes of a study."""

import dataclasses
from collections.abc import Sequence
from itertools import groupby

from normlab.findings.groups import Group, along, main_group
from normlab.findings.statistics import Difference
from normlab.study.plan import AXES, settings
from normlab.study.record import Study
from normlab.wording import axis_value, listed, points, span


def best_along_axes(study: Study, groups: Sequence[Group]) -> str | None:
    """Where along the axes another normalization leads than the best of the main group."""
    axes = study.axes
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
