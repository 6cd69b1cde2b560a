"""The figures of a study's page, in the style of `normlab.plots`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from normlab.findings.statistics import Difference
from normlab.findings.study import Group
from normlab.report.plots import (
    COLORS,
    FAINT,
    MUTED,
    WIDTH,
    Chart,
    color_of,
    marker_of,
    percent_axis,
    short,
    styled,
)
from normlab.study.plan import AXES, Arm
from normlab.study.record import Study
from normlab.study.tuning import FIELDS, Trial, What
from normlab.wording import axis_value, spaced

BINS = 15  # of confidence, as in Guo et al. 2017


@styled
def curves(study: Study, group: Group) -> Figure:
    """Mean accuracy by epoch, in a band from the lowest seed's to the highest's."""
    figure = Chart(figsize=(WIDTH, 3.5))
    axes = figure.subplots()
    for k, arm in enumerate(group.arms):
        runs = [r.accuracies for r in study.of(arm)]
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
            label=short(arm.norm, 22),
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    _legend(figure, axes)
    return figure


@styled
def forest(differences: Sequence[Difference], names: Mapping[str, str]) -> Figure:
    """Paired differences with their 95% intervals, in points; a line at no difference.

    Args:
        differences: At most some forty.
        names: What the arms are called.
    """
    figure = Chart(figsize=(WIDTH, 0.9 + 0.36 * len(differences)))
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1.0)
    labels = []
    for row, found in enumerate(differences):
        color = COLORS[0] if found.shown else MUTED
        axes.plot(
            100 * found.differences,
            np.full(len(found.differences), row) + 0.24,
            linestyle="",
            marker=".",
            markersize=3,
            color=MUTED,
        )
        axes.plot(
            [100 * found.mean.low, 100 * found.mean.high], [row, row], color=color, linewidth=1.8
        )
        filled = color if found.shown else "none"
        axes.plot(100 * found.mean.value, row, marker="o", color=color, markerfacecolor=filled)
        labels.append(f"{short(names[found.first], 14)} − {short(names[found.second], 14)}")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("difference of accuracies, points")
    axes.grid(axis="x")
    return figure


@styled
def against(line: Sequence[Group], axis: str) -> Figure:
    """Mean accuracy against an axis of the study, with 95% intervals."""
    figure = Chart(figsize=(WIDTH, 3.5))
    axes = figure.subplots()
    values = [getattr(group.setting, axis) for group in line]
    numeric = all(isinstance(value, int | float) for value in values)
    places = values if numeric else list(range(len(values)))
    norms = list(dict.fromkeys(arm.norm for group in line for arm in group.arms))
    for k, norm in enumerate(norms):
        xs, estimates = [], []
        for place, group in zip(places, line, strict=True):
            own = next((arm for arm in group.arms if arm.norm == norm), None)
            if own is not None:
                xs.append(place)
                estimates.append(group.mean(own))
        means = np.array([e.value for e in estimates])
        ends = np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
        ends[np.isinf(ends)] = np.nan  # no bar where the seeds show no spread
        axes.errorbar(
            xs,
            means,
            yerr=ends,
            color=color_of(k),
            marker=marker_of(k),
            capsize=2.5,
            elinewidth=1.0,
            label=short(norm, 22),
        )
    if numeric and min(values) > 0 and max(values) / min(values) >= 8:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [axis_value(value) for value in values])
    axes.minorticks_off()
    axes.set_xlabel(AXES[axis].label)
    axes.set_ylabel("accuracy, last epoch")
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    _legend(figure, axes)
    return figure


@styled
def search(trials: Sequence[Trial], arms: Sequence[Arm], what: What) -> Figure:
    """Every trial of a search: accuracy on held-out images against the value, a line a rung.

    Those whose loss was not finite are crosses at the lower edge.
    """
    figure = Chart(figsize=(WIDTH, 3.7))
    axes = figure.subplots()
    names = {arm.name for arm in arms}
    shown = [t for t in trials if t.what == what and t.arm in names]
    rungs = sorted({t.rung for t in shown})
    for k, arm in enumerate(arms):
        for rung in rungs:
            own = sorted((t for t in shown if (t.arm, t.rung) == (arm.name, rung)), key=_value)
            axes.plot(
                [t.value for t in own],
                [np.nan if t.accuracy is None else t.accuracy for t in own],
                color=color_of(k),
                marker=marker_of(k),
                linewidth=0.8 + 0.6 * rung,
                markersize=2.5 + 1.2 * rung,
                alpha=0.5 + 0.5 * rung / max(rungs[-1], 1),
                label=short(arm.norm, 22) if rung == rungs[-1] else None,
            )
        lost = [t.value for t in shown if t.arm == arm.name and t.accuracy is None]
        axes.plot(
            lost,
            [0.02 + 0.03 * k] * len(lost),
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="x",
            color=color_of(k),
        )
    values = sorted({t.value for t in shown})
    if values[0] > 0:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xscale("symlog", linthresh=values[1])
    ticks = values[:: math.ceil(len(values) / 6)]
    axes.set_xticks(ticks, [f"{value:.3g}" for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel(spaced(FIELDS[what]))
    axes.set_ylabel("accuracy, held-out images")
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    _legend(figure, axes)
    return figure


@styled
def class_accuracy(shares: Mapping[str, NDArray[np.float64]], classes: Sequence[str]) -> Figure:
    """Accuracy of each class, a mark a normalization.

    Args:
        shares: By the normalization, float64, classes: means over the seeds.
        classes: The classes' names.
    """
    figure = Chart(figsize=(WIDTH, 1.0 + 0.3 * len(classes)))
    axes = figure.subplots()
    for place in range(len(classes)):
        own = [share[place] for share in shares.values()]
        axes.plot([min(own), max(own)], [place, place], color=FAINT, linewidth=3, zorder=1)
    for k, (norm, own_shares) in enumerate(shares.items()):
        axes.plot(
            own_shares,
            range(len(classes)),
            linestyle="",
            marker=marker_of(k),
            markersize=6,
            color=color_of(k),
            label=short(norm, 22),
        )
    axes.set_yticks(range(len(classes)), [short(name) for name in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy of the class, mean over the seeds")
    axes.xaxis.set_major_formatter(percent_axis)
    axes.grid(axis="x")
    _legend(figure, axes)
    return figure


@styled
def reliability(by_norm: Mapping[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]) -> Figure:
    """How often answers of a confidence are right, all seeds together; a line where it is as often.

    Args:
        by_norm: By the normalization: confidences and whether the answers were right.
    """
    figure = Chart(figsize=(WIDTH, 3.7))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0)
    for k, (norm, (confidences, right)) in enumerate(by_norm.items()):
        centers, shares, _ = calibration_bins(confidences, right)
        axes.plot(centers, shares, color=color_of(k), marker=marker_of(k), label=short(norm, 22))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence of the answer")
    axes.set_ylabel("share of right answers")
    axes.xaxis.set_major_formatter(percent_axis)
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    _legend(figure, axes, Line2D([], [], color=MUTED, linewidth=1.0, label="as sure as right"))
    return figure


def calibration_bins(
    confidences: NDArray[np.float32], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean confidence, share of right answers and number of answers, of each bin that has any."""
    bins = np.clip(np.ceil(confidences * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    full = counts > 0
    sums = np.bincount(bins, weights=confidences, minlength=BINS)[full]
    hits = np.bincount(bins, weights=right, minlength=BINS)[full]
    return sums / counts[full], hits / counts[full], counts[full]


def expected_calibration_error(confidences: NDArray[np.float32], right: NDArray[np.bool_]) -> float:
    """Guo et al. 2017, On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3."""
    centers, shares, counts = calibration_bins(confidences, right)
    return float(np.abs(centers - shares) @ counts / counts.sum())


def _legend(figure: Figure, axes: Axes, *more: Line2D) -> None:
    """Above the figure; four in two columns, for a third would hold none beside them."""
    handles = [*axes.get_legend_handles_labels()[0], *more]
    columns = 2 if len(handles) == 4 else 3
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def _value(trial: Trial) -> float:
    return trial.value
