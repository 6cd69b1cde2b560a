"""Predictions of a trained network on pictures."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from normlab.data.images import GREY, to_grey
from normlab.errors import DataError, RunError, UsageError
from normlab.inference.evaluate import to_input
from normlab.inference.pictures import LoadedPicture, Picture, read
from normlab.layers.modes import eval_mode
from normlab.network import zoo
from normlab.network.model import Network
from normlab.runs import machine
from normlab.runs.isolation import isolated
from normlab.runs.run import Run, resume_command

BATCH = 256
MODELS = ("micro", "nano")  # in the folder `models`: bn, seed 0, trained on CIFAR-10


@dataclass(frozen=True)
class Prediction:
    """What a network predicts for a picture.

    Attributes:
        name: The picture's file; empty where it has none.
        classes: The classes' names.
        probabilities: float32, classes; they sum to 1.
        notes: How the picture differs from those that the network was trained on.
    """

    name: str
    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.top(1)[0][0]

    @property
    def probability(self) -> float:
        """The probability of that class."""
        return self.top(1)[0][1]

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """The `count` most probable classes with their probabilities, most probable first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[k], float(self.probabilities[k])) for k in order]


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and the reason in one line."""

    name: str
    problem: str


class Predictor(nn.Module):
    """A trained network and its classes' names; `normlab.load` returns one.

    Args:
        network: The network. It always predicts in eval mode, whatever mode it is in.
        classes: The classes' names.
    """

    def __init__(self, network: Network, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        mean = network.input_mean  # 0 for an untrained network
        grey = network.shape[0] == 1 or bool((mean == mean[0]).all() and mean[0] > 0)
        self.expected_notes = (GREY,) if grey else ()  # true of the training images too
        self.eval()

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.network.input_mean.device

    @property
    def size(self) -> int:
        """Height and width of the images that the network sees."""
        return self.network.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Images, float N × C × S × S in 0 to 1, to logits, float N × classes."""
        logits: Tensor = self.network(images)
        return logits

    @isolated()
    @torch.inference_mode()
    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The probabilities for images.

        Args:
            pixels: uint8, N × C × S × S.

        Returns:
            float32, N × classes.

        Raises:
            RunError: The network's outputs are not finite.
        """
        with eval_mode(self):
            batches = [
                self(to_input(torch.from_numpy(part).to(self.device)))
                .float()
                .softmax(1)
                .cpu()
                .numpy()
                for part in (pixels[k : k + BATCH] for k in range(0, len(pixels), BATCH))
            ]
        if not all(np.isfinite(batch).all() for batch in batches):
            raise RunError("the network's outputs are not finite: its weights are too large")
        return np.concatenate(batches) if batches else np.empty((0, len(self.classes)), np.float32)

    def predict(self, pictures: Picture | Iterable[Picture]) -> list[Prediction]:
        """Predicts pictures.

        Args:
            pictures: One or several: paths, files' bytes, PIL images, or uint8 arrays, H × W,
                H × W × 3 or H × W × 4, of any size; or one array of many, N × H × W × 3.

        Raises:
            DataError: A picture cannot be read.
            RunError: The network's outputs are not finite.
            TypeError: An argument is not a picture.
        """
        if isinstance(pictures, str | os.PathLike | bytes | Image.Image) or (
            isinstance(pictures, np.ndarray) and pictures.ndim < 4
        ):
            pictures = [pictures]
        return self.predict_loaded([read(picture, self.size) for picture in pictures])

    def predict_loaded(self, pictures: Sequence[LoadedPicture]) -> list[Prediction]:
        """Predicts pictures that were read. Raises RunError if the outputs are not finite."""
        if not pictures:
            return []
        probabilities = self.probabilities(self.pixels(pictures))
        return [
            Prediction(picture.name, self.classes, row, self._unexpected(picture.notes))
            for picture, row in zip(pictures, probabilities, strict=True)
        ]

    def pixels(self, pictures: Sequence[LoadedPicture]) -> NDArray[np.uint8]:
        """Pictures of the network's size as it sees them: uint8, N × C × S × S. One or more."""
        colour = np.stack([picture.pixels for picture in pictures])
        return to_grey(colour) if self.network.shape[0] == 1 else colour

    def _unexpected(self, notes: tuple[str, ...]) -> tuple[str, ...]:
        """The notes that are not true of the training images as well."""
        unexpected = tuple(note for note in notes if note not in self.expected_notes)
        if GREY in self.expected_notes and GREY not in notes:
            unexpected += ("it has colours",)
        return unexpected


@isolated()
def load(path: Path | str | None = None, *, model: str | None = None) -> Predictor:
    """Loads a trained network.

    Args:
        path: A run's folder, or its `model.safetensors`, with `config.json` beside it.
        model: The name of a network that comes with normlab, instead of a path: `micro` or `nano`.

    Raises:
        RunError: The path is not a run's folder, or the run is unfinished or damaged.
        UsageError: There is no such model.
        TypeError: Both are given, or neither.
    """
    if (path is None) == (model is None):
        raise TypeError("expected a run's folder or the name of a model")
    if model is not None:
        path = find_model(model)
    assert path is not None
    path = Path(path)
    run = Run.open(path.parent if path.name == "model.safetensors" else path)
    return Predictor(run.network(), run.data.classes)


def find_model(name: str) -> Path:
    """The run's folder of a network that comes with normlab; UsageError if there is none."""
    if name not in MODELS:
        raise UsageError(f"no model {name!r}: there are {', '.join(MODELS)}")
    return Path(__file__).parents[1] / "models" / name


def named_run(text: str, flag: str) -> Run | None:
    """The finished run that a flag names: its folder, or a network that comes with normlab.

    Returns:
        The run; None if there is neither.

    Raises:
        UsageError: It is another network of `normlab zoo`.
        RunError: The folder is not a run's, or the run is not finished or damaged.
    """
    folder = find_model(text) if text in MODELS else Path(text)
    if not folder.is_dir():
        if text in zoo.ZOO:
            raise UsageError(
                f"{flag} {text}: this network does not come trained with normlab: run normlab "
                f"train {text}, and give the folder of that run"
            )
        return None
    run = Run.open(folder)
    if not run.finished:
        raise RunError(
            f"{flag} {text} is not finished: resume it with {run.trusting}{resume_command(folder)}"
        )
    return run


def predict_files(predictor: Predictor, names: Sequence[str]) -> Iterator[Prediction | Unreadable]:
    """Predicts picture files, in order, a batch at a time: memory does not grow with their number.

    Args:
        predictor: The network.
        names: The files; `-` is the standard input.

    Raises:
        RunError: The network's outputs are not finite.
    """
    with ThreadPoolExecutor(machine.cores()) as readers:
        for start in range(0, len(names), BATCH):
            part = names[start : start + BATCH]
            pictures = list(readers.map(lambda name: _try_to_read(name, predictor.size), part))
            readable = [picture for picture in pictures if isinstance(picture, LoadedPicture)]
            predictions = iter(predictor.predict_loaded(readable))
            for picture in pictures:
                yield picture if isinstance(picture, Unreadable) else next(predictions)


def _try_to_read(name: str, size: int) -> LoadedPicture | Unreadable:
    try:
        return read(name, size)
    except DataError as error:
        return Unreadable(name, str(error))
