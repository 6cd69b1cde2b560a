"""The figures of a study's accuracies and differences with their words.

A new figure is one entry in a list below and the function that draws it.
"""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from normlab.findings import contrasts
from normlab.findings.contrasts import Change
from normlab.findings.groups import Group, along
from normlab.findings.recalibration import without_recalibration
from normlab.findings.statistics import PAIR_TESTS, Difference, Estimate
from normlab.report.plots import (
    COLORS,
    FAINT,
    LABEL,
    MUTED,
    PAPER,
    WIDTH,
    Chart,
    color_of,
    legend,
    marker_of,
    percent_axis,
    short,
    styled,
)
from normlab.report.rendering import PageFigure
from normlab.report.study_data import StudyData, drawn, left_out
from normlab.study.plan import AXES, Arm
from normlab.study.record import Study
from normlab.table import Table
from normlab.wording import (
    axis_value,
    counted,
    listed,
    p_cell,
    percent,
    points_range,
    probability,
    signed_points,
)

MAX_PAIRS = 45  # a forest plot of more cannot be read


def accuracy(data: StudyData) -> list[PageFigure]:
    """Accuracy by epoch, and along each axis of the study."""
    main = data.main
    return [
        PageFigure(
            name="curves",
            draw=lambda: _draw_curves(data.study, main, drawn(main, main.arms)),
            alt=_curves_alt(main, data.study.images),
            title="Accuracy by epoch",
            caption=_curves_caption(main),
        ),
        *_along_statistics(data),
        *(
            _along_axis(data, axis, line)
            for axis in data.study.axes
            if len(line := along(data.groups, axis)) > 1
        ),
    ]


def differences(data: StudyData) -> list[PageFigure]:
    """The planned differences, those of the main setting first; empty if there are none."""
    study = data.study
    norms = {arm.name: arm.norm for arm in study.arms}
    groups = sorted(data.groups, key=lambda group: group is not data.main)
    pairs = []
    for group in groups:
        where = f", {group.setting.text(study.axes)}" if study.axes else ""
        pairs += [
            (f"{norms[pair.first]} − {norms[pair.second]}{where}", pair)
            for pair in group.ordered_pairs
            if len(pair.differences) > 1 and pair.planned
        ]
    if not pairs:
        return []
    all_planned = all(pair.planned for group in groups for pair in group.differences)
    in_figure = pairs[:MAX_PAIRS]
    return [
        PageFigure(
            name="forest",
            draw=lambda: _draw_forest(in_figure),
            alt=_forest_alt(in_figure),
            title="Differences, seed by seed",
            caption="Large marks: mean differences with simultaneous 95% intervals, filled if a "
            "difference is shown. Dots: the seeds.",
            table=_pairs_table(
                in_figure,
                every=len(pairs),
                noun="pairs" if all_planned else "planned pairs",
                study=study,
            ),
        )
    ]


def changes(data: StudyData) -> list[PageFigure]:
    """How differences change from one setting to another; empty if no change is tested."""
    listed_here = data.changes[:MAX_PAIRS]
    texts = [contrasts.label(data.study, change.contrast) for change in listed_here]
    in_figure = [
        (text, change.change)
        for text, change in zip(texts, listed_here, strict=True)
        if not change.failures  # few seeds, a wide interval: the others could not be read
    ]
    if not in_figure:
        return []
    failed = any(change.failures for change in listed_here)
    shown = [text for text, change in in_figure if change.shown]
    alt = f"Changes of differences: {len(shown)} of {len(in_figure)} are shown"
    margin = data.study.config.margin
    return [
        PageFigure(
            name="changes",
            draw=lambda: _draw_forest(in_figure, margin=margin),
            alt=f"{alt}: {'; '.join(shown)}." if shown else f"{alt}.",
            title="Changes of differences",
            caption="A difference in one setting minus the same difference in another, seed by "
            f"seed, as in the figure above. Grey band: what counts as equal, ±{margin:g} points."
            f"{' Changes of arms that failed are in the table only.' if failed else ''}",
            table=_changes_table(listed_here, texts, len(data.changes), data.study),
        )
    ]


# Accuracy by epoch


def _curves_caption(main: Group) -> str:
    if main.seeds == 1:
        return f"One run each.{left_out(main)}"
    which = " with which each trained" if main.failures else ""
    return (
        f"Lines: means over the seeds{which}. Bands: from the lowest seed to the highest."
        f"{left_out(main)}"
    )


def _curves_alt(main: Group, images: int) -> str:
    ends = ", ".join(f"{arm.norm} {percent(mean.value, images)}" for arm, mean in main.ranked)
    return f"Mean accuracy by epoch, with the range of the seeds. It ends at: {ends}."


