"""The figures of a search on a study's page with their words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from normlab.report.plots import (
    LABEL,
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
from normlab.study.plan import Arm, Setting, settings
from normlab.study.tuning import Round, Trial, best, in_round, rounds, tried
from normlab.wording import counted


def searches(data: StudyData) -> list[PageFigure]:
    """Every search of a setting for the arms of a group."""
    study = data.study
    return [
        _search(data, setting, arms, of)
        for of in rounds(study.config)
        for setting, arms in settings(study.arms).items()
        if any(in_round(study.trials, arm.name, of) for arm in arms)
    ]


def _search(data: StudyData, setting: Setting, arms: Sequence[Arm], of: Round) -> PageFigure:
    """Every trial of a round for the arms of a group."""
    where = f" at {setting.text(data.axes)}" if data.axes else ""
    by_arm = {arm.name: in_round(data.study.trials, arm.name, of) for arm in arms}
    optima = [
        f"{arm.norm} {_value(found.value)}" if found else f"{arm.norm} none"
        for arm in arms
        for found in (best(by_arm[arm.name]),)
    ]
    trials = [trial for of_arm in by_arm.values() for trial in of_arm]
    seeds = data.study.config.tune_seeds
    first, *longer = sorted({trial.epochs for trial in trials})
    caption = f"Every value was tried in runs of {counted(first, 'epoch')}."
    if len(arms) > 1:
        caption += " At each value the normalizations stand side by side."
    if longer:
        caption += (
            " The better half of the values went on to runs of "
            f"{' and of '.join(map(str, longer))} epochs, drawn with thicker lines."
        )
    if seeds > 1:
        caption += f" Lines: means over the {seeds} seeds. Dots: the seeds of the longest runs."
    lost = sum(trial.accuracy is None for trial in trials)
    crosses = (
        f" Crosses at the lower edge: {lost} of {len(trials)} trials, whose loss was not finite."
        if lost
        else ""
    )
    again = str(of.turn + 1) if of.turn else ""
    return PageFigure(
        name=f"search-{of.what}{again}{arms[0].name.removeprefix(arms[0].norm.replace(':', '.'))}",
        draw=lambda: _draw_search(by_arm, drawn(data.main, arms), of),
        alt=f"Search of the {of.label}{where}; best: {', '.join(optima)}.{crosses}",
        title=f"Search of the {of.label}{where}",
        caption=caption + crosses + left_out(data.main),
    )


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


@styled
def _draw_search(by_arm: Mapping[str, Sequence[Trial]], arms: Sequence[Arm], of: Round) -> Figure:
    """Every trial of a round: mean accuracy on held-out images by value, one line per rung.

    Values stand side by side in their order, and at each value the arms do, so that no mark covers
    another arm's. Trials whose loss was not finite are crosses at the lower edge.
    """
    figure = Chart(figsize=(WIDTH, 3.7))
    axes = figure.subplots()
    shown = [trial for arm in arms for trial in by_arm[arm.name]]
    values = sorted({trial.value for trial in shown})
    beside = min(0.24, 0.7 / len(arms))  # from one arm to the next, of the step between values
    rungs = sorted({t.rung for t in shown})
    for k, arm in enumerate(arms):
        shift = (k - (len(arms) - 1) / 2) * beside
        places = {value: place + shift for place, value in enumerate(values)}
        for rung in rungs:
            measured = tried(t for t in by_arm[arm.name] if t.rung == rung)
            measured.sort(key=lambda each: each.value)
            axes.plot(
                [places[each.value] for each in measured],
                [np.nan if each.mean is None else each.mean for each in measured],
                color=color_of(k),
                marker=marker_of(k),
                linewidth=0.8 + 0.6 * rung,
                markersize=2.5 + 1.2 * rung,
                alpha=0.5 + 0.5 * rung / max(rungs[-1], 1),
                label=short(arm.norm, LABEL) if rung == rungs[-1] else None,
            )
            seeds = [(places[v.value], a) for v in measured for a in v.trained]
            if rung == rungs[-1] and len(seeds) > len(measured):
                axes.plot(
                    *zip(*seeds, strict=True),
                    color=color_of(k),
                    linestyle="",
                    marker=".",
                    markersize=3,
                )
        lost = [places[t.value] for t in by_arm[arm.name] if t.accuracy is None]
        axes.plot(
            lost,
            [0.03] * len(lost),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="x",
            color=color_of(k),
        )
    every = math.ceil(len(values) / 6)
    axes.set_xticks(range(0, len(values), every), [_value(value) for value in values[::every]])
    axes.set_xlabel(of.label)
    axes.set_ylabel("accuracy, held-out images")
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    legend(figure, axes)
    return figure
