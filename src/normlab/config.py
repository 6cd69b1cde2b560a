"""The settings of runs and studies: the one source for flags, the Python API and config.json.

`RunConfig` holds every setting that decides a run's numbers; it is recorded with the run.
`StudyConfig` does the same for a study. `Execution` holds where and how a run is computed: it may
differ when the run is resumed or evaluated on another machine.
"""

import dataclasses
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from normlab.errors import UsageError
from normlab.ranges import LARGEST, Count, Positive, Range, Seed, Share


def default_is(text: str, *, also: str = "", help: str | None = None) -> object:
    """Shows in a flag's help what the default, None, means.

    Args:
        text: What it means.
        also: Another name of the flag, if people call it so.
        help: The flag's help, if several commands have it; else it is the docstring's.
    """
    return tyro.conf.arg(
        help_behavior_hint=f"(default: {text})", aliases=[also] if also else None, help=help
    )


# Normalizations by the names that other libraries have for them.
FULL_NAMES = {
    "batchnorm": "bn",
    "groupnorm": "gn",
    "layernorm": "ln",
    "instancenorm": "in",
    "rmsnorm": "rms",
}


def norm_name(text: str) -> str:
    """A normalization's own name for what people type: `BatchNorm2d`, `layer_norm`, `GN=8`."""
    name, equals, number = text.partition("=")
    full = re.sub(r"[_-]|[123]d$", "", name.lower())
    own = name.lower() if re.fullmatch(r"[A-Z][A-Z0-9-]*", name) else name
    return FULL_NAMES.get(full, own) + equals + number


# Read by the command line alone: records have a normalization's own name.
NormName = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="STR",
        instance_from_str=lambda texts: norm_name(texts[0]),
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    ),
]


def amount(flag: str, thousand: int) -> object:
    """Reads a flag's number as `32768`, `32k` or `1.5M`: `k` is so many, `M` the square of it."""

    def read(arguments: list[str]) -> int:
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)([km]?)", arguments[0], re.ASCII | re.I)
        if match is not None:
            number = Decimal(match[1]) * thousand ** " km".index(match[2].lower() or " ")
            if number == int(number):
                return int(number)
        raise UsageError(
            f"{flag} must be a whole number such as 32768, 32k or 1.5M, not {arguments[0]!r}"
        )

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT|k|M",
        instance_from_str=read,
        is_instance=lambda value: value is None or isinstance(value, int),
        str_from_instance=lambda value: [str(value)],
    )


C = TypeVar("C", bound=type[Any])


def field_order(*names: str) -> Callable[[C], C]:
    """Puts a dataclass's fields, the inherited ones too, into this order. Others come last.

    Help lists the fields in this order and files record them in it. A run's digest depends on it.
    """

    def reorder(kind: C) -> C:
        declared = kind.__dataclass_fields__
        kind.__dataclass_fields__ = {name: declared[name] for name in (*names, *declared)}
        return kind

    return reorder


