"""Named training recipes: everything about training that is neither the network nor the data."""

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from normlab.config import AugmentStep, RunConfig
from normlab.errors import UsageError
from normlab.ranges import LARGEST, Positive, Range, Share


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is trained on the mean cross-entropy of each batch.

    By SGD with momentum, and by Muon where a weight mixes channels, unless `muon` is 0.
    """

    epochs: Positive
    batch_size: Positive
    learning_rate: Annotated[float, Range(above=0, at_most=LARGEST)]
    """Peak learning rate of the schedule."""
    momentum: Annotated[float, Range(at_least=0, below=1)] = 0.9
    nesterov: bool = False
    muon: Annotated[float, Range(at_least=0, at_most=LARGEST)] = 0.0
    """Muon's learning rate for weights that mix channels, as a share of SGD's. 0: no Muon."""
    schedule: Literal["step", "one-cycle"]
    """`step`: × 0.2 every 6 epochs. `one-cycle`: up for a quarter of the steps, then down to 0."""
    weight_decay: Annotated[float, Range(at_least=0, at_most=LARGEST)] = 0.0
    """Weight decay of the convolutions and `FC` that SGD trains. Nothing else decays."""
    label_smoothing: Share = 0.0
    """Share of each target that is spread over all classes."""
    dropout: Annotated[float, Range(at_least=0, below=1)] = 0.0
    """Probability of dropout after every activation."""
    mirror: bool = False
    """Each image is mirrored in every other epoch, half of them in the first: Jordan 2024, 94% on
    CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, section 3.6."""
    augment: tuple[AugmentStep, ...] = ()
    """Steps of `normlab.data.augment.STEPS`, in order."""

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run.

        It depends on nothing else, so a resumed run needs no scheduler state.
        """
        if self.schedule == "step":
            return self.learning_rate * 0.2 ** (step // steps_per_epoch // 6)
        total = self.epochs * steps_per_epoch
        progress = (step + 1) / (total + 1)  # so that no step has rate 0
        return self.learning_rate * min(progress / 0.25, (1 - progress) / 0.75)


def _nineteen_epochs(**settings: Any) -> Recipe:
    """The settings that the networks tuned under a budget share."""
    common: dict[str, Any] = {
        "epochs": 19,
        "batch_size": 128,
        "learning_rate": 0.4,
        "nesterov": True,
        "muon": 0.05,
        "schedule": "one-cycle",
        "mirror": True,
        "augment": ("shift",),
    }
    return Recipe(**(common | settings))


RECIPES = {
    # The published runs' recipe. Its vertical flip is wrong for digits.
    "seed": Recipe(
        epochs=20,
        batch_size=64,
        learning_rate=0.01,
        schedule="step",
        dropout=0.025,
        augment=("color-jitter", "affine", "vertical-flip"),
    ),
    # For the embedded digits: no flips; half a minute per network on two cores.
    "demo": Recipe(
        epochs=10,
        batch_size=16,
        learning_rate=0.01,
        nesterov=True,
        schedule="one-cycle",
        augment=("shift",),
    ),
    "micro": _nineteen_epochs(weight_decay=5e-4, label_smoothing=0.1),
    # Networks this small underfit: a shift only costs capacity.
    "nano": _nineteen_epochs(augment=()),
    "line": _nineteen_epochs(weight_decay=5e-4, label_smoothing=0.1),
    "line-5k": _nineteen_epochs(muon=0.1),
    # The only network here that is large enough to learn the training images by heart.
    "teacher": _nineteen_epochs(epochs=18, batch_size=256, weight_decay=5e-4, label_smoothing=0.1),
    # For your own pictures. `own_epochs` sets the number of epochs by how many they are.
    "own": Recipe(
        epochs=20,
        batch_size=32,
        learning_rate=0.2,
        nesterov=True,
        muon=0.05,
        schedule="one-cycle",
        weight_decay=5e-4,
        label_smoothing=0.1,
        mirror=True,
        augment=("shift", "light"),
    ),
    # The shortest time to 70%. In one epoch no image is seen twice: augmentation does not help.
    "sprint": Recipe(
        epochs=1,
        batch_size=128,
        learning_rate=0.5,
        nesterov=True,
        muon=0.1,
        schedule="one-cycle",
        weight_decay=1e-4,
    ),
}


# The recipes whose choices were made on networks with bn (benchmarks/NOTES.md): the optimizer, the
# schedule, the epochs, and what no search chose for each normalization.
MADE_WITH_BN = {"micro", "nano", "line", "line-5k", "teacher", "own", "sprint"}

# The settings that a search on held-out images found for a recipe and a normalization. micro keeps
# its shift: the search's three epochs say little about augmentation.
TUNED: dict[tuple[str, str], dict[str, Any]] = {
    ("micro", "bn"): {},
    ("micro", "gn"): {"learning_rate": 0.2, "muon": 0.1, "batch_size": 64},
    ("micro", "ln"): {"learning_rate": 0.2, "muon": 0.1, "batch_size": 64},
    ("nano", "bn"): {"batch_size": 64},
    ("nano", "gn"): {"batch_size": 64},
    ("nano", "ln"): {"label_smoothing": 0.1},
    ("line", "bn"): {},
    ("line", "gn"): {"batch_size": 64},
    ("line", "ln"): {"muon": 0.1},
    ("line-5k", "bn"): {
        "learning_rate": 0.2,
        "muon": 0.05,
        "batch_size": 64,
        "label_smoothing": 0.1,
        "augment": (),
    },
    ("line-5k", "gn"): {"muon": 0.05, "augment": ()},
    ("line-5k", "ln"): {"learning_rate": 0.2, "batch_size": 64, "augment": ()},
    # ln's settings: none of seven other trials was better by more than luck.
    ("line-5k", "gn-ws=1"): {"learning_rate": 0.2, "batch_size": 64, "augment": ()},
}


# The data sets whose recipe is `own`: they can have any pictures, and any number of them.
OWN_DATA = ("folder", "npz", "hf")
SHOWN = 60_000  # images that `own` shows a network, as far as its limits of epochs allow
OWN_EPOCHS = 20, 200  # at least, at most


# A recipe's settings that a run's configuration may state.
SETTINGS = (
    *("epochs", "batch_size", "learning_rate", "weight_decay"),
    *("muon", "label_smoothing", "augment"),
)


def find(name: str) -> Recipe:
    """A recipe by its name; UsageError if there is no such recipe."""
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower(), RECIPES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"no recipe {name!r}: there are {', '.join(RECIPES)}{hint}")
    return RECIPES[name]


