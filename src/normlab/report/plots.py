"""Functions that return matplotlib figures, readable at the width of a phone.

The palette is distinguishable for colour-blind readers (after Okabe and Ito, 2008), and no two
curves differ in colour only. Nothing here uses pyplot or changes matplotlib's global settings.
"""

import csv
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from matplotlib import colormaps, rc_context, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from normlab.data.dataset import Split
from normlab.data.describe import CHANNELS, Description
from normlab.errors import NormlabError, printable
from normlab.findings.run import ACCURACY
from normlab.findings.statistics import proportion_interval
from normlab.inference.evaluate import Evaluation
from normlab.runs.isolation import isolated
from normlab.runs.run import Run
from normlab.runs.several import names
from normlab.storage.files import write_atomically
from normlab.storage.reading import read_text

if TYPE_CHECKING:
    from normlab.data.augment import Step
    from normlab.inference.explain import Explanation

INK = "#1b1f24"  # text, axes
FAINT = "#dfe3e8"  # grid
MUTED = "#6b7480"  # background
PAPER = "#ffffff"  # the lines of a hatch
COLORS = ("#0b66b0", "#c8500a", "#0a7d5c", "#a63f80", "#8a6a00", "#5a5fc7", "#3d4752")
HEAT = 0.65  # the opacity of a heat map over a picture
HATCHES = (None, "////", "....")  # for each round of the colours
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

LABEL = 22  # characters; two such entries of a legend fit beside each other
COLUMNS = 5  # of a gallery
WIDTH = 5.0  # inches; at a width of 360 pixels the text is still 9 pixels high
RATES_PER_EPOCH = 50  # points of the curve of the learning rate
_DEFAULTS = {
    name: value
    for name, value in rcParamsDefault.items()
    if not name.startswith("backend")  # no figure here uses it; setting it would load it
}
STYLE: Any = {  # matplotlib's types name every key
    **_DEFAULTS,  # whatever the user's own style says
    "figure.dpi": 150,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,  # a $ in the name of a class is a $
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "normlab",  # the same figure is the same file
}
styled = rc_context(STYLE)

Quantity = Literal["loss", "accuracy"]

percent_axis = FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%")


class Chart(Figure):
    """A figure that a notebook displays without pyplot."""

    def _repr_png_(self) -> bytes:
        return png(self)


@dataclass(frozen=True)
class Published:
    """The curve of a published run, one entry per epoch. Losses in nats, accuracies from 0 to 1."""

    label: str
    train_loss: tuple[float, ...]
    train_accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


def read_published(path: Path | str) -> dict[str, Published]:
    """Reads published curves, one for each normalization.

    The columns are `norm`, `train_loss` and `test_loss` (means, in nats per image), and
    `train_accuracy` and `test_accuracy` (in percent). The rows are in the order of epochs.

    Raises:
        NormlabError: The file cannot be read, or has other columns.
    """
    curves: dict[str, list[tuple[float, ...]]] = {}
    try:
        table = csv.DictReader(io.StringIO(read_text(Path(path)), newline=""))
        for name in ("norm", "train_loss", "train_accuracy", "test_loss", "test_accuracy"):
            if name not in (table.fieldnames or ()):
                raise ValueError(f"it has no column {name!r}, or no commas between its columns")
        for row in table:
            losses = float(row["train_loss"]), float(row["test_loss"])
            shares = float(row["train_accuracy"]) / 100, float(row["test_accuracy"]) / 100
            if not all(0 <= loss < 1e6 for loss in losses):
                raise ValueError(f"losses must be from 0 to 1,000,000, not {losses}")
            if not all(0 <= share <= 1 for share in shares):
                raise ValueError("accuracies must be from 0 to 100 percent")
            curves.setdefault(row["norm"], []).append((losses[0], shares[0], losses[1], shares[1]))
        if not curves:
            raise ValueError("it has no rows")
    except OSError as error:
        raise NormlabError(f"{path} cannot be read: {error.strerror}") from None
    except (TypeError, ValueError, csv.Error) as error:
        raise NormlabError(f"{path} holds no published curves: {error}") from None
    return {
        norm: Published(f"published seed-{norm}", *zip(*rows, strict=True))
        for norm, rows in curves.items()
    }


