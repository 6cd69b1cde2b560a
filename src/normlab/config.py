"""What a run is described by: the one source for flags, the Python API and config.json.

`RunConfig` holds all that decides a run's numbers and is recorded with it, `StudyConfig` all that
decides a study's. `Execution` holds where and how it is computed: it may differ when the run is
resumed or evaluated on another machine.
"""

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro


def default_is(text: str) -> object:
    """Says in a flag's help what None stands for."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


Precision = Literal["float32", "bfloat16"]
DataRoot = Annotated[Path | None, default_is("$NORMLAB_DATA, else a cached or new download")]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images, and how they are split."""

    dataset: str = "cifar10"
    """`cifar10`, `digits` (embedded, no download), or `folder:PATH` with train/CLASS/*.png."""

    holdout: int = 0
    """Images held out of the training split, to choose settings by; no test image is then read."""

    split_seed: int = 0
    """Seed of the splits that normlab draws; apart from `seed`, so that repeats share them."""

    skip_unreadable: bool = False
    """`folder:` only: leave out images that cannot be read, and say how many."""


@dataclass(frozen=True, kw_only=True)
class RunConfig(DataConfig):
    """All that decides a run's numbers."""

    network: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK", help_behavior_hint="")
    ]
    """A name that `normlab zoo` lists, or a layout, such as "C1 C2 c3 P C4 C5 c6 P C7 GAP C8"."""

    norm: str = "bn"
    """Normalization: one that `normlab norms` lists (`gn=8`: 8 groups), or your `module:Class`."""

    budget: Annotated[int | None, default_is("50000 where a width is open")] = None
    """Parameters to stay below; open widths are solved from it."""

    recipe: Annotated[str | None, default_is("the network's own where it has one, else seed")] = (
        None
    )
    """Training recipe: `seed` (the published runs'), `demo` (for the embedded digits), or the one
    of a network of that name: `micro`, `nano`, `line`, `line-5k`, `sprint`."""

    untuned: bool = False
    """The recipe as it is, without what was found for the network's normalization on held-out
    images."""

    epochs: Annotated[int | None, default_is("the recipe's")] = None
    """Passes over the training images."""

    batch_size: Annotated[int | None, default_is("the recipe's")] = None
    """Images a step."""

    learning_rate: Annotated[float | None, default_is("the recipe's")] = None
    """Peak learning rate."""

    weight_decay: Annotated[float | None, default_is("the recipe's")] = None
    """Of convolutions' and `FC`'s weights; where Muon trains some of them, of the others."""

    train_images: Annotated[int | None, default_is("all")] = None
    """Training images to use, each class its share; the others are left aside."""

    label_noise: float = 0.0
    """Share of the training labels that are wrong: another class's, drawn at random."""

    precision: Precision = "float32"
    """Of activations and convolutions in training; `bfloat16` is faster where the processor has
    instructions for it. Weights, their updates, and evaluation are float32."""

    seed: int = 0
    """Seed of every random draw: weights, batches, augmentation, dropout."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(DataConfig):
    """What is compared: every normalization with every seed, in every setting."""

    network: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK", help_behavior_hint="")
    ]
    """As `normlab train` takes it; open widths are solved once, for the normalization with the most
    parameters."""

    norms: tuple[str, ...] = ("bn", "gn", "ln")
    """Normalizations."""

    seeds: int = 5
    """Repeats. At a seed, all normalizations start from the same convolutions and see the images in
    the same order."""

    layouts: Annotated[tuple[str, ...], default_is("none")] = ()
    """Further networks: names or layouts."""

    budgets: Annotated[tuple[int, ...], default_is("50000 where a width is open")] = ()
    """Parameters to stay below."""

    batch_sizes: Annotated[tuple[int, ...], default_is("the recipe's")] = ()
    """Images a step. The learning rate goes with their square root, from the recipe's on."""

    groups: Annotated[tuple[int, ...], default_is("up to 4, what divides")] = ()
    """Numbers of groups that `gn` is compared with."""

    train_images: Annotated[tuple[int, ...], default_is("all")] = ()
    """Numbers of training images, each class its share."""

    label_noise: Annotated[tuple[float, ...], default_is("none")] = ()
    """Shares of wrong training labels; 0 is none."""

    tune: Annotated[tuple[Literal["lr", "wd"], ...], default_is("the recipe's settings")] = ()
    """Search the learning rate, the weight decay, or both before the runs, on held-out images: the
    same trials for every normalization."""

    recipe: Annotated[str | None, default_is("the network's own where it has one, else seed")] = (
        None
    )
    """Training recipe, as `normlab train` takes it."""

    untuned: bool = False
    """As `normlab train` takes it: all normalizations then have the same recipe."""

    epochs: Annotated[int | None, default_is("the recipe's")] = None
    """Passes over the training images."""

    learning_rate: Annotated[float | None, default_is("the recipe's")] = None
    """Peak learning rate, of all normalizations."""

    weight_decay: Annotated[float | None, default_is("the recipe's")] = None
    """As `normlab train` takes it, of all normalizations."""

    precision: Precision = "float32"
    """As `normlab train` takes it."""

    @property
    def command(self) -> str:
        """The command that makes the study."""
        words = ["normlab", "compare", self.network]
        for field in fields(self):
            value = getattr(self, field.name)
            stated = field.name in ("norms", "seeds")  # always: they are what is compared
            if field.name != "network" and (stated or value != field.default):
                words.append(f"--{field.name.replace('_', '-')}")
                values = value if isinstance(value, tuple) else (value,)
                words += [str(each) for each in values if each is not True]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a run is computed, and where its data lies."""

    data_root: DataRoot = None
    """Folder that holds CIFAR-10, archived or extracted; nothing is downloaded then. For a run on a
    `folder:` that has moved: where it is now."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes CUDA where there is one, else Apple's MPS, else the CPU, and says which."""

    threads: Annotated[int | None, default_is("torch's choice, one a core")] = None
    """CPU threads."""
