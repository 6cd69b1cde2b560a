"""A run that the server predicts and explains pictures with."""

import threading
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from normlab.errors import UsageError
from normlab.inference.evaluate import to_input
from normlab.inference.explain import grad_cam
from normlab.inference.pictures import LoadedPicture
from normlab.inference.predict import Prediction, Predictor
from normlab.report import plots
from normlab.report.card import model_card
from normlab.report.run_page import normalization
from normlab.runs.run import Run


class PredictionWithHeatMap(NamedTuple):
    """A prediction and its heat map, drawn over the picture: uint8, 3 × H × W, or None."""

    prediction: Prediction
    heat_map: NDArray[np.uint8] | None


class ServedRun:
    """A finished run. Several threads may use it at the same time.

    Attributes:
        name: Its name, different from the other runs'.
        norm: Its normalization.
        card: Its model card, as Markdown.
        size: Height and width of the images that its network sees.
        sees: The same in words, `32 × 32 pixels` or `28 × 28 grey pixels`.
        no_heat_maps: Why there are no heat maps; empty where there are.
    """

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self.norm = normalization(run)
        self.card = _card(run)
        self._predictor = Predictor(run.network(), run.data.classes)
        channels, self.size, _ = run.config.shape
        self.sees = f"{self.size} × {self.size} {'grey ' if channels == 1 else ''}pixels"
        self._lock = threading.Lock()  # captum puts hooks into the network for a heat map
        black = LoadedPicture("", np.zeros((3, self.size, self.size), np.uint8), ())
        self.predict(black)  # refuses weights that overflow
        self.no_heat_maps = ""
        try:  # the first use of captum and of the compiled passes takes seconds
            self._heat_map(black, 0)
        except UsageError as error:
            self.no_heat_maps = f"There is no heat map: {error}."

    def predict(self, picture: LoadedPicture) -> Prediction:
        """Predicts a picture. Raises RunError if the network's outputs are not finite."""
        with self._lock:
            (prediction,) = self._predictor.predict_loaded([picture])
        return prediction

    def explain(self, picture: LoadedPicture, shown: NDArray[np.uint8]) -> PredictionWithHeatMap:
        """Predicts a picture and draws where the network looks.

        Args:
            picture: The picture in the network's size.
            shown: uint8, 3 × H × W: the same square, to draw the heat map over.

        Raises:
            RunError: The network's outputs are not finite.
        """
        prediction = self.predict(picture)
        if self.no_heat_maps:
            return PredictionWithHeatMap(prediction, None)
        target = int(prediction.probabilities.argmax())
        return PredictionWithHeatMap(
            prediction, plots.heat_over(shown, self._heat_map(picture, target))
        )

    def _heat_map(self, picture: LoadedPicture, target: int) -> NDArray[np.float32]:
        image = to_input(torch.from_numpy(self._predictor.pixels([picture])))
        with self._lock:
            maps = grad_cam(self._predictor.network, image, torch.tensor([target]))
        heat_map: NDArray[np.float32] = maps[0]
        return heat_map


def _card(run: Run) -> str:
    """A run's model card without the Hub's metadata. A run without metrics keeps the one it has."""
    existing = run.path / "README.md"
    if run.epochs:
        text = model_card([run])
    elif existing.is_file():
        text = existing.read_text(encoding="utf-8", errors="replace")
    else:
        return "The run's folder has neither a model card nor metrics: its accuracy is unknown."
    return text.partition("\n---\n")[2] if text.startswith("---\n") else text