@styled
def curves(
    runs: Sequence[Run],
    published: Sequence[Published] = (),
    *,
    quantities: Sequence[Quantity] = ("loss", "accuracy"),
) -> Figure:
    """Loss and accuracy by epoch, in training and on held-out or test images, one panel each.

    Raises:
        ValueError: There is no such quantity, or none is given.
    """
    if not quantities or not {*quantities} <= {*get_args(Quantity)}:
        raise ValueError(f"quantities must be of {get_args(Quantity)}, not {quantities!r}")
    figure = Chart(figsize=(WIDTH, 0.6 + 2.9 * len(quantities)))
    panels = figure.subplots(len(quantities), squeeze=False).ravel()
    for axes, quantity in zip(panels, quantities, strict=True):
        _panel(axes, runs, published, quantity)
    _run_legend(figure, runs, published)
    return figure


def learning_rates(run: Run) -> list[float]:
    """The learning rates of a run, as if each epoch had `RATES_PER_EPOCH` steps."""
    steps = range(run.last.epoch * RATES_PER_EPOCH)
    return [run.recipe.learning_rate_at(step, RATES_PER_EPOCH) for step in steps]


@styled
def learning_rate(run: Run) -> Figure:
    """The learning rate by epoch, as the recipe sets it step by step."""
    figure = Chart(figsize=(WIDTH, 2.4))
    axes = figure.subplots()
    rates = learning_rates(run)
    epochs = np.arange(len(rates) + 1) / RATES_PER_EPOCH
    axes.stairs(rates, epochs, color=COLORS[0], linewidth=1.8, baseline=None)
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.set_ylim(bottom=0)
    axes.grid()
    return figure


@styled
def confusion(evaluation: Evaluation) -> Figure:
    """The confusion matrix: the number of images by true class (rows) and predicted class.

    The stronger the colour of a cell, the larger its share of the row. With up to 20 classes, the
    cells show the counts.
    """
    matrix, classes = evaluation.confusion, [short(name) for name in evaluation.classes]
    count = len(classes)
    rows = matrix.sum(axis=1, keepdims=True)
    shares = np.divide(matrix, rows, out=np.zeros(matrix.shape), where=rows > 0)
    colors = np.tile(to_rgba(COLORS[0]), (count, count, 1))
    # Mistakes are few: makes small shares visible. On half of the colour, text is still legible.
    colors[..., 3] = 0.55 * shares**0.6

    figure = Chart(figsize=(WIDTH, WIDTH))
    axes = figure.subplots()
    axes.pcolormesh(colors, edgecolor=FAINT, linewidth=0.4)
    if count <= 20:
        digits = len(str(matrix.max()))
        size = min(8.5, 230 / count / max(digits, 2))
        for (row, column), value in np.ndenumerate(matrix):
            if value:
                place = (column + 0.5, row + 0.5)
                axes.annotate(str(value), place, size=size, ha="center", va="center")
    axes.set_aspect("equal")
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    size = min(9.5, 220 / count)
    upright = 90 if max(map(len, classes)) > 3 else 0
    axes.set_xticks(np.arange(count) + 0.5, classes, rotation=upright, size=size)
    axes.set_yticks(np.arange(count) + 0.5, classes, size=size)
    axes.tick_params(length=0)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    return figure


