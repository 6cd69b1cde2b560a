"""A network as a scikit-learn classifier."""

import os
import tempfile
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from normlab.config import Execution, RunConfig
from normlab.data.dataset import Dataset, Split
from normlab.errors import DivergedError, InterruptedRunError, UsageError
from normlab.inference.pictures import Picture, read
from normlab.inference.predict import Predictor
from normlab.runs.isolation import isolated
from normlab.storage.records import MalformedError, build
from normlab.training.loop import train

Pictures = Sequence[Picture] | NDArray[np.uint8]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network as a scikit-learn estimator: for `Pipeline`, `cross_val_score`, `GridSearchCV`.

    `X` holds images: a uint8 array with values from 0 to 255, of shape N × H × W × 3,
    N × H × W × 4 or N × H × W (grey), of any size; or a list of paths, file contents as bytes, PIL
    images and such arrays. The network sees them as 3 × 32 × 32 (`normlab.data.images.to_pixels`).
    Rows of a table are refused: reshape them.

    `y` has one label per image, of any kind that scikit-learn's classifiers take.

    Args:
        network: A name that `normlab zoo` lists, or a layout. Its last width is the number of
            classes.
        norm: Normalization.
        activation: Activation. None: the network's own if it has one, else `relu`.
        budget: Number of parameters to stay below. Open widths are solved from it.
        recipe: Training recipe. None: the network's own if it has one, else `seed`.
        epochs: Passes over the images. None: the recipe's; the same holds for the next three.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of convolutions and `FC`. Weights that Muon trains have none.
        precision: Precision of activations and convolutions in training.
        random_state: The run's seed, an integer. The same seed and number of threads give the same
            network on the same machine.
        device: Device for training. The trained network is on the CPU.
        threads: torch's CPU threads while it trains; None: as many as torch uses in this process.
        verbose: Print the progress of training.

    Attributes:
        classes_: The labels, sorted: the order of the probabilities.
        trained_: The network as `normlab.load` returns it. Its class names are the labels as text.
        history_: One `normlab.run.Epoch` per epoch: loss and accuracy on the training images.
    """

    def __init__(
        self,
        network: str = "nano",
        *,
        norm: str = "bn",
        activation: str | None = None,
        budget: int | None = None,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        precision: str = "float32",
        random_state: int = 0,
        device: str = "cpu",
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.norm = norm
        self.activation = activation
        self.budget = budget
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.precision = precision
        self.random_state = random_state
        self.device = device
        self.threads = threads
        self.verbose = verbose

    @isolated()
    def fit(self, X: Pictures, y: ArrayLike) -> Self:  # noqa: N803
        """Trains a new network; an earlier fit has no influence.

        Raises:
            ValueError: `X` does not hold images, `y` does not hold labels, they differ in number,
                or all labels are equal.
            DataError: A file cannot be read.
            UsageError: A parameter makes no sense.
            DivergedError: The loss was not finite.
        """
        config, execution = self._settings()
        pictures = _pictures(X)
        if y is None:
            raise ValueError("Classifier requires y to be passed, but the target y is None")
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
        check_consistent_length(pictures, y)
        classes, labels = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes[0]}: two or more are needed")
        dataset = Dataset(
            config.dataset,
            classes=tuple(map(str, classes)),
            train=Split(_pixels(pictures), labels.astype(np.int64)),
            test=Split(np.empty((0, 3, 32, 32), np.uint8), np.empty(0, np.int64)),
        )
        with tempfile.TemporaryDirectory(prefix="normlab-") as folder:
            try:
                run = train(config, folder, execution, dataset=dataset, quiet=not self.verbose)
            except InterruptedRunError:  # the folder is deleted: there is nothing to resume
                raise KeyboardInterrupt from None
            except DivergedError as error:
                raise DivergedError("the loss was not finite: lower learning_rate") from error
            self.trained_ = Predictor(run.network(), run.data.classes)
        self.classes_ = classes
        self.history_ = run.epochs
        return self

    def predict_proba(self, X: Pictures) -> NDArray[np.float32]:  # noqa: N803
        """Probabilities, float32, N × classes, in the order of `classes_`.

        Raises:
            NotFittedError: `fit` was not called before.
            ValueError: `X` does not hold images.
            DataError: A file cannot be read.
        """
        check_is_fitted(self)
        return self.trained_.probabilities(_pixels(_pictures(X)))

    def predict(self, X: Pictures) -> NDArray[Any]:  # noqa: N803
        """The most probable label of each image, N. Raises what `predict_proba` raises."""
        predictions = self.predict_proba(X).argmax(axis=1)
        labels: NDArray[Any] = self.classes_[predictions]
        return labels

    def _settings(self) -> tuple[RunConfig, Execution]:
        """The parameters as configurations, checked here: `__init__` only stores them."""
        # A grid from NumPy holds NumPy scalars instead of Python numbers.
        given = {
            name: value.item() if isinstance(value, np.generic) else value
            for name, value in self.get_params(deep=False).items()
        }
        del given["verbose"]
        execution = {name: given.pop(name) for name in ("device", "threads")}
        seed = given.pop("random_state")
        if not isinstance(seed, int):
            raise UsageError(f"random_state must be an integer, not {seed!r}")
        try:
            config = build(RunConfig, {"dataset": "the images given", "seed": seed, **given})
            return config, build(Execution, execution)
        except MalformedError as error:
            raise UsageError(str(error)) from None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


def _pictures(given: Pictures) -> Pictures:
    """The pictures, one by one; ValueError with what to do if `X` does not hold pictures."""
    if isinstance(given, str | os.PathLike | bytes | Image.Image):
        raise ValueError("X is one picture, expected several: put it in a list")
    if isinstance(given, list | tuple):
        if not given:
            raise ValueError("X is empty: at least one image is needed")
        return given
    X: NDArray[Any] = np.asarray(given)  # noqa: N806
    actual = f"X is {X.dtype}, {' × '.join(map(str, X.shape)) or 'not an array'}"
    if X.ndim == 1 and X.size:
        paths: list[Picture] = X.tolist()
        return paths
    if X.ndim == 2:
        raise ValueError(f"{actual}, a table: reshape its rows, X.reshape(-1, height, width)")
    if X.ndim == 3 and X.shape[2] in (3, 4):
        raise ValueError(f"{actual}, one picture: make it several, X[None]")
    if X.ndim == 4 and X.shape[3] not in (3, 4) and X.shape[1] in (3, 4):
        raise ValueError(f"{actual}, channels first: put them last, X.transpose(0, 2, 3, 1)")
    if X.ndim == 4 and X.shape[3] == 1:
        raise ValueError(f"{actual}: grey is N × H × W, X[..., 0]")
    if X.ndim not in (3, 4) or X.shape[3:] not in ((), (3,), (4,)) or not X.size:
        raise ValueError(f"{actual}, expected uint8, N × H × W × 3, N × H × W × 4 or N × H × W")
    if X.dtype != np.uint8:
        raise ValueError(f"{actual}, expected uint8: scale to 0–255 and X.round().astype('uint8')")
    return X


def _pixels(pictures: Pictures) -> NDArray[np.uint8]:
    """The images as the network sees them: uint8, N × 3 × 32 × 32."""
    pixels = []
    for index, picture in enumerate(pictures):
        try:
            pixels.append(read(picture).pixels)
        except TypeError as error:
            raise ValueError(f"X[{index}]: {error}") from None
    return np.stack(pixels)
