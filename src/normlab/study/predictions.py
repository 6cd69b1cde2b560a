"""A run's predictions on each image, kept so that pages need not compute them again."""

import io
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from normlab.errors import RunError, printable
from normlab.inference.evaluate import Evaluation
from normlab.storage.files import write_atomically


@dataclass(frozen=True)
class Predictions:
    """A network's predictions on the images that its run's curve is measured on.

    Attributes:
        predictions: int64, N: the most probable class of each image.
        confidences: float32, N: the probability of that class.
        labels: int64, N: the true classes.
        peak_memory: Peak memory of the process that trained it, in bytes; 0 if unknown.
    """

    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    labels: NDArray[np.int64]
    peak_memory: int

    @property
    def correct(self) -> NDArray[np.bool_]:
        """bool, N: which images are classified correctly."""
        correct: NDArray[np.bool_] = self.predictions == self.labels
        return correct


def of(evaluation: Evaluation, peak_memory: int) -> Predictions:
    """The predictions of an evaluation."""
    return Predictions(
        predictions=evaluation.predictions,
        confidences=evaluation.probabilities.max(axis=1),
        labels=evaluation.labels,
        peak_memory=peak_memory,
    )


def write(predictions: Predictions, path: Path) -> None:
    """Writes predictions as a compressed NumPy archive."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        predictions=predictions.predictions.astype(np.uint16),
        confidences=predictions.confidences,
        labels=predictions.labels.astype(np.uint16),
        peak_memory=np.int64(predictions.peak_memory),
    )
    write_atomically(path, file.getvalue())


def read(path: Path) -> Predictions:
    """Reads predictions.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as file:
            predictions = Predictions(
                predictions=file["predictions"].astype(np.int64),
                confidences=file["confidences"].astype(np.float32),
                labels=file["labels"].astype(np.int64),
                peak_memory=int(file["peak_memory"]),
            )
    except Exception as error:  # damage can look like a password or any compression
        reason = shorten(printable(str(error)), 100) or type(error).__name__
        raise RunError(
            f"{path} cannot be read: {reason}; without this file, normlab compare makes it again"
        ) from None
    arrays = (predictions.predictions, predictions.confidences, predictions.labels)
    if len({len(array) for array in arrays}) > 1:
        raise RunError(f"{path} is damaged: its arrays differ in length")
    return predictions
