"""A network as a scikit-learn classifier."""

import dataclasses
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

from normlab.config import IMAGE_SIZES, Execution, RunConfig
from normlab.data.dataset import Dataset, Split
from normlab.data.images import to_grey
from normlab.data.shape import with_shape
from normlab.errors import DivergedError, InterruptedRunError, UsageError
from normlab.inference.pictures import Picture, read
from normlab.inference.predict import Predictor
from normlab.network.custom import in_colour_if_untold
from normlab.runs.isolation import isolated
from normlab.storage.records import MalformedError, build
from normlab.training.loop import train
from normlab.wording import shape_text

Pictures = Sequence[Picture] | NDArray[np.uint8]


class Classifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A network as a scikit-learn estimator: for `Pipeline`, `cross_val_score`, `GridSearchCV`.

    `X` holds images: a uint8 array with values from 0 to 255, of shape N × H × W × 3,
    N × H × W × 4, N × H × W × 1 or N × H × W (grey), of any size; or a list of paths, file contents
    as bytes, PIL images and such arrays. The network sees the square at the centre
    (`normlab.data.images.to_pixels`), in one channel if no image has colour. Rows of a table are
    refused: reshape them.

    `y` has one label per image, of any kind that scikit-learn's classifiers take.

    Args:
        network: A name that `normlab zoo` lists, or a layout. Its last width is the number of
            classes.
        norm: Normalization.
        activation: Activation. None: the network's own if it has one, else `relu`.
        budget: Number of parameters to stay below. Open widths are solved from it, and from the
            next four.
        ram: Bytes of working memory of its C program in int8, at most.
        flash: Bytes of weights and tables of that program, at most.
        macs: Multiply-accumulates for one image, at most.
        board: A board whose RAM and flash are the limits: one that docs/microcontroller.md lists.
        recipe: Training recipe. None: the network's own if it has one, else `seed`.
        epochs: Passes over the images. None: the recipe's; the same holds for the next three.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        weight_decay: Weight decay of convolutions and `FC`. Weights that Muon trains have none.
        precision: Precision of activations and convolutions in training.
        size: Height and width of what the network sees. None: the shorter side of the array's
            images if it has 16 to 128 pixels, else 32.
        channels: `grey`: one; `colour`: three; `auto`: one if no image has colour.
        random_state: The run's seed, an integer. The same seed and number of threads give the same
            network on the same machine.
        device: Device for training. The trained network is on the CPU.
        threads: torch's CPU threads while it trains; None: as many as torch uses in this process.
        verbose: Print the progress of training.

    Attributes:
        classes_: The labels, sorted: the order of the probabilities.
        trained_: The network as `normlab.load` returns it. Its class names are the labels as text.
        history_: One `normlab.runs.metrics.Epoch` per epoch: loss and accuracy on the training
            images.
    """

    def __init__(
        self,
        network: str = "nano",
        *,
        norm: str = "bn",
        activation: str | None = None,
        budget: int | None = None,
        ram: int | None = None,
        flash: int | None = None,
        macs: int | None = None,
        board: str | None = None,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        precision: str = "float32",
        size: int | None = None,
        channels: str = "auto",
        random_state: int = 0,
        device: str = "cpu",
        threads: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.norm = norm
        self.activation = activation
        self.budget = budget
        self.ram = ram
        self.flash = flash
        self.macs = macs
        self.board = board
        self.recipe = recipe
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.precision = precision
        self.size = size
        self.channels = channels
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
        config = in_colour_if_untold(config, [config.network])
        pictures = _pictures(X)
        if self.size is None:
            config = dataclasses.replace(config, size=_size_of(pictures))
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
            train=Split(_pixels(pictures, config.size), labels.astype(np.int64)),
            test=Split(np.empty((0, *config.shape), np.uint8), np.empty(0, np.int64)),
        )
        dataset = with_shape(dataset, config.size, config.channels)
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
        pixels = _pixels(_pictures(X), self.trained_.size)
        grey = self.trained_.network.shape[0] == 1
        return self.trained_.probabilities(to_grey(pixels) if grey else pixels)

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
        if given["size"] is None:
            del given["size"]
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
    actual = f"X is {X.dtype}, {shape_text(X.shape) or 'not an array'}"
    if X.ndim == 1 and X.size:
        paths: list[Picture] = X.tolist()
        return paths
    if X.ndim == 2:
        raise ValueError(f"{actual}, a table: reshape its rows, X.reshape(-1, height, width)")
    if X.ndim == 3 and X.shape[2] in (3, 4):
        raise ValueError(f"{actual}, one picture: make it several, X[None]")
    if X.ndim == 4 and X.shape[3] not in (1, 3, 4) and X.shape[1] in (1, 3, 4):
        raise ValueError(f"{actual}, channels first: put them last, X.transpose(0, 2, 3, 1)")
    if X.ndim not in (3, 4) or X.shape[3:] not in ((), (1,), (3,), (4,)) or not X.size:
        raise ValueError(f"{actual}, expected uint8, N × H × W × 3, N × H × W × 4 or N × H × W")
    if X.dtype != np.uint8:
        raise ValueError(f"{actual}, expected uint8: scale to 0–255 and X.round().astype('uint8')")
    return X


def _size_of(pictures: Pictures) -> int:
    """The shorter side of an array's images; 32 for a list, or where that is out of range."""
    smallest = min(pictures.shape[1:3]) if isinstance(pictures, np.ndarray) else 32
    return smallest if smallest in IMAGE_SIZES else 32


def _pixels(pictures: Pictures, size: int) -> NDArray[np.uint8]:
    """The images in the network's size: uint8, N × 3 × size × size."""
    pixels = []
    for index, picture in enumerate(pictures):
        try:
            pixels.append(read(picture, size).pixels)
        except TypeError as error:
            raise ValueError(f"X[{index}]: {error}") from None
    return np.stack(pixels)
