"""The runs that are served: each answers on a picture, and says where it looks."""

import threading
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from normlab.errors import UsageError
from normlab.inference.evaluate import to_input
from normlab.inference.explain import SHOWN, grad_cam
from normlab.inference.predict import Picture, Prediction, Predictor, read
from normlab.report import plots
from normlab.report.card import model_card
from normlab.report.run_page import normalization
from normlab.runs.run import Run

# What a run answers, and where it looks: a drawing, uint8, 3 × H × W, or none.
Answer = tuple[Prediction, NDArray[np.uint8] | None]


class ServedRun:
    """A finished run that several threads may ask.

    Attributes:
        name: What tells it from the others.
        norm: Its normalization.
        card: Its model card, as Markdown.
        without_maps: Why there are no heat maps; empty where there are.
    """

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self.norm = normalization(run)
        self.card = _card(run)
        self._trained = Predictor(run.network(), run.data.classes)
        self._turn = threading.Lock()  # for a heat map captum hangs hooks into the network
        black = np.zeros((3, 32, 32), np.uint8)
        self._predict(black, ())  # weights of no use are refused now
        self.without_maps = ""
        try:  # now, for the first use of captum and of the compiled passes takes seconds
            self._heat_map(black, 0)
        except UsageError as error:
            self.without_maps = f"There is no heat map: {error}."

    def predict(self, picture: Picture) -> Prediction:
        """The answer on a picture.

        Raises:
            DataError: It cannot be read.
            RunError: The answer is no numbers.
        """
        _, pixels, notes = read(picture)
        return self._predict(pixels, notes)

    def explain(
        self, pixels: NDArray[np.uint8], notes: tuple[str, ...], shown: NDArray[np.uint8]
    ) -> Answer:
        """The answer on a picture, and where the network looks for it.

        Args:
            pixels: uint8, 3 × 32 × 32: what the network sees.
            notes: What is peculiar about the picture.
            shown: uint8, 3 × H × W: the same square, to draw over.
        """
        prediction = self._predict(pixels, notes)
        if self.without_maps:
            return prediction, None
        target = int(prediction.probabilities.argmax())
        return prediction, plots.heat_over(shown, self._heat_map(pixels, target))

    def _predict(self, pixels: NDArray[np.uint8], notes: tuple[str, ...]) -> Prediction:
        with self._turn:
            probabilities = self._trained.probabilities(pixels[None])[0]
        return self._trained.prediction("", probabilities, notes)

    def _heat_map(self, pixels: NDArray[np.uint8], target: int) -> NDArray[np.float32]:
        image = to_input(torch.from_numpy(pixels)[None])
        with self._turn:
            maps = grad_cam(self._trained.network, image, torch.tensor([target]))
        heat: NDArray[np.float32] = maps[0]
        return heat


def _card(run: Run) -> str:
    """A run's card without the Hub's metadata; of one that was passed on, that which it has."""
    passed_on = run.path / "README.md"
    if run.epochs:
        text = model_card([run])
    elif passed_on.is_file():
        text = passed_on.read_text(encoding="utf-8", errors="replace")
    else:
        return "Its folder has neither a card nor metrics: how accurate it is, is not known."
    return text.partition("\n---\n")[2] if text.startswith("---\n") else text


def explain_all(runs: Sequence[ServedRun], picture: Picture) -> list[Answer]:
    """What each run answers on a picture, and where it looks; DataError where it cannot be read."""
    _, pixels, notes = read(picture)
    _, shown, _ = read(picture, SHOWN)
    return [run.explain(pixels, notes, shown) for run in runs]