def name_of(config: RunConfig) -> str:
    """The recipe that a configuration names; else its data's, its network's, or `seed`."""
    if config.recipe is None and config.kind in OWN_DATA:
        return "own"
    return config.recipe or (config.network if config.network in RECIPES else "seed")


def own_epochs(images: int) -> int:
    """The epochs of the recipe `own`: 60,000 / images, rounded up, but 20 to 200.

    So a run shows the network 60,000 images, about as many steps whatever the number of images.
    With fewer than 300 it shows less: a network memorizes images that it sees more than 200 times.

    Args:
        images: Number of training images, 1 or more.
    """
    fewest, most = OWN_EPOCHS
    return min(max(math.ceil(SHOWN / images), fewest), most)


def with_own_epochs(config: RunConfig, images: int) -> RunConfig:
    """A configuration that states the epochs of the recipe `own` for a number of images.

    It is unchanged if it states its epochs, or has another recipe.
    """
    if name_of(config) != "own" or config.epochs is not None:
        return config
    return dataclasses.replace(config, epochs=own_epochs(images))


def tuned_settings(name: str, norm: str) -> dict[str, Any] | None:
    """The tuned settings of a normalization: for its exact name (`gn=8`), else for any number."""
    return TUNED.get((name, norm), TUNED.get((name, norm.partition("=")[0])))


def resolve(config: RunConfig) -> Recipe:
    """The recipe in force: with the normalization's tuned settings and the configuration's own.

    Raises:
        UsageError: The recipe is unknown.
    """
    name = name_of(config)
    recipe = find(name)
    tuned = {} if config.untuned else tuned_settings(name, config.norm) or {}
    given: dict[str, Any] = {
        setting: value for setting in SETTINGS if (value := getattr(config, setting)) is not None
    }
    return dataclasses.replace(recipe, **(tuned | given))