MAX_SEEDS = 10_000
# The fields that older files lack: of a study, and of a run.
WRITTEN_IF_GIVEN = (
    *("contrasts", "margin", "looks", "muon", "label_smoothing", "augment"),
    *("recalibrate", "branches", "activation"),
    *("teacher", "teacher_weight", "teacher_temperature"),
    *("size", "channels", "image_column", "label_column"),
    *("balance", "start_from"),
    *("ram", "flash", "macs", "board"),
)
# What the file of a run means by leaving a setting out, if that is not the default.
UNSTATED: dict[str, Any] = {"activation": "relu", "channels": "colour"}
AugmentStep = Literal["color-jitter", "affine", "vertical-flip", "shift", "scale", "light"]
Searched = Literal["lr", "wd", "muon", "batch-size", "augment", "label-smoothing"]
BoardName = Literal["nano-33-ble", "pico", "esp32-s3", "nucleo-l4r5zi", "microbit-v2"]
Branches = Literal["none", "repvgg", "expand"]
LogFormat = Literal["csv", "tensorboard", "mlflow"]
Precision = Literal["float32", "bfloat16"]
Channels = Literal["auto", "grey", "colour"]
IMAGE_SIZES = Range(at_least=16, at_most=128)
# A setting that several commands have, with its help.
ImageSize = Annotated[
    int,
    IMAGE_SIZES,
    tyro.conf.arg(
        help="Height and width of the network's input in pixels. Images of another size are "
        "converted."
    ),
]
ActivationName = Literal["relu", "hard-swish", "silu", "gelu", "prelu", "leaky"]
NoiseShare = Annotated[float, Range(at_least=0, below=1)]
ActivationOfNetwork = Annotated[
    ActivationName | None,
    default_is(
        "the network's own if it has one, else relu",
        help="Activation after the normalizations; `frn` and the `evonorm`s have their own "
        "instead. `prelu` learns a slope for each channel, which counts as a parameter.",
    ),
]
ROOT_HELP = (
    "Folder that holds CIFAR-10, as an archive or extracted; nothing is downloaded then. For a run "
    "on a `folder:` data set that has moved: the folder's new place."
)
DataRoot = Annotated[
    Path | None, default_is("$NORMLAB_DATA, else a cached or new download", help=ROOT_HELP)
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    tyro.conf.arg(
        help="`auto` takes CUDA if there is one, else Apple's MPS, else the CPU, and prints which."
    ),
]
Norm = Annotated[
    NormName,
    tyro.conf.arg(
        help="Normalization: one that `normlab norms` lists (`gn=8`: 8 groups), or your "
        "`module:Class`."
    ),
]
Budget = Annotated[
    Positive | None,
    amount("--budget", 1000),
    default_is(
        "50000 where a width is open, if there is no --flash",
        help="Number of parameters to stay below. Open widths are solved from it.",
    ),
]
NetworkModel = Annotated[
    Literal["micro", "nano"] | None,
    default_is(
        "none",
        help="A network that comes with normlab, instead of a run's folder. `serve`, and `export` "
        "to `html`, take it beside runs, too.",
    ),
]
NetworkName = Annotated[
    str, tyro.conf.Positional, tyro.conf.arg(metavar="NETWORK", help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images, and how they are split."""

    dataset: str = "cifar10"
    """`cifar10`, `cifar100`, `digits` (embedded, no download), `folder:PATH` (your pictures),
    `npz:FILE`, `hf:OWNER/NAME` (Hugging Face), or another data set of `normlab.data.sources`."""

    holdout: Count = 0
    """Images held out of the training split, to choose settings by. No test image is read then."""

    split_seed: Annotated[int, Range(at_least=0)] = 0
    """Seed of the splits that normlab draws; separate from `seed`, so that repeats share them."""

    skip_unreadable: bool = False
    """Leave out images that cannot be read (of `folder:` and `hf:`), and count them."""

    image_column: Annotated[str | None, default_is("the only one with images")] = None
    """`hf:` only: the column with the images."""

    label_column: Annotated[str | None, default_is("the only one with labels")] = None
    """`hf:` only: the column with the labels."""

    size: ImageSize = 32

    channels: Channels = "auto"
    """`grey`: one channel; `colour`: three; `auto`: one if no training image has colour."""

    @property
    def kind(self) -> str:
        """What precedes the colon of the data set's name: `folder` of `folder:pictures`."""
        return self.dataset.partition(":")[0]

    @property
    def place(self) -> str:
        """What follows that colon: `pictures`."""
        return self.dataset.partition(":")[2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image. `auto` counts as colour: a run records which."""
        return (1 if self.channels == "grey" else 3, self.size, self.size)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a network may take at most, beside its parameters. Open widths are solved for all.

    RAM and flash are those of its program for microcontrollers in int8 (`export --to c`).
    """

    ram: Annotated[
        Positive | None,
        amount("--ram", 1024),
        default_is("the board's, else none"),
    ] = None
    """Most bytes of working memory that the network's C program in int8 may use: `32k` is 32 times
    1024."""

    flash: Annotated[
        Positive | None,
        amount("--flash", 1024),
        default_is("the board's, else none"),
    ] = None
    """Most bytes that weights and tables of the network's C program in int8 may use. A few kB of
    code come on top. With --flash, open widths have no other budget, unless --budget gives one."""

    macs: Annotated[Positive | None, amount("--macs", 1000), default_is("none")] = None
    """Most multiply-accumulates that one image may take: `2M` is 2 million."""

    board: Annotated[BoardName | None, default_is("none")] = None
    """A board whose RAM and flash are the limits. `--ram` and `--flash` beside it leave room for
    your own program."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(DataConfig, Limits):
    """The training settings that a run and a study share."""

    recipe: Annotated[
        str | None,
        default_is("own for folder:, npz: and hf:, else the network's if it has one, else seed"),
    ] = None
    """Training recipe: `seed` (the published runs'), `demo` (for the embedded digits), `own` (for
    your pictures), or that of a network, by the network's name, such as `micro`."""

    untuned: bool = False
    """Use the recipe as it is, without the settings that a search on held-out images found for
    the network's normalization."""

    epochs: Annotated[Positive | None, default_is("the recipe's")] = None
    """Passes over the training images."""

    learning_rate: Annotated[
        float | None, Range(above=0, at_most=LARGEST), default_is("the recipe's", also="--lr")
    ] = None
    """Peak learning rate."""

    weight_decay: Annotated[
        float | None, Range(at_least=0, at_most=LARGEST), default_is("the recipe's", also="--wd")
    ] = None
    """Weight decay of convolutions and `FC`. Weights that Muon trains have none."""

    muon: Annotated[
        float | None, Range(at_least=0, at_most=LARGEST), default_is("the recipe's")
    ] = None
    """Muon's learning rate for weights that mix channels, as a share of SGD's. 0: no Muon."""

    recalibrate: bool = False
    """After the last epoch of the run, measure running statistics anew over the training images,
    before accuracy is measured; the accuracy without is recorded, too."""

    branches: Branches = "none"
    """Train each 3×3 convolution as several that are folded into one before it is saved: `repvgg`,
    the sum of 3×3, 1×1 and identity; `expand`, 1×1 · 3×3 · 1×1, four times as wide in between."""

    activation: ActivationOfNetwork = None

    balance: bool = False
    """Weight each image's loss by its class: the rarer a class is in the training split, the more
    each of its images counts."""

    start_from: Annotated[
        str | None, tyro.conf.arg(metavar="micro|nano|RUN", help_behavior_hint="(default: none)")
    ] = None
    """Start from the weights of a trained network, all but the classifier: those of a finished run
    (its folder), or of a network that comes with normlab."""

    teacher: Annotated[str | None, default_is("none")] = None
    """Learn from another network's outputs, too: those of a finished run (its folder), of a network
    that comes with normlab (`micro`), or of your function, `module:function`."""

    teacher_weight: Share = 0.9
    """The teacher's share of the loss; the labels have the rest."""

    teacher_temperature: Annotated[float, Range(above=0, at_most=LARGEST)] = 2.0
    """Divides the logits of the teacher and of the network before they are compared."""

    precision: Precision = "float32"
    """Precision of activations and convolutions in training. `bfloat16` is faster if the processor
    has instructions for it; elsewhere values are rounded alike, at about float32's speed. Weights,
    their updates and evaluation stay in float32."""


@field_order(
    *("dataset", "holdout", "split_seed", "skip_unreadable", "image_column", "label_column"),
    *("size", "channels"),
    *("network", "norm", "activation", "budget", "ram", "flash", "macs", "board"),
    *("recipe", "untuned", "epochs", "batch_size", "learning_rate", "weight_decay"),
    *("muon", "label_smoothing", "augment"),
    *("train_images", "label_noise", "precision", "recalibrate", "branches"),
    *("balance", "start_from"),
    *("teacher", "teacher_weight", "teacher_temperature", "seed"),
)
@dataclass(frozen=True, kw_only=True)
class RunConfig(TrainingConfig):
    """All settings that decide a run's numbers."""

    network: NetworkName
    """A name that `normlab zoo` lists, a layout, such as "C1 C2 c3 P C4 C5 c6 P C7 GAP C8", or your
    `module:function`."""

    norm: Norm = "bn"

    budget: Budget = None

    batch_size: Annotated[Positive | None, default_is("the recipe's", also="--batch")] = None
    """Images per step."""

    label_smoothing: Annotated[Share | None, default_is("the recipe's")] = None
    """Share of each target that is spread over all classes."""

    augment: Annotated[
        tuple[AugmentStep, ...] | None,
        tyro.conf.arg(metavar="[STEP ...]", help_behavior_hint="(default: the recipe's)"),
    ] = None
    """Steps of augmentation, in order: `color-jitter`, `affine`, `vertical-flip`, `shift`, `scale`,
    `light`. No step after the flag means none."""

    train_images: Annotated[Positive | None, default_is("all")] = None
    """Number of training images to use, stratified by class."""

    label_noise: NoiseShare = 0.0
    """Share of training labels that are replaced by another class, drawn at random."""

    seed: Seed = 0
    """Seed of every random draw: weights, batches, augmentation, dropout."""


@field_order(
    *("dataset", "holdout", "split_seed", "skip_unreadable", "image_column", "label_column"),
    *("size", "channels"),
    *("network", "norms", "seeds"),
    *("layouts", "budgets", "batch_sizes", "groups", "train_images", "label_noise", "tune"),
    *("ram", "flash", "macs", "board"),
    *("recipe", "untuned", "epochs", "learning_rate", "weight_decay", "muon", "precision"),
    *("recalibrate", "branches", "activation"),
    *("balance", "start_from"),
    *("teacher", "teacher_weight", "teacher_temperature"),
)
@dataclass(frozen=True, kw_only=True)
class StudyConfig(TrainingConfig):
    """What is compared: every normalization with every seed, in every setting."""

    network: NetworkName
    """As in `normlab train`. Open widths are solved once, for the normalization with the most
    parameters."""

    norms: tuple[NormName, ...] = ("bn", "gn", "ln")
    """Normalizations to compare."""

    seeds: Annotated[int, Range(at_least=1, at_most=MAX_SEEDS)] = 5
    """Number of repeats. With the same seed, all normalizations start from the same convolutions
    and see the images in the same order."""

    layouts: Annotated[tuple[str, ...], default_is("none")] = ()
    """Further networks: names or layouts."""

    budgets: Annotated[
        tuple[Annotated[Positive, amount("--budgets", 1000)], ...],
        default_is("50000 where a width is open, if there is no --flash"),
    ] = ()
    """Numbers of parameters to stay below."""

    batch_sizes: Annotated[tuple[Positive, ...], default_is("the recipe's")] = ()
    """Images per step. The learning rate (the recipe's, or that of `--lr`) is for the recipe's
    batch size. It is scaled with the square root of the batch size."""

    groups: Annotated[tuple[Positive, ...], default_is("the largest divisor up to 4")] = ()
    """Numbers of groups to compare for `gn`."""

    train_images: Annotated[tuple[Positive, ...], default_is("all")] = ()
    """Numbers of training images, stratified by class."""

    label_noise: Annotated[tuple[NoiseShare, ...], default_is("none")] = ()
    """Shares of wrong training labels; 0 means none."""

    tune: Annotated[tuple[Searched, ...], default_is("the recipe's settings")] = ()
    """Settings to search on held-out images before the runs, with the same trials for every
    normalization. They are searched one after the other, each at the best values of those before. A
    setting may come again: `lr batch-size lr`."""

    tune_seeds: Annotated[int, Range(at_least=1, at_most=100)] = 3
    """Number of seeds with which each value of the search is tried."""

    contrasts: Annotated[tuple[str, ...], default_is("pairs changes")] = ()
    """What is tested, and corrected for: `pairs` in each setting; `changes` of the differences from
    the first normalization, against the first value of an axis; `bn,gn` in each setting;
    `bn,gn@batch2` in one; `bn,gn@batch2,batch32`: bn minus gn at batch size 2, minus the same at
    32."""

    margin: Annotated[float, Range(above=0, at_most=100)] = 0.5
    """Accuracies count as equal if they are shown to be within this many points."""

    looks: Annotated[int, Range(at_least=1, at_most=100)] = 1
    """How many times the result may be tested. Seeds can be added before each test but the first.
    Each test has an equal share of the 5%."""

    @property
    def command(self) -> str:
        """The command that makes the study."""
        words = ["normlab", "compare", self.network]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "tune_seeds" and not self.tune:
                continue
            stated = field.name in ("norms", "seeds")  # always: they are what is compared
            if field.name != "network" and (stated or value != field.default):
                words.append(f"--{field.name.replace('_', '-')}")
                values = value if isinstance(value, tuple) else (value,)
                words += [str(each) for each in values if each is not True]
        return shlex.join(words)


def recorded(config: RunConfig | StudyConfig) -> dict[str, Any]:
    """A configuration as files have it: without what older ones lack and nobody asked for."""
    left_out = {field.name: [field.default] for field in fields(config)}
    if isinstance(config, RunConfig):
        for name, value in UNSTATED.items():
            left_out[name].append(value)
    written = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name not in WRITTEN_IF_GIVEN or value not in left_out[name]
    }
    if config.teacher is not None:  # its other settings too: their defaults may change
        written |= {
            name: getattr(config, name) for name in ("teacher_weight", "teacher_temperature")
        }
    # Searches that do not state it had one seed.
    if isinstance(config, StudyConfig) and (not config.tune or config.tune_seeds == 1):
        del written["tune_seeds"]
    return written


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a run is computed, and where its data lies."""

    data_root: DataRoot = None

    device: Device = "auto"

    threads: Annotated[Positive | None, default_is("torch's choice, one per core")] = None
    """CPU threads."""