@styled
def class_accuracy(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Accuracy of each class as bars, for one run or several.

    Args:
        evaluations: By the names of the runs; all have the same classes. With a single run, the
            95% sampling intervals and the numbers are drawn.
    """
    classes = next(iter(evaluations.values())).classes
    runs, single = len(evaluations), len(evaluations) == 1
    height = 0.72 / runs
    figure = Chart(figsize=(WIDTH, 1.0 + len(classes) * max(0.27, 0.11 * runs)))
    axes = figure.subplots()
    labels = run_labels([*evaluations])
    for k, (label, evaluation) in enumerate(zip(labels, evaluations.values(), strict=True)):
        places = np.arange(len(classes)) + (k - (runs - 1) / 2) * height
        shares = evaluation.class_accuracy
        axes.barh(
            places,
            np.nan_to_num(shares),
            0.9 * height,
            color=color_of(k),
            edgecolor=PAPER,
            linewidth=0,
            hatch=HATCHES[k // len(COLORS) % len(HATCHES)],
            label=label,
        )
        for place, share, images in zip(
            places, shares, evaluation.confusion.sum(axis=1), strict=True
        ):
            right_of: Any = {"xytext": (4, 0), "textcoords": "offset points", "va": "center"}
            if not images:
                axes.annotate("no images", (0, place), color=MUTED, size=8, **right_of)
            elif single:
                low, high = proportion_interval(round(share * images), images)
                axes.plot([low, high], [place, place], color=INK, linewidth=1.2)
                axes.annotate(f"{share:.0%}", (high, place), size=8.5, **right_of)
    axes.set_yticks(range(len(classes)), [short(name) for name in classes])
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlim(0, 1.08 if single else 1)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.xaxis.set_major_formatter(percent_axis)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    measured = {ACCURACY[evaluation.split] for evaluation in evaluations.values()}
    axes.set_xlabel(measured.pop() if len(measured) == 1 else "accuracy")
    if single:
        axes.set_xlabel(f"{axes.get_xlabel()}, 95% sampling interval")
    else:
        legend(figure, axes)
    return figure


@styled
def mistakes(evaluation: Evaluation, split: Split, count: int = 20) -> Figure:
    """The most confident mistakes: picture, true class, predicted class and its probability.

    Args:
        evaluation: The evaluation of a network on `split`.
        split: The images.
        count: The maximum number of pictures.
    """
    places = evaluation.mistakes(count)
    captions = [
        f"{short(evaluation.classes[evaluation.labels[k]])}\n"
        f"→ {short(evaluation.classes[evaluation.predictions[k]])}\n"
        f"{evaluation.probabilities[k].max():.1%} sure"
        for k in places
    ]
    return _gallery(split.images[places], captions, empty="no mistakes")


@styled
def labelled_grid(split: Split, classes: Sequence[str], count: int = 40) -> Figure:
    """The first images of a split with their classes. For notebooks; pages have a gallery."""
    captions = [short(classes[label]) for label in split.labels[:count]]
    return _gallery(split.images[:count], captions, empty="no images")


@styled
def mean_images(description: Description) -> Figure:
    """The mean image of each class that has images. For notebooks; pages have a gallery."""
    images = mean_pictures(description)
    return _gallery(np.stack([*images.values()]), [*map(short, images)])


def mean_pictures(description: Description) -> dict[str, NDArray[np.uint8]]:
    """The mean image, uint8, C × S × S, of each class that has training images."""
    means = zip(description.classes, description.class_means, strict=True)
    return {
        name: (mean * 255).round().astype(np.uint8)
        for name, mean in means
        if not np.isnan(mean).any()
    }


@styled
def channel_histograms(description: Description) -> Figure:
    """The frequency of each of the 256 values in each channel of the training images."""
    channels = len(description.mean)
    figure = Chart(figsize=(WIDTH, 1 + 1.2 * channels))
    panels = figure.subplots(channels, sharex=True, sharey=True, squeeze=False)[:, 0]
    values = np.arange(256)
    for axes, name, color, histogram, mean in zip(
        panels,
        CHANNELS[channels],
        (COLORS[1], COLORS[2], COLORS[0]) if channels == 3 else (MUTED,),
        description.histograms,
        description.mean,
        strict=True,
    ):
        axes.fill_between(values, histogram / histogram.sum(), step="mid", color=color, linewidth=0)
        axes.axvline(mean * 255, color=INK, linewidth=1.2, linestyle=(0, (3, 2)))
        axes.set_title(f"{name}, mean {mean * 255:.0f} of 255", size=9.5)
        axes.yaxis.set_major_formatter(percent_axis)
        axes.yaxis.set_major_locator(MaxNLocator(3))
        axes.grid(axis="y")
    panels[-1].set_xlim(0, 255)
    panels[-1].set_xticks([0, 64, 128, 192, 255])
    panels[-1].set_xlabel("value")
    figure.supylabel("share of pixels", size=9.5)
    return figure


@styled
def augmentations(
    images: NDArray[np.uint8], operations: Mapping[str, "Step"], seed: int = 0
) -> Figure:
    """A row of images, and below it the same row after each operation.

    For notebooks; pages have strips that fit their width.

    Args:
        images: uint8, N × C × S × S; five fit well.
        operations: By name, such as `normlab.augment.PREVIEW`.
        seed: Of the random draws of the operations.
    """
    rows = augmented(images, operations, seed)
    figure = Chart(figsize=(WIDTH, 0.25 + len(rows) * WIDTH / (len(images) + 1.6)))
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for line, (name, row) in zip(grid, rows.items(), strict=True):
        for axes, image in zip(line, row, strict=True):
            _picture(axes, image)
        line[0].set_ylabel(
            name.replace("-", " ").replace(" ", "\n"),
            rotation=0, ha="right", va="center", size=9.5,
        )  # fmt: skip
    return figure


@isolated()
def augmented(
    images: NDArray[np.uint8], operations: Mapping[str, "Step"], seed: int = 0
) -> dict[str, NDArray[np.uint8]]:
    """The images unchanged (`original`) and after each operation, each uint8, N × C × S × S."""
    rows = {"original": images}
    floats = torch.from_numpy(images).float() / 255
    for name, operation in operations.items():
        changed = operation(floats.clone(), torch.Generator().manual_seed(seed))
        rows[name] = (changed.clamp(0, 1) * 255).round().byte().numpy()
    return rows


@styled
def explanation(explained: "Explanation") -> Figure:
    """Where a network looks: for each class a row with the picture, Grad-CAM and occlusion.

    Args:
        explained: From `normlab.explain`.
    """
    rows = len(explained.maps)
    figure = Chart(figsize=(WIDTH, rows * (WIDTH / 3 + 0.75)))
    grid = figure.subplots(rows, 3, squeeze=False)
    grey = explained.picture.mean(axis=0)
    for (seen, cam, covered), maps in zip(grid, explained.maps, strict=True):
        _picture(seen, explained.picture)
        most = float(np.abs(maps.occlusion).max())
        for axes, values, colors, lowest, highest in (
            (cam, maps.grad_cam, "inferno", 0.0, 1.0),
            (covered, maps.occlusion, "RdBu_r", -most or -1.0, most or 1.0),
        ):
            _picture(axes, np.stack([grey] * 3).astype(np.uint8))
            axes.imshow(
                values,
                cmap=colors,
                vmin=lowest,
                vmax=highest,
                alpha=HEAT,
                interpolation="bilinear",
                extent=(-0.5, grey.shape[1] - 0.5, grey.shape[0] - 0.5, -0.5),
            )
        seen.set_title(f"{short(maps.label)} {maps.probability:.1%}")
        cam.set_title("Grad-CAM", size=9.5, weight="normal")
        covered.set_title("occlusion", size=9.5, weight="normal")
        cam.set_xlabel("bright: speaks for it", size=7.5)
        covered.set_xlabel(f"covered, its probability\n{_change(maps.occlusion)}", size=7.5)
    return figure


def _change(occlusion: NDArray[np.float32]) -> str:
    """The largest effects of covering on the probability of a class."""
    fall, rise = max(0.0, float(occlusion.max())), max(0.0, -float(occlusion.min()))
    parts = [f"falls by up to {100 * fall:.1f} points (red)"] * (fall >= 0.0005)
    parts += [f"rises by up to {100 * rise:.1f} points (blue)"] * (rise >= 0.0005)
    return ",\n".join(parts) or "hardly changes"


@styled
def class_maps(maps: NDArray[np.float32], classes: Sequence[str]) -> Figure:
    """Where a network looks for each class: the mean Grad-CAM over the images of the class.

    For notebooks; pages have a gallery.

    Args:
        maps: From `normlab.inference.explain.class_maps`.
        classes: The names of the classes.
    """
    return _gallery(colored(maps), [*map(short, classes)])


def colored(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Heat maps, N × H × W, in colours, uint8, N × 3 × H × W; the maximum of each is brightest."""
    greatest = np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)
    shades = colormaps["inferno"](maps / greatest, bytes=True)
    return np.ascontiguousarray(shades[..., :3].transpose(0, 3, 1, 2))