@styled
def _draw_curves(study: Study, group: Group, arms: Sequence[Arm]) -> Figure:
    """Mean accuracy by epoch, in a band from the lowest seed to the highest."""
    figure = Chart(figsize=(WIDTH, 3.5))
    axes = figure.subplots()
    for k, arm in enumerate(arms):
        runs = [r.accuracies for r in group.trained(study, arm)]
        shortest = min(map(len, runs))
        values = np.array([run[:shortest] for run in runs])
        epochs = np.arange(1, shortest + 1)
        axes.fill_between(
            epochs, values.min(0), values.max(0), color=color_of(k), alpha=0.18, linewidth=0
        )
        axes.plot(
            epochs,
            values.mean(0),
            color=color_of(k),
            marker=marker_of(k),
            markevery=max(1, shortest // 10),
            label=short(arm.norm, LABEL),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    legend(figure, axes)
    return figure


# Accuracy along an axis


def _along_axis(data: StudyData, axis: str, line: Sequence[Group]) -> PageFigure:
    others = [other for other in data.study.axes if other != axis]
    arms = [*{arm.norm: arm for group in line for arm in group.arms}.values()]
    marks = "Means and their 95% intervals" if any(g.seeds > 1 for g in line) else "One run each"
    where = f", with {line[0].setting.text(others)}" if others else ""
    hollow = any(group.failed[arm.name] for group in line for arm in group.arms)
    failed = " Hollow marks: some seeds failed, and the mean is over the others." if hollow else ""
    return PageFigure(
        name=axis.replace("_", "-"),
        draw=lambda: _draw_along_axis(line, axis, [a.norm for a in drawn(data.main, arms)]),
        alt=_axis_alt(line, axis, data.study.images),
        title=f"Accuracy against {AXES[axis].label}",
        caption=f"{marks}{where}.{failed}{left_out(data.main)}",
    )


def _axis_alt(line: Sequence[Group], axis: str, images: int) -> str:
    parts = []
    for group in line:
        arm, mean = group.ranked[0]
        where = group.setting.text([axis])
        parts.append(f"at {where} {arm.norm} is highest with {percent(mean.value, images)}")
    return f"Accuracy against {AXES[axis].label}: {'; '.join(parts)}."


@styled
def _draw_along_axis(line: Sequence[Group], axis: str, norms: Sequence[str]) -> Figure:
    """Mean accuracy of normalizations along an axis of the study, with 95% intervals."""
    figure = Chart(figsize=(WIDTH, 3.5))
    axes = figure.subplots()
    values = [getattr(group.setting, axis) for group in line]
    numeric = all(isinstance(value, int | float) for value in values)
    places = values if numeric else list(range(len(values)))
    for k, norm in enumerate(norms):
        xs, estimates, failed = [], [], []
        for place, group in zip(places, line, strict=True):
            for arm in group.arms:
                if arm.norm == norm:
                    xs.append(place)
                    estimates.append(group.mean(arm))
                    failed.append(bool(group.failed[arm.name]))
        _draw_means(axes, xs, estimates, k, label=short(norm, LABEL))
        means = np.array([e.value for e in estimates])
        hollow = np.array(failed)
        axes.plot(
            np.array(xs)[hollow],
            means[hollow],
            linestyle="",
            color=color_of(k),
            marker=marker_of(k),
            markerfacecolor=PAPER,
            zorder=3,
        )
    if numeric and min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log", base=2)
    width = 48 // len(values)  # characters of a tick's label: a layout has more
    axes.set_xticks(
        places,
        [
            "\n".join(wrap(short(axis_value(value), 64), width, break_long_words=False))
            for value in values
        ],
    )
    axes.minorticks_off()
    axes.set_xlabel(AXES[axis].label)
    axes.set_ylabel("accuracy, last epoch")
    _percent_within_range(axes)
    axes.grid()
    legend(figure, axes)
    return figure


def _draw_means(
    axes: Axes, xs: Sequence[float], estimates: Sequence[Estimate], k: int, *, label: str
) -> None:
    """A line through means with their 95% intervals, in the k-th colour and with its marker."""
    ends = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    ends[np.isinf(ends)] = np.nan  # no bar if the seeds show no spread
    axes.errorbar(
        xs,
        [e.value for e in estimates],
        yerr=ends,
        color=color_of(k),
        marker=marker_of(k),
        capsize=2.5,
        elinewidth=1.0,
        label=label,
    )


def _percent_within_range(axes: Axes) -> None:
    """An axis of accuracies ends at 0% and 100%: Student's intervals of few seeds reach further."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 1))
    axes.yaxis.set_major_formatter(percent_axis)


def _along_statistics(data: StudyData) -> list[PageFigure]:
    """Accuracy against the images that batch statistics are over; empty without such arms."""
    main = data.main
    images = {arm.name: n for arm in main.arms if (n := _images_of_statistics(arm))}
    if len(images) < 3 or len({arm.recipe.batch_size for arm in main.arms}) > 1:
        return []
    over = [
        arm for arm in sorted(main.arms, key=lambda a: images.get(a.name, 0)) if arm.name in images
    ]
    others = [arm for arm in main.arms if arm.name not in images]
    best = max(over, key=main.score)
    hollow = " Hollow: running statistics as training left them." if _before(data, over) else ""
    return [
        PageFigure(
            name="statistics",
            draw=lambda: _draw_along_statistics(data, over, others, images),
            alt=f"Accuracy against the number of images in batch statistics: "
            f"from {percent(main.mean(over[0]).value, data.study.images)} at "
            f"{images[over[0].name]} to {percent(main.mean(over[-1]).value, data.study.images)} at "
            f"{images[over[-1].name]}, highest at {images[best.name]}.",
            title="Accuracy against the number of images in bn's statistics",
            caption="All networks update their weights after the same number of images; only the "
            "number of images in the statistics differs. On the right: other normalizations. Means "
            f"and their 95% intervals.{hollow}",
        )
    ]


def _images_of_statistics(arm: Arm) -> int | None:
    """The images that an arm's statistics are over in training; None for other normalizations."""
    kind, _, images = arm.norm.partition("=")
    if kind == "bn":
        return arm.recipe.batch_size
    return int(images or 32) if kind == "ghost-bn" else None


def _before(data: StudyData, arms: Sequence[Arm]) -> list[Estimate | None]:
    """The means of arms without recalibration; empty if nothing was recalibrated."""
    if not data.study.config.recalibrate:
        return []
    return [without_recalibration(data.study, data.main, arm) for arm in arms]


@styled
def _draw_along_statistics(
    data: StudyData, over: Sequence[Arm], others: Sequence[Arm], images: Mapping[str, int]
) -> Figure:
    """As Wu & He 2018, Group Normalization, figure 1, but with the same updates everywhere."""
    figure = Chart(figsize=(WIDTH, 3.5))
    widths = (len(over) + 1, max(len(others), 1))
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=widths)
    xs = [images[arm.name] for arm in over]
    _draw_means(axes, xs, [data.main.mean(arm) for arm in over], 0, label="bn")
    if before := _before(data, over):
        axes.plot(
            xs,
            [e.value if e else math.nan for e in before],
            linestyle=":",
            color=color_of(0),
            marker=marker_of(0),
            markerfacecolor=PAPER,
            label="bn, not recalibrated",
        )
        legend(figure, axes)
    for k, arm in enumerate(others, start=1):
        _draw_means(beside, [k], [data.main.mean(arm)], k, label=arm.norm)
    names = [short(arm.norm) for arm in others]
    turned = {"rotation": 40, "ha": "right"} if len(names) > 3 else {}
    beside.set_xticks(range(1, len(names) + 1), names, **turned)
    beside.margins(x=0.6 / widths[1])
    if not others:
        beside.set_axis_off()
    axes.set_xscale("log", base=2)
    axes.set_xticks(xs, [str(x) for x in xs])
    axes.minorticks_off()
    axes.set_xlabel("images in bn's statistics")
    axes.set_ylabel("accuracy, last epoch")
    _percent_within_range(axes)
    axes.grid()
    beside.grid(axis="y")
    return figure


# Differences


def _forest_alt(pairs: Sequence[tuple[str, Difference]]) -> str:
    shown = [label.replace(" − ", " above ") for label, pair in pairs if pair.shown]
    result = f"shown: {'; '.join(shown)}" if shown else "none shown to differ"
    return f"Paired differences of {counted(len(pairs), 'pair')}; {result}."


def _pairs_table(
    labelled: Sequence[tuple[str, Difference]], *, every: int, noun: str, study: Study
) -> Table:
    """The pairs with a column for each test that applies.

    Args:
        labelled: The pairs of the table with their labels.
        every: The number of all pairs that were planned.
        noun: What they are called.
        study: The study. Intervals and p-values are corrected for all its contrasts, at each look.
    """
    images, corrected = study.images, contrasts.comparisons(study)
    pairs = [pair for _, pair in labelled]
    columns = [
        (test, [test.p(pair) for pair in pairs])
        for test in PAIR_TESTS
        if corrected > 1 or not test.corrected
    ]
    columns = [(test, cells) for test, cells in columns if any(p is not None for p in cells)]
    notes = []
    if every > MAX_PAIRS:
        notes.append(f"The first {MAX_PAIRS} of {every} {noun}.")
    elif every > 1:
        notes.append(f"All {noun}.")
    if corrected > 1:
        with_correction, without = (
            [test.label for test, _ in columns if test.corrected is kind] for kind in (True, False)
        )
        notes.append(
            f"Corrected for the study's {contrasts.number_tested(study)}: the intervals and "
            f"{listed(with_correction)}; not corrected: {listed(without)}."
        )
    if any(len(pair.added) for pair in pairs):
        notes.append("Over the planned seeds, not those that were added later.")
    notes.append(
        "Wins: the probability that the first is above the second with a new seed (Bouthillier et "
        "al., 2021)."
    )
    if any(not pair.same_failures for pair in pairs):
        notes.append(
            "Where two failed with different seeds, p is unknown; the difference is over the seeds "
            "with which both trained, and a failed run counts as a loss."
        )
    return Table(
        caption=" ".join(notes),
        head=(
            *("pair", "difference", "95% interval"),
            *(test.label for test, _ in columns),
            "wins",
        ),
        kinds=("name", *["number"] * (3 + len(columns))),
        rows=[
            (
                label,
                signed_points(pair.mean.value, images),
                points_range(pair.mean.low, pair.mean.high, images)
                if math.isfinite(pair.mean.low)
                else "unknown",
                *(p_cell(cells[k]) for _, cells in columns),
                "unknown"
                if (pair.wins.low, pair.wins.high) == (0, 1)
                else f"{probability(pair.wins.value)} ({probability(pair.wins.low)} to "
                f"{probability(pair.wins.high)})",
            )
            for k, (label, pair) in enumerate(labelled)
        ],
    )


def _changes_table(
    found: Sequence[Change], texts: Sequence[str], every: int, study: Study
) -> Table:
    number = "All changes." if every <= MAX_PAIRS else f"The first {MAX_PAIRS} of {every} changes."
    images, margin = study.images, study.config.margin

    def verdict(change: Change) -> str:
        if change.failures:
            return f"{listed(change.failures)} failed with some seeds"
        equal = f"within ±{margin:g}" if change.equivalent(margin / 100) else ""
        return " and ".join(filter(None, ("shown" if change.shown else "", equal))) or "not shown"

    return Table(
        caption=f"{number} In points: both differences, their difference with its simultaneous 95% "
        "interval, and its p-value, corrected for all contrasts of the study.",
        head=("contrast", "here", "there", "change", "95% interval", "p (Bonferroni)", "verdict"),
        kinds=("name", *["number"] * 5, "name"),
        rows=[
            (
                text,
                signed_points(change.here, images),
                signed_points(change.there, images),
                signed_points(change.change.mean.value, images),
                points_range(change.change.mean.low, change.change.mean.high, images)
                if math.isfinite(change.change.mean.low)
                else "unknown",
                p_cell(change.change.p_corrected),
                verdict(change),
            )
            for text, change in zip(texts, found, strict=True)
        ],
    )


@styled
def _draw_forest(pairs: Sequence[tuple[str, Difference]], *, margin: float | None = None) -> Figure:
    """Paired differences with their 95% intervals, in points; a line at no difference.

    Args:
        pairs: The differences with their labels; see `MAX_PAIRS`.
        margin: What counts as equal, in points, as a band; None: no band.
    """
    # A layout would leave no room for the intervals: at most four lines of two fifths of the width.
    labels = [wrap(short(label, 90), 24) for label, _ in pairs]
    row_height = max(0.36, 0.06 + 0.17 * max(map(len, labels)))
    figure = Chart(figsize=(WIDTH, 0.9 + row_height * len(pairs)))
    axes = figure.subplots()
    if margin is not None:
        axes.axvspan(-margin, margin, color=FAINT, linewidth=0)
    axes.axvline(0, color=MUTED, linewidth=1.0)
    for row, (_, pair) in enumerate(pairs):
        color = COLORS[0] if pair.shown else MUTED
        axes.plot(
            100 * pair.differences,
            np.full(len(pair.differences), row) + 0.24,
            linestyle="",
            marker=".",
            markersize=3,
            color=MUTED,
        )
        axes.plot(
            [100 * pair.mean.low, 100 * pair.mean.high], [row, row], color=color, linewidth=1.8
        )
        filled = color if pair.shown else "none"
        axes.plot(100 * pair.mean.value, row, marker="o", color=color, markerfacecolor=filled)
    axes.set_yticks(range(len(labels)), ["\n".join(lines) for lines in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference of accuracies, points")
    axes.grid(axis="x")
    return figure
