"""Evaluation on a split: accuracy, loss, accuracy per class, confusion matrix, mistakes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from normlab.data.dataset import Dataset, SplitName
from normlab.layers.modes import eval_mode
from normlab.runs.isolation import isolated
from normlab.table import Table
from normlab.wording import percent

UNBALANCED = 2
BATCH = 500  # images: large enough for speed, small enough for a core's cache


def is_unbalanced(labels: NDArray[np.int64]) -> bool:
    """Whether a class has at least twice as many images as another that has any, and two more.

    One more can be a matter of rounding: a drawn split may have two images of one class.
    """
    counts = np.bincount(labels)
    most, least = counts.max(), counts[counts > 0].min()
    return bool(most >= UNBALANCED * least and most > least + 1)


@dataclass(frozen=True)
class Evaluation:
    """A network's predictions for every image of a split, and the metrics computed from them.

    Attributes:
        split: `test`, `holdout` or `train`.
        classes: The classes' names.
        labels: int64, N: the true classes.
        probabilities: float32, N × classes; each row sums to 1.
        loss: Mean negative log-likelihood of the true classes, in nats.
        tta: Test-time augmentation over which the probabilities were averaged, or None.
    """

    split: SplitName
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    loss: float
    tta: str | None = None

    @cached_property
    def predictions(self) -> NDArray[np.int64]:
        """int64, N: the most probable class of each image."""
        predictions: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return predictions

    @cached_property
    def correct(self) -> int:
        """Number of images classified correctly."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Fraction of images classified correctly, 0 to 1."""
        return self.correct / len(self.labels)

    @cached_property
    def confusion(self) -> NDArray[np.int64]:
        """int64, classes × classes: rows are true classes, columns predicted ones."""
        classes = len(self.classes)
        cells = np.bincount(self.labels * classes + self.predictions, minlength=classes**2)
        return cells.reshape(classes, classes)

    @cached_property
    def class_accuracy(self) -> NDArray[np.float64]:
        """float64, classes: accuracy on the images of each class; NaN where it has none."""
        counts = self.confusion.sum(axis=1)
        accuracy = np.full(len(counts), np.nan)
        np.divide(self.confusion.diagonal(), counts, out=accuracy, where=counts > 0)
        return accuracy

    @property
    def balanced_accuracy(self) -> float:
        """Mean of the accuracies of the classes that have images, 0 to 1."""
        return float(np.nanmean(self.class_accuracy))

    @property
    def unbalanced(self) -> bool:
        """As `is_unbalanced` says it."""
        return is_unbalanced(self.labels)

    @property
    def headline(self) -> str:
        """Accuracy and loss in one line; of unbalanced classes, balanced accuracy first."""
        averaged = f", averaged over test-time augmentation ({self.tta})" if self.tta else ""
        images, balanced = len(self.labels), ""
        if self.unbalanced:
            balanced = f"balanced accuracy {percent(self.balanced_accuracy, images)}, "
        return (
            f"{self.split}{averaged}: {balanced}accuracy {percent(self.accuracy, images)} "
            f"({self.correct:,} of {images:,}), loss {self.loss:.4f}"
        )

    @property
    def table(self) -> Table:
        """Accuracy per class, and over all images."""
        images, correct = self.confusion.sum(axis=1).tolist(), self.confusion.diagonal().tolist()
        *rows, foot = (
            (name, f"{n:,}", f"{right:,}", percent(right / n, n) if n else "–")
            for name, n, right in zip(
                (*self.classes, "all"),
                (*images, len(self.labels)),
                (*correct, self.correct),
                strict=True,
            )
        )
        return Table(
            caption=self.headline,
            head=("class", "images", "correct", "accuracy"),
            kinds=("name", "number", "number", "number"),
            rows=rows,
            foot=foot,
        )

    def __rich__(self) -> Table:
        return self.table

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def confused_pairs(self, count: int = 5) -> list[tuple[int, int, int]]:
        """(true class, predicted class, number of images), most frequent first."""
        errors = self.confusion.copy()
        np.fill_diagonal(errors, 0)
        order = np.argsort(-errors, axis=None, kind="stable")[:count]
        pairs = [(*divmod(int(k), len(self.classes)), int(errors.flat[k])) for k in order]
        return [pair for pair in pairs if pair[2] > 0]

    def mistakes(self, count: int = 20) -> NDArray[np.int64]:
        """Indices into the split of misclassified images, most confident mistake first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        confidence = self.probabilities[wrong].max(axis=1)
        return wrong[np.argsort(-confidence, kind="stable")][:count]


@isolated()
def evaluate(
    network: torch.nn.Module,
    dataset: Dataset,
    split: SplitName = "test",
    *,
    tta: Literal["flip"] | None = None,
) -> Evaluation:
    """Evaluates a network on every image of a split.

    Args:
        network: From images (float N × C × S × S, 0 to 1) to logits. It is evaluated in eval
            mode, on its own device, and its mode is restored.
        dataset: The data set.
        split: The split.
        tta: `flip` averages the probabilities over each image and its mirror image.

    Raises:
        ValueError: The split has no images, nothing was held out, or `split` or `tta` is unknown.
    """
    if tta not in (None, "flip"):
        raise ValueError(f"no test-time augmentation {tta!r}: there is flip")
    part = dataset.split(split)
    if not len(part):
        raise ValueError(f"the {split} split has no images")
    device = next(network.parameters()).device
    probabilities: list[torch.Tensor] = []
    loss = 0.0
    with eval_mode(network), torch.inference_mode():
        for start in range(0, len(part), BATCH):
            images = to_input(torch.from_numpy(part.images[start : start + BATCH]).to(device))
            labels = torch.from_numpy(part.labels[start : start + BATCH]).to(device)
            log_probabilities = F.log_softmax(network(images).float(), dim=1)
            if tta == "flip":
                mirrored = F.log_softmax(network(images.flip(3)).float(), dim=1)
                both = torch.stack((log_probabilities, mirrored))
                log_probabilities = both.logsumexp(dim=0) - np.log(2)
            loss += F.nll_loss(log_probabilities, labels, reduction="sum").item()
            probabilities.append(log_probabilities.exp().cpu())
    return Evaluation(
        split=split,
        classes=dataset.classes,
        labels=part.labels,
        probabilities=torch.cat(probabilities).numpy(),
        loss=loss / len(part),
        tta=tta,
    )


def to_input(images: torch.Tensor, mirrored: torch.Tensor | None = None) -> torch.Tensor:
    """uint8 N × C × S × S to float32, 0 to 1, channels last: convolutions are faster on a CPU.

    The steps are faster one by one than in one call, and rows of pixels are mirrored faster before
    channels are last. The last step is a copy, not `contiguous`: that would leave one channel's
    strides, from which PyTorch cannot tell the order.

    Args:
        images: The images.
        mirrored: Which of them are mirrored, bool N. None: no image.
    """
    scaled = images.to(torch.float32).div_(255)
    if mirrored is not None:
        scaled = torch.where(mirrored[:, None, None, None], scaled.flip(3), scaled)
    return scaled.clone(memory_format=torch.channels_last)