def heat_over(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A heat map over a picture in grey, as `explanation` draws it, but as an image.

    Args:
        picture: uint8, 3 × H × W.
        heat: float32, h × w; interpolated to the size of the picture. The maximum is brightest.

    Returns:
        uint8, 3 × H × W.
    """
    _, height, width = picture.shape
    smooth = Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR)
    shades = colored(np.asarray(smooth)[None])[0]
    mixed: NDArray[np.uint8] = ((1 - HEAT) * picture.mean(axis=0) + HEAT * shades).astype(np.uint8)
    return mixed


def rgb(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image, uint8, 3 × H × W or 1 × H × W, as H × W × 3."""
    return np.repeat(image.transpose(1, 2, 0), 3 // len(image), axis=2)


PNG_MARK = b"Software\0normlab"  # in a text chunk


def save(figure: Figure, path: Path | str) -> None:
    """Writes a figure as PNG, completely or not at all.

    Raises:
        NormlabError: It cannot be written.
    """
    write_atomically(Path(path), png(figure))


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    return _render(figure, "png", {"Software": "normlab"})


def svg(figure: Figure) -> bytes:
    """A figure as SVG without a background; text stays text, in the reader's font."""
    clear: dict[str, str | None] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    return _render(figure, "svg", clear, transparent=True)


def short(name: str, length: int = 16) -> str:
    """A name as figures show it: one line, only characters that SVG allows.

    A long one is cut in the middle: names differ at their ends.
    """
    name = printable(" ".join(name.split()))
    if len(name) <= length:
        return name
    kept = length - 1
    return f"{name[: kept // 2]}…{name[-(kept - kept // 2) :]}"


def run_labels(names: Sequence[str]) -> list[str]:
    """The names of runs as legends and headings show them.

    If one is long, a beginning that all have in common is left out: in names that normlab gave,
    the layout. The last four characters stay, such as `bn-0`.
    """
    common = os.path.commonprefix([name[:-4] for name in names])  # noqa: RUF071 (of characters)
    beginning = re.match(".*[-/]", common, re.DOTALL)
    if beginning and max(map(len, names)) > LABEL:
        names = [f"…{name[beginning.end() :]}" for name in names]
    return [short(name, LABEL) for name in names]


def color_of(k: int) -> str:
    """The colour of the k-th curve."""
    return COLORS[k % len(COLORS)]


def marker_of(k: int) -> str:
    """The marker of the k-th curve; a colour that is used again gets another marker."""
    return MARKERS[(k + k // len(COLORS)) % len(MARKERS)]


def _render(
    figure: Figure, form: str, metadata: dict[str, str | None], transparent: bool = False
) -> bytes:
    file = io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        # Class names may be in any script: a picture shows boxes for characters its font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=form, metadata=metadata, transparent=transparent)
    return file.getvalue()


def _panel(
    axes: Axes, runs: Sequence[Run], published: Sequence[Published], quantity: Quantity
) -> None:
    for name, train in ((f"train_{quantity}", True), (quantity, False)):
        for curve in published:
            _draw(axes, getattr(curve, name), MUTED, "", train=train)
        for k, run in enumerate(runs):
            if train or run.split != "train":
                values = [getattr(epoch, name) for epoch in run.epochs]
                _draw(axes, values, color_of(k), marker_of(k), train=train)
    axes.set_title(quantity.capitalize())
    if quantity == "loss":
        axes.set_ylabel("loss (nats per image)")
    else:
        axes.yaxis.set_major_formatter(percent_axis)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    last = max([1, *(len(run.epochs) for run in runs), *(len(p.loss) for p in published)])
    axes.set_xlim(0.5, last + 0.5)
    axes.grid()


def _draw(axes: Axes, values: Sequence[float], color: str, marker: str, *, train: bool) -> None:
    """Training: dashed, thin, hollow markers. Measured on held-out or test images: solid."""
    background = color == MUTED
    axes.plot(
        range(1, len(values) + 1),
        values,
        color=color,
        linestyle=(0, (4, 2)) if train else "-",
        linewidth=1.0 if background else 1.2 if train else 1.8,
        marker=marker,
        markevery=-(-len(values) // 25),
        markerfacecolor="none" if train else color,
        markersize=3.2 if train else 4,
        markeredgewidth=0.9,
        zorder=2 if background else 3,
    )


def legend(figure: Figure, axes: Axes, *more: Line2D) -> None:
    """Above the figure, in three columns where they fit.

    Four entries are in two columns, because three would leave one alone.
    """
    handles = [*axes.get_legend_handles_labels()[0], *more]
    lengths = sorted(len(str(handle.get_label())) for handle in handles)
    columns = 2 if len(handles) == 4 or sum(lengths[-3:]) > 36 else 3
    figure.legend(handles=handles, loc="outside upper left", ncols=columns)


def _run_legend(figure: Figure, runs: Sequence[Run], published: Sequence[Published]) -> None:
    """The runs by colour and marker, then the meaning of solid and dashed lines."""
    splits = dict.fromkeys(run.split for run in runs if run.split != "train")
    measured = " or ".join({"test": "test", "holdout": "held out"}[split] for split in splits)
    color = COLORS[0] if len(runs) == 1 else INK
    handles = [
        *(
            Line2D(
                [],
                [],
                color=color_of(k),
                marker=marker_of(k),
                label=label,
            )
            for k, label in enumerate(run_labels(names(runs)))
            if len(runs) > 1
        ),
        *([Line2D([], [], color=color, label=measured)] if measured else []),
        Line2D([], [], color=color, linewidth=1.2, linestyle=(0, (4, 2)), label="training"),
        *(Line2D([], [], color=MUTED, linewidth=1.0, label=curve.label) for curve in published),
    ]
    legend(figure, figure.axes[0], *handles)


def _gallery(images: NDArray[np.uint8], captions: Sequence[str], *, empty: str = "") -> Figure:
    """Pictures in rows, each with its caption below."""
    rows = max(1, -(-len(captions) // COLUMNS))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    figure = Chart(figsize=(WIDTH, rows * (WIDTH / COLUMNS * 0.85 + 0.17 * lines)))
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, caption in zip(grid, images, captions, strict=False):
        axes.set_axis_on()
        _picture(axes, image)
        axes.set_xlabel(caption, size=8, labelpad=2)
    if not captions:
        grid[0].annotate(empty, (0, 0.5), size=9.5)
    return figure


def _picture(axes: Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(rgb(image), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
