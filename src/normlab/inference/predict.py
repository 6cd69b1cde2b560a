"""What a trained network answers on pictures."""

import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from normlab.data.images import GREY, SIZE, peculiarities, read_picture, to_pixels
from normlab.errors import DataError, RunError, UsageError
from normlab.inference.evaluate import to_input
from normlab.network.model import Network
from normlab.runs import machine
from normlab.runs.run import Run

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
BATCH = 256
MODELS = ("micro", "nano")  # in the folder `models`: seed 0 of bn with their recipes on CIFAR-10

Picture = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Prediction:
    """A network's answer on a picture.

    Attributes:
        name: The picture's file; empty where it has none.
        classes: The classes' names.
        probabilities: float32, classes, adding up to 1.
        notes: How the picture is unlike those that the network was trained on.
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
        """Its probability."""
        return self.top(1)[0][1]

    def top(self, count: int = 3) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the first first."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[k], float(self.probabilities[k])) for k in order]


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and why, in a line."""

    name: str
    problem: str


class Predictor(nn.Module):
    """A trained network that knows its classes; `normlab.load` gives one.

    Args:
        network: Asked in evaluation mode, whatever mode it is in.
        classes: The classes' names.
    """

    def __init__(self, network: Network, classes: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.classes = tuple(classes)
        mean = network.input_mean  # 0 where a network has not been trained
        grey = bool((mean == mean[0]).all() and mean[0] > 0)
        self.expected = (GREY,) if grey else ()  # what is not peculiar, for it was trained on such
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.input_mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Images, float N × 3 × 32 × 32 in 0 to 1, to logits, float N × classes."""
        logits: Tensor = self.network(images)
        return logits

    @torch.inference_mode()
    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of uint8 images, N × 3 × 32 × 32: float32, N × classes; RunError where they are NaN."""
        learning = [module for module in self.modules() if module.training]
        try:
            self.eval()
            asked = [
                self(to_input(torch.from_numpy(part).to(self.device)))
                .float()
                .softmax(1)
                .cpu()
                .numpy()
                for part in (pixels[k : k + BATCH] for k in range(0, len(pixels), BATCH))
            ]
        finally:
            for module in learning:
                module.training = True
        if not all(np.isfinite(part).all() for part in asked):
            raise RunError("the network answers with no numbers: its weights are too large")
        return np.concatenate(asked) if asked else np.empty((0, len(self.classes)), np.float32)

    def predict(self, pictures: Picture | Iterable[Picture]) -> list[Prediction]:
        """The answers on pictures.

        Args:
            pictures: One or several: paths, files' bytes, PIL images, or uint8 arrays, H × W,
                H × W × 3 or H × W × 4, of any size; or one array of many, N × H × W × 3.

        Raises:
            DataError: A picture cannot be read.
            RunError: The answers are no numbers.
            TypeError: It is none.
        """
        if isinstance(pictures, str | os.PathLike | bytes | Image.Image) or (
            isinstance(pictures, np.ndarray) and pictures.ndim < 4
        ):
            pictures = [pictures]
        found = [read(picture) for picture in pictures]
        pixels = np.stack([p for _, p, _ in found]) if found else np.empty((0, 3, 32, 32), np.uint8)
        return [
            self.prediction(name, probabilities, notes)
            for (name, _, notes), probabilities in zip(
                found, self.probabilities(pixels), strict=True
            )
        ]

    def prediction(
        self, name: str, probabilities: NDArray[np.float32], notes: tuple[str, ...]
    ) -> Prediction:
        """An answer, with the notes that are none for pictures of its training's kind left out."""
        noted = tuple(note for note in notes if note not in self.expected)
        if GREY in self.expected and GREY not in notes:
            noted += ("it has colours",)
        return Prediction(name, self.classes, probabilities, noted)


def load(path: Path | str | None = None, *, model: str | None = None) -> Predictor:
    """A trained network.

    Args:
        path: A run's folder, or its `model.safetensors`, beside which `config.json` must lie.
        model: Instead of that, the name of a network that comes with normlab: `micro` or `nano`.

    Raises:
        RunError: It is no run's folder, not finished, or damaged.
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
    """The run's folder of a network that comes with normlab; UsageError where there is none."""
    if name not in MODELS:
        raise UsageError(f"no model {name!r}: there is {', '.join(MODELS)}")
    return Path(__file__).parents[1] / "models" / name


def find_pictures(inputs: Sequence[str]) -> list[str]:
    """The picture files that inputs name: files, folders (with all below them), patterns, `-`.

    Raises:
        UsageError: An input names nothing.
    """
    found: list[str] = []
    for name in inputs:
        path = Path(name)
        if name == "-":
            found.append(name)
            continue
        try:
            if not name:
                below = []
            elif path.is_file():
                below = [path]
            elif path.is_dir():
                below = sorted(p for p in path.rglob("*") if _looks_like_one(p, path))
            else:
                anchor = Path(path.anchor)
                matching = anchor.glob(str(path.relative_to(anchor)))
                below = sorted(p for p in matching if p.is_file() and _is_meant(p, path))
        except (OSError, ValueError, NotImplementedError):  # no such name can be
            below = []
        if not below:
            raise UsageError(
                f"{name or repr(name)}: there is no such picture, nor a folder with pictures"
            )
        found += map(str, below)
    return found


def _looks_like_one(path: Path, folder: Path) -> bool:
    """Whether what is somewhere below a folder is taken for a picture."""
    shown = path.suffix.lower() in SUFFIXES and _is_shown(path.relative_to(folder))
    return shown and path.is_file()


def _is_meant(path: Path, pattern: Path) -> bool:
    """Whether a pattern names what is hidden in a path that it matches, as in a shell."""
    named = [part for part in pattern.parts if part.startswith(".")]
    hidden = (part for part in path.parts if part.startswith("."))
    return all(any(fnmatch(part, name) for name in named) for part in hidden)


def _is_shown(path: Path) -> bool:
    """Nothing hidden: macOS puts a file named `._NAME` beside each, programs keep thumbnails."""
    return not any(part.startswith(".") for part in path.parts)


def predict_files(trained: Predictor, names: Sequence[str]) -> Iterator[Prediction | Unreadable]:
    """The answers on picture files, in order; memory does not grow with their number.

    Args:
        trained: The network.
        names: The files; `-` is the standard input.
    """
    with ThreadPoolExecutor(machine.cores()) as readers:
        for start in range(0, len(names), BATCH):
            read = list(readers.map(_try_to_read, names[start : start + BATCH]))
            pixels = [r[1] for r in read if not isinstance(r, Unreadable)]
            answers = iter(
                trained.probabilities(np.stack(pixels)) if pixels else np.empty((0, 0), np.float32)
            )
            for one in read:
                if isinstance(one, Unreadable):
                    yield one
                else:
                    yield trained.prediction(one[0], next(answers), one[2])


def _try_to_read(name: str) -> tuple[str, NDArray[np.uint8], tuple[str, ...]] | Unreadable:
    try:
        return read(name)
    except DataError as error:
        return Unreadable(name, str(error))


def read(picture: Picture, size: int = SIZE) -> tuple[str, NDArray[np.uint8], tuple[str, ...]]:
    """A picture's name, pixels (uint8, 3 × size × size) and peculiarities.

    Raises:
        DataError: It cannot be read.
        TypeError: It is none.
    """
    if isinstance(picture, str | os.PathLike):
        name = os.fspath(picture)
        source = io.BytesIO(sys.stdin.buffer.read()) if name == "-" else Path(name)
        return name, *read_picture(source, FORMATS, size)
    if isinstance(picture, bytes):
        return "", *read_picture(io.BytesIO(picture), FORMATS, size)
    if isinstance(picture, np.ndarray):
        colours = picture.shape[2:] in ((), (3,), (4,))
        if picture.dtype != np.uint8 or picture.ndim < 2 or not colours or not picture.size:
            raise TypeError(
                f"expected uint8, H × W, H × W × 3 or H × W × 4, got {picture.dtype}, "
                f"{' × '.join(map(str, picture.shape))}"
            )
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise TypeError(
            f"expected a path, bytes, a PIL image or an array, got {type(picture).__name__}"
        )
    try:
        return "", to_pixels(picture, size), tuple(peculiarities(picture))
    except (ValueError, ZeroDivisionError) as error:  # of a mode that is not converted, or empty
        raise DataError(
            f"a PIL image of mode {picture.mode}, {picture.width} × {picture.height}, "
            f"cannot be used ({error})"
        ) from error
