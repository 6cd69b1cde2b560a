"""The figures of what the runs of a study predict, with their words: classes, calibration."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from normlab.findings.calibration import BINS, calibration_bins, expected_calibration_error
from normlab.report.plots import (
    FAINT,
    LABEL,
    MUTED,
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
from normlab.study.predictions import Predictions
from normlab.table import Table

# Confidences, and which predictions are correct
Pooled = tuple[NDArray[np.float32], NDArray[np.bool_]]


def predictions(data: StudyData) -> list[PageFigure]:
    """Accuracy of each class, and calibration."""
    shares = _class_shares(data.predictions, len(data.classes))
    pooled = {norm: _pooled(runs) for norm, runs in data.predictions.items()}
    norms = [arm.norm for arm in drawn(data.main, data.main.arms)]
    return [
        PageFigure(
            name="classes",
            draw=lambda: _draw_class_accuracy({n: shares[n] for n in norms}, data.classes),
            alt=_classes_alt(shares, data.classes),
            title="Accuracy of each class",
            caption=left_out(data.main).strip(),
        ),
        PageFigure(
            name="reliability",
            draw=lambda: _draw_reliability({norm: pooled[norm] for norm in norms}),
            alt=_reliability_alt(pooled),
            title="Calibration",
            caption="Below the line a network is overconfident, above it underconfident."
            f"{left_out(data.main)}",
            table=_calibration_table(pooled),
        ),
    ]


# Classes


def _class_shares(
    by_norm: Mapping[str, Sequence[Predictions]], classes: int
) -> dict[str, NDArray[np.float64]]:
    """For each normalization the accuracy of each class, the mean over the seeds."""
    shares = {}
    for norm, runs in by_norm.items():
        images = np.bincount(runs[0].labels, minlength=classes)
        hits = [np.bincount(run.labels, weights=run.correct, minlength=classes) for run in runs]
        with np.errstate(invalid="ignore"):
            shares[norm] = np.mean(hits, axis=0) / images
    return shares


def _classes_alt(shares: Mapping[str, NDArray[np.float64]], classes: Sequence[str]) -> str:
    spread = np.ptp(np.stack([*shares.values()]), axis=0)
    widest = int(np.nanargmax(spread))
    values = ", ".join(f"{norm} {share[widest]:.0%}" for norm, share in shares.items())
    return f"Accuracy of each class; the normalizations differ most on {classes[widest]}: {values}."


@styled
def _draw_class_accuracy(
    shares: Mapping[str, NDArray[np.float64]], classes: Sequence[str]
) -> Figure:
    """Accuracy of each class, one mark per normalization.

    Args:
        shares: For each normalization, float64, classes: means over the seeds.
        classes: The names of the classes.
    """
    figure = Chart(figsize=(WIDTH, 1.0 + 0.3 * len(classes)))
    axes = figure.subplots()
    for place in range(len(classes)):
        values = [share[place] for share in shares.values()]
        axes.plot([min(values), max(values)], [place, place], color=FAINT, linewidth=3, zorder=1)
    for k, (norm, norm_shares) in enumerate(shares.items()):
        axes.plot(
            norm_shares,
            range(len(classes)),
            linestyle="",
            marker=marker_of(k),
            markersize=6,
            color=color_of(k),
            label=short(norm, LABEL),
        )
    axes.set_yticks(range(len(classes)), [short(name) for name in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("accuracy of the class, mean over the seeds")
    axes.xaxis.set_major_formatter(percent_axis)
    axes.grid(axis="x")
    legend(figure, axes)
    return figure


# Calibration


def _pooled(runs: Sequence[Predictions]) -> Pooled:
    """The confidence of every prediction, all seeds together, and whether it is correct."""
    return (
        np.concatenate([run.confidences for run in runs]),
        np.concatenate([run.correct for run in runs]),
    )


def _reliability_alt(by_norm: Mapping[str, Pooled]) -> str:
    parts = (
        f"{norm} has accuracy {correct.mean():.1%} and mean confidence {confidences.mean():.1%}"
        for norm, (confidences, correct) in by_norm.items()
    )
    return f"Reliability: {'; '.join(parts)}."


def _calibration_table(by_norm: Mapping[str, Pooled]) -> Table:
    return Table(
        caption="Expected calibration error: the mean distance between confidence and accuracy "
        f"over {BINS} bins, all seeds together (Guo et al. 2017).",
        head=("norm", "calibration error", "mean confidence", "accuracy"),
        kinds=("name", "number", "number", "number"),
        rows=[
            (
                norm,
                f"{100 * expected_calibration_error(confidences, correct):.1f} points",
                f"{confidences.mean():.1%}",
                f"{correct.mean():.1%}",
            )
            for norm, (confidences, correct) in by_norm.items()
        ],
    )


@styled
def _draw_reliability(by_norm: Mapping[str, Pooled]) -> Figure:
    """A reliability diagram: accuracy by confidence, all seeds together, and the ideal line.

    Args:
        by_norm: For each normalization its confidences, and which predictions are correct.
    """
    figure = Chart(figsize=(WIDTH, 3.7))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1.0)
    for k, (norm, (confidences, correct)) in enumerate(by_norm.items()):
        centers, shares, _ = calibration_bins(confidences, correct)
        axes.plot(centers, shares, color=color_of(k), marker=marker_of(k), label=short(norm, LABEL))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.xaxis.set_major_formatter(percent_axis)
    axes.yaxis.set_major_formatter(percent_axis)
    axes.grid()
    legend(figure, axes, Line2D([], [], color=MUTED, linewidth=1.0, label="perfect calibration"))
    return figure
