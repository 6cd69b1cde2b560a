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


def write(answers: Predictions, path: Path) -> None:
    """Writes them as a compressed NumPy archive."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        predictions=answers.predictions.astype(np.uint16),
        confidences=answers.confidences,
        labels=answers.labels.astype(np.uint16),
        peak_memory=np.int64(answers.peak_memory),
    )
    write_atomically(path, file.getvalue())


def read(path: Path) -> Predictions:
    """Reads them.

    Raises:
        RunError: They are not there, or damaged.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes())) as arrays:
            answers = Predictions(
                predictions=arrays["predictions"].astype(np.int64),
                confidences=arrays["confidences"].astype(np.float32),
                labels=arrays["labels"].astype(np.int64),
                peak_memory=int(arrays["peak_memory"]),
            )
    except Exception as error:  # a damaged archive can ask for a password, or for any compression
        said = shorten(printable(str(error)), 100) or type(error).__name__
        raise RunError(
            f"{path} cannot be read: {said}. Without it, normlab compare makes it again"
        ) from None
    if not len(answers.predictions) == len(answers.confidences) == len(answers.labels):
        raise RunError(f"{path} is damaged: its arrays differ in length")
    return answers
