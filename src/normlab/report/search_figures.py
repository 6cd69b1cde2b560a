"""The figures of a search on a study's page with their words."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from normlab.report.plots import (
    WIDTH,
    Chart,
    color_of,
    percent_axis,
    short,
    styled,
)
from normlab.report.rendering import PageFigure
from normlab.report.study_data import StudyData, drawn, left_out
from normlab.study.plan import Arm, Setting, settings
from normlab.study.tuning import Round, Trial, best, in_round, rounds, tried
from normlab.wording import counted, rounded_setting

COLUMNS = 3  # panels beside each other
TICKS = 3  # labelled values of a panel, at most
CHARACTERS = 18  # of all its labels
DEPTH = 0.2  # accuracy below the best trial's at which the axis begins: what is chosen is near it


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
    where = f" at {setting.text(data.study.axes)}" if data.study.axes else ""
    by_arm = {arm.name: in_round(data.study.trials, arm.name, of) for arm in arms}
    optima = [
        f"{arm.norm} {rounded_setting(found.value)}" if found else f"{arm.norm} none"
        for arm in arms
        for found in (best(by_arm[arm.name]),)
    ]
    trials = [trial for of_arm in by_arm.values() for trial in of_arm]
    seeds = data.study.config.tune_seeds
    first, *longer = sorted({trial.epochs for trial in trials})
    caption = f"Every value was tried in runs of {counted(first, 'epoch')}."
    if longer:
        caption += (
            " The better half of the values went on to runs of "
            f"{' and of '.join(map(str, longer))} epochs, drawn with thicker lines."
        )
    if seeds > 1:
        caption += f" Lines: means over the {seeds} seeds. Dots: the seeds of the longest runs."
    caption += " Dotted: the best value."
    lost = sum(trial.accuracy is None for trial in trials)
    crosses = (
        f" Crosses at the lower edge: {lost} of {len(trials)} trials, whose loss was not finite."
        if lost
        else ""
    )
    shown = drawn(data.main, arms)
    lowest = _lowest(trials)
    below = sum(trial.accuracy is not None and trial.accuracy < lowest for trial in trials)
    if below:
        caption += f" Below the axis: {below} of {counted(len(trials), 'trial')}."
    again = str(of.turn + 1) if of.turn else ""
    return PageFigure(
        name=f"search-{of.what}{again}{arms[0].name.removeprefix(arms[0].norm.replace(':', '.'))}",
        draw=lambda: _draw_search({arm.norm: by_arm[arm.name] for arm in shown}, of, lowest),
        alt=f"Search of the {of.label}{where}; best: {', '.join(optima)}.{crosses}",
        title=f"Search of the {of.label}{where}",
        caption=caption + crosses + left_out(data.main),
    )


def _lowest(trials: Sequence[Trial]) -> float:
    """Where the axis of accuracies begins, unless all trials are above."""
    return max((t.accuracy for t in trials if t.accuracy is not None), default=0.0) - DEPTH


@styled
def _draw_search(by_norm: Mapping[str, Sequence[Trial]], of: Round, lowest: float) -> Figure:
    """Every trial of a round: mean accuracy on held-out images by value, one line per rung.

    Each normalization has a panel, with a dotted line at its best value. Values stand side by side
    in their order. Trials whose loss was not finite are crosses at the lower edge.
    """
    columns = min(len(by_norm), COLUMNS)
    rows = math.ceil(len(by_norm) / columns)
    figure = Chart(figsize=(WIDTH, 1.1 + 1.3 * rows))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = grid.ravel()
    for axes in panels[len(by_norm) :]:
        axes.set_axis_off()
    for axes in panels[len(by_norm) - columns : len(by_norm)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    every_trial = [trial for trials in by_norm.values() for trial in trials]
    places = {value: place for place, value in enumerate(sorted({t.value for t in every_trial}))}
    rungs = sorted({t.rung for t in every_trial})
    for k, (axes, (norm, trials)) in enumerate(zip(panels, by_norm.items(), strict=False)):
        color, found = color_of(k), best(trials)
        if found:
            axes.axvline(places[found.value], color=color, linestyle=":", linewidth=1)
        for rung in rungs:
            measured = tried(t for t in trials if t.rung == rung)
            measured.sort(key=lambda each: each.value)
            axes.plot(
                [places[each.value] for each in measured],
                [np.nan if each.mean is None else each.mean for each in measured],
                color=color,
                marker="o",
                linewidth=0.8 + 0.6 * rung,
                markersize=2.0 + 0.8 * rung,
                alpha=0.5 + 0.5 * rung / max(rungs[-1], 1),
            )
            seeds = [(places[v.value], a) for v in measured for a in v.trained]
            if rung == rungs[-1] and len(seeds) > len(measured):
                axes.plot(
                    *zip(*seeds, strict=True), color=color, linestyle="", marker=".", markersize=3
                )
        lost = [places[t.value] for t in trials if t.accuracy is None]
        axes.plot(
            lost,
            [0.05] * len(lost),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="x",
            color=color,
        )
        value = f": {short(rounded_setting(found.value))}" if found else ""
        axes.set_title(f"{short(norm)}{value}", fontsize=9, fontweight="normal")
        axes.grid()
    first = panels[0]  # all share its axes
    labels = [short(rounded_setting(value), 12) for value in places]
    ticks = min(TICKS, max(2, CHARACTERS // max(map(len, labels))))
    step = math.ceil(len(places) / ticks)
    first.set_xticks(range(0, len(places), step), labels[::step])
    first.margins(x=0.15)
    first.yaxis.set_major_formatter(percent_axis)
    first.set_ylim(bottom=max(lowest, first.get_ylim()[0]))
    figure.supxlabel(of.label, fontsize="medium")
    figure.supylabel("accuracy, held-out images", fontsize="medium")
    return figure
