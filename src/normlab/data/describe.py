"""What a data set holds: counts, channel statistics, the mean image of each class."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.text import Text

from normlab.data.dataset import Dataset, SplitName
from normlab.errors import printable
from normlab.table import Table
from normlab.wording import shape_text

CHANNELS = {3: ("red", "green", "blue"), 1: ("grey",)}  # by their number


@dataclass(frozen=True)
class SplitSummary:
    """A split in figures.

    Attributes:
        name: `train`, `holdout` or `test`.
        shape: Shape of its images: N × C × S × S.
        dtype: Type of its images.
        counts: int64, classes: number of images per class.
    """

    name: SplitName
    shape: tuple[int, ...]
    dtype: str
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Description:
    """A data set in figures. Pixel statistics are of the training split, on the 0–1 scale.

    Attributes:
        name: Name of the data set.
        classes: The classes' names.
        splits: The training, held-out (if there is one) and test split.
        minimum: float64, C: smallest value of each channel.
        maximum: float64, C: largest value.
        mean: float64, C: mean.
        std: float64, C: standard deviation of the population of pixels.
        variance: float64, C: its square.
        histograms: int64, C × 256: how often a channel takes each value from 0 to 255.
        class_means: float64, classes × C × S × S: mean image (NaN if a class has no images).
        notes: Notes of the data set.
        fingerprint: Fingerprint of the data set.
    """

    name: str
    classes: tuple[str, ...]
    splits: tuple[SplitSummary, ...]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    variance: NDArray[np.float64]
    histograms: NDArray[np.int64]
    class_means: NDArray[np.float64]
    notes: tuple[str, ...]
    fingerprint: str

    def tables(self) -> tuple[Table, Table, Table]:
        """Splits, channels, classes."""
        statistics = (self.minimum, self.maximum, self.mean, self.std, self.variance)
        return (
            _table(
                "Splits",
                ("split", "images", "shape", "dtype"),
                [(s.name, f"{s.shape[0]:,}", shape_text(s.shape), s.dtype) for s in self.splits],
            ),
            _table(
                "Pixels of the training images, on a scale from 0 to 1",
                ("channel", "min", "max", "mean", "std", "variance"),
                [
                    (channel, *(f"{values[k]:.4f}" for values in statistics))
                    for k, channel in enumerate(CHANNELS[len(self.mean)])
                ],
            ),
            _table(
                "Images of each class",
                ("class", *(split.name for split in self.splits)),
                [
                    (name, *(f"{split.counts[k]:,}" for split in self.splits))
                    for k, name in enumerate(self.classes)
                ],
            ),
        )

    def _lines(self) -> list[str]:
        return [*(f"note: {note}" for note in self.notes), f"fingerprint: {self.fingerprint}"]

    def __rich__(self) -> Group:
        return Group(Text(self.name, style="bold"), *self.tables(), *map(Text, self._lines()))

    def _repr_html_(self) -> str:
        tables = "".join(table._repr_html_() for table in self.tables())
        paragraphs = "".join(f"<p>{escape(line)}</p>" for line in self._lines())
        return f"<div><p><b>{escape(self.name)}</b></p>{tables}{paragraphs}</div>"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    kinds = ("name", *["number"] * (len(head) - 1))
    return Table(caption=caption, head=head, kinds=kinds, rows=rows)


def describe(dataset: Dataset) -> Description:
    """Counts a data set's images and pixels; a second or two for CIFAR-10."""
    count = len(dataset.classes)
    splits: list[SplitSummary] = []
    for name, split in dataset.splits.items():
        counts = np.bincount(split.labels, minlength=count)
        splits.append(SplitSummary(name, split.images.shape, str(split.images.dtype), counts))
    histograms = channel_histograms(dataset.train.images)
    mean, variance = _moments(histograms)
    values = [np.flatnonzero(histogram) for histogram in histograms]
    class_means = np.full((count, *dataset.train.images.shape[1:]), np.nan)
    for k in np.unique(dataset.train.labels):
        images = dataset.train.images[dataset.train.labels == k]
        class_means[k] = images.sum(axis=0, dtype=np.int64) / (255 * len(images))
    return Description(
        name=printable(dataset.name),
        classes=dataset.classes,
        splits=tuple(splits),
        minimum=np.array([present[0] for present in values]) / 255,
        maximum=np.array([present[-1] for present in values]) / 255,
        mean=mean,
        std=np.sqrt(variance),
        variance=variance,
        histograms=histograms,
        class_means=class_means,
        notes=tuple(map(printable, dataset.notes)),
        fingerprint=dataset.fingerprint,
    )


def channel_statistics(
    images: NDArray[np.uint8],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (of the population) of each channel, on the 0–1 scale.

    Args:
        images: uint8, N × C × S × S, N at least 1.

    Returns:
        Two arrays, float64, C. A channel of one value throughout has a standard deviation of 0.
    """
    mean, variance = _moments(channel_histograms(images))
    return mean, np.sqrt(variance)


def channel_histograms(images: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each channel takes each value: int64, C × 256, from uint8, N × C × S × S."""
    histograms = np.zeros((images.shape[1], 256), dtype=np.int64)
    for start in range(0, len(images), 1000):  # bincount makes its input eight times larger
        for channel, histogram in enumerate(histograms):
            histogram += np.bincount(images[start : start + 1000, channel].ravel(), minlength=256)
    return histograms


def _moments(
    histograms: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each channel on the 0–1 scale, rounded once, at the division."""
    means, variances = [], []
    for histogram in histograms.tolist():  # Python's integers do not overflow
        count = sum(histogram)
        total = sum(value * times for value, times in enumerate(histogram))
        squares = sum(value * value * times for value, times in enumerate(histogram))
        means.append(total / (255 * count))
        variances.append((count * squares - total * total) / (255 * count) ** 2)
    return np.array(means), np.array(variances)
