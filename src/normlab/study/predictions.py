"""A run's predictions on each image, kept so that pages need not compute them again."""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import numpy as np
from numpy.typing import NDArray

from normlab.errors import RunError, printable
from normlab.inference.evaluate import Evaluation
from normlab.ranges import LARGEST
from normlab.storage.files import write_atomically
from normlab.storage.reading import read_bytes
from normlab.storage.records import MalformedError


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


def read(path: Path, *, images: int, classes: int) -> Predictions:
    """Reads predictions.

    Args:
        path: The file.
        images: The number of images that the run was measured on.
        classes: The number of its classes.

    Raises:
        RunError: The file is missing, is damaged, or is another run's.
    """
    try:
        content = read_bytes(path, LARGEST)
        _refuse_other_arrays(content, images)
        with np.load(io.BytesIO(content)) as file:
            predictions = Predictions(
                predictions=file["predictions"].astype(np.int64),
                confidences=file["confidences"].astype(np.float32),
                labels=file["labels"].astype(np.int64),
                peak_memory=int(file["peak_memory"]),
            )
        _refuse_other_values(predictions, classes)
    except Exception as error:  # damage can look like a password or any compression
        said = error.strerror if isinstance(error, OSError) else None
        reason = shorten(printable(said or str(error)), 100) or type(error).__name__
        raise RunError(
            f"{path} cannot be read: {reason}; without this file, normlab compare makes it again"
        ) from None
    return predictions


def _refuse_other_arrays(content: bytes, images: int) -> None:
    """Raises MalformedError if an archive's arrays have other shapes, before they are unpacked."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            expected = () if member.filename == "peak_memory.npy" else (images,)
            if shape != expected or dtype not in (np.uint16, np.float32, np.int64):
                raise MalformedError(f"{member.filename} is {dtype}, {shape}, not {expected}")


def _refuse_other_values(predictions: Predictions, classes: int) -> None:
    """Raises MalformedError if classes or probabilities are out of their range."""
    for labels in (predictions.predictions, predictions.labels):
        if not ((labels >= 0) & (labels < classes)).all():
            raise MalformedError(f"it has classes that are not from 0 to {classes - 1}")
    # The largest probability can be above 1 by a rounding error.
    if not ((predictions.confidences > 0) & (predictions.confidences < 1.001)).all():
        raise MalformedError("it has probabilities that are not from 0 to 1")
    if predictions.peak_memory < 0:
        raise MalformedError("its memory is below 0")
