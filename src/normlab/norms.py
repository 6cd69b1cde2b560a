"""The normalization layers, in one registry.

Throughout, x is N × C × H × W, a mean E and a variance Var (biased) run over the axes that an entry
names, w and b are learned, and ε is 1e-5. `normlab norms` prints the registry.

One's own layer: a `torch.nn.Module` class whose constructor takes the shape (C, H, W) of what it
normalizes and whose `forward` keeps the shape of its N × C × H × W input; a ReLU follows it. Name
it `module:Class` on the command line, or register it in Python:

    @register("l1", formula="x / E|x| · w", paper="ours", axes="C, H, W", parameters="C")
    class L1Norm(nn.Module): ...
"""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normlab.errors import UsageError
from normlab.fused import FusedNorm

Shape = tuple[int, int, int]
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """An entry of the registry.

    Attributes:
        name: As `--norm` and the notation's `/name` take it.
        layer: The module and name of what computes it.
        build: From the shape (C, H, W), the number behind `=` (None where there is none), whether
            an activation follows and the probability of dropout after that, to the module that
            does all three.
        formula: What it computes.
        paper: Where it comes from.
        axes: What its statistics run over.
        parameters: How many it learns, in C, H and W.
        argument: What the number behind `=` is; None where it takes none.
        divides: The number behind `=` must divide the channels.
    """

    name: str
    layer: str
    build: Callable[[Shape, int | None, bool, float], nn.Module]
    formula: str
    paper: str
    axes: str
    parameters: str
    argument: str | None = None
    divides: bool = False


REGISTRY: dict[str, Normalization] = {}

Layer = Callable[..., nn.Module]


def register(
    name: str,
    *,
    formula: str,
    paper: str,
    axes: str,
    parameters: str,
    argument: str | None = None,
    divides: bool = False,
    fused: bool = False,
) -> Callable[[Layer], Layer]:
    """Enters a layer, which a ReLU then follows, into the registry.

    The layer is a class or function that takes the shape (C, H, W), and the number behind `=` as a
    second argument where `argument` says what that is. A `fused` one also takes the keywords
    `activate` (bool) and `dropout` (probability), and applies the ReLU and the dropout itself.

    A name can be registered anew only by the same layer, as by a notebook's cell that is run again.

    Raises:
        ValueError: The name is another layer's, or the notation could not spell it.
    """
    from normlab.layout import parse

    try:
        (block,) = parse(f"C/{name}+")
    except UsageError as error:
        raise ValueError(f"{name!r} cannot be written in a layout: {error}") from None
    if block.norm != name or "=" in name or ":" in name:
        raise ValueError(f"{name!r} cannot be written in a layout: use letters, digits, - and _")

    def enter(layer: Layer) -> Layer:
        full_name = f"{layer.__module__}.{layer.__qualname__}"
        if name in REGISTRY and REGISTRY[name].layer != full_name:
            raise ValueError(f"{name!r} is registered already, by {REGISTRY[name].layer}")

        def build(shape: Shape, number: int | None, activate: bool, dropout: float) -> nn.Module:
            numbers = () if argument is None else (number,)
            if fused:
                return layer(shape, *numbers, activate=activate, dropout=dropout)
            return _with_tail(layer(shape, *numbers), activate, dropout)

        REGISTRY[name] = Normalization(
            name=name,
            layer=full_name,
            build=build,
            formula=formula,
            paper=paper,
            axes=axes,
            parameters=parameters,
            argument=argument,
            divides=divides,
        )
        return layer

    return enter


def find(text: str) -> tuple[Normalization, int | None]:
    """The entry that a name such as `bn`, `gn=8` or `my_module:MyNorm` means, and its number.

    Raises:
        UsageError: There is none, or it takes no number.
    """
    if ":" in text:
        return _import(text), None
    name, equals, number = text.partition("=")
    entry = REGISTRY.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, REGISTRY, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}? It is " if near else "it is "
        raise UsageError(
            f"no normalization {name!r}: {hint}one of {', '.join(REGISTRY)}, or your "
            "module:Class (a name registered in Python is known to that program alone)"
        )
    if not equals:
        return entry, None
    if entry.argument is None:
        raise UsageError(f"{name} takes no number: write {name} alone")
    if not number.isascii() or not number.isdigit() or int(number) == 0:
        raise UsageError(f"{text!r}: the {entry.argument} must be a whole number above 0")
    return entry, int(number)


def build(text: str, shape: Shape, *, activate: bool, dropout: float = 0.0) -> nn.Module:
    """The module that normalizes N × C × H × W and, where asked, applies a ReLU and dropout.

    Raises:
        UsageError: There is no such normalization, or it cannot be built for this shape.
    """
    entry, number = find(text)
    return entry.build(shape, number, activate, dropout)


def _import(text: str) -> Normalization:
    module_name, _, class_name = text.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--norm {text}: {error}. Is the file in this folder or on PYTHONPATH?"
        ) from None
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UsageError(
            f"--norm {text}: importing {module_name} failed: {_said(error)}"
        ) from error
    layer = getattr(module, class_name, None)
    if layer is None:
        raise UsageError(f"--norm {text}: {module_name} has no {class_name}")

    def build(shape: Shape, number: int | None, activate: bool, dropout: float) -> nn.Module:
        del number
        try:
            built = layer(shape)
            with torch.no_grad():
                output = built.eval()(torch.randn(2, *shape))
        except Exception as error:
            raise UsageError(
                f"--norm {text}: built with the shape {shape} and given two such maps, it failed: "
                f"{_said(error)}"
            ) from error
        if output.shape != (2, *shape):
            raise UsageError(
                f"--norm {text}: it must keep the shape {(2, *shape)}, "
                f"not make {tuple(output.shape)}"
            )
        built.train()
        return _with_tail(built, activate, dropout)

    return Normalization(
        name=text,
        layer=f"{module_name}.{class_name}",
        build=build,
        formula="your own",
        paper="your own",
        axes="your own",
        parameters="your own",
    )


def _with_tail(layer: nn.Module, activate: bool, dropout: float) -> nn.Module:
    tail = [*([nn.ReLU()] if activate else []), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(layer, *tail) if tail else layer


def _said(error: BaseException) -> str:
    """An error of the user's code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def default_groups(channels: int) -> int:
    """The largest divisor of the channels that is at most 4."""
    return next(groups for groups in (4, 3, 2, 1) if channels % groups == 0)


@register(
    "none",
    formula="x + b",
    paper="no normalization; a bias stands in for the one that the others learn",
    axes="none",
    parameters="C",
)
class ChannelBias(nn.Module):
    """No normalization: a bias for each channel."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same."""
        return x + self.bias[:, None, None]


@register(
    "bn",
    formula="(x − E) / √(Var + ε) · w + b; in use, E and Var are running means of training's",
    paper="Ioffe & Szegedy 2015, Batch Normalization, arXiv:1502.03167, algorithms 1 and 2",
    axes="N, H, W",
    parameters="2·C",
    fused=True,
)
def batch_norm(shape: Shape, *, activate: bool, dropout: float) -> nn.Module:
    """Batch normalization with a momentum of 0.1."""
    return FusedNorm(shape, groups=None, activate=activate, dropout=dropout, eps=EPSILON)


@register(
    "gn",
    formula="(x − E) / √(Var + ε) · w + b",
    paper="Wu & He 2018, Group Normalization, arXiv:1803.08494, equations 1, 2 and 7",
    axes="H, W and a group of channels",
    parameters="2·C",
    argument="number of groups (left out: the largest divisor of C that is at most 4)",
    divides=True,
    fused=True,
)
def group_norm(
    shape: Shape, groups: int | None = None, *, activate: bool, dropout: float
) -> nn.Module:
    """Group normalization, affine per channel."""
    channels, height, width = shape
    if groups is not None and channels % groups:
        raise UsageError(f"gn={groups}: {groups} groups do not divide {channels} channels")
    groups = groups or default_groups(channels)
    if groups == channels and height * width == 1:
        raise UsageError(f"gn={groups} over one value is constant: the block needs fewer groups")
    return FusedNorm(shape, groups=groups, activate=activate, dropout=dropout, eps=EPSILON)


@register(
    "ln",
    formula="(x − E) / √(Var + ε) · w + b, w and b for each channel",
    paper="Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450; with an affine map per "
    "channel it is GroupNorm with one group (Wu & He 2018, section 3.1)",
    axes="C, H, W",
    parameters="2·C",
    fused=True,
)
def layer_norm(shape: Shape, *, activate: bool, dropout: float) -> nn.Module:
    """Layer normalization over the whole map, affine per channel."""
    return FusedNorm(shape, groups=1, activate=activate, dropout=dropout, eps=EPSILON)


@register(
    "ln-full",
    formula="(x − E) / √(Var + ε) · w + b, w and b for each element of C × H × W",
    paper="Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450, equation 3",
    axes="C, H, W",
    parameters="2·C·H·W",
)
def layer_norm_full(shape: Shape) -> nn.Module:
    """Layer normalization as PyTorch's LayerNorm([C, H, W]); its size grows with the picture."""
    return nn.LayerNorm(shape, eps=EPSILON)


@register(
    "ln-channel",
    formula="(x − E) / √(Var + ε) · w + b, at each pixel by itself",
    paper="Ba, Kiros & Hinton 2016, arXiv:1607.06450, as in Liu et al. 2022, A ConvNet for the "
    "2020s, arXiv:2201.03545",
    axes="C",
    parameters="2·C",
)
class ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape[0] == 1:
            raise UsageError("ln-channel over one channel is constant: the block needs 2 or more")
        self.norm = nn.LayerNorm(shape[0], eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same."""
        normalized: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normalized.permute(0, 3, 1, 2)


@register(
    "in",
    formula="(x − E) / √(Var + ε) · w + b",
    paper="Ulyanov, Vedaldi & Lempitsky 2016, Instance Normalization, arXiv:1607.08022",
    axes="H, W",
    parameters="2·C",
    fused=True,
)
def instance_norm(shape: Shape, *, activate: bool, dropout: float) -> nn.Module:
    """Instance normalization, affine: GroupNorm with a group for each channel."""
    channels, height, width = shape
    if height * width == 1:
        raise UsageError("in over a 1 × 1 map is constant: the block needs a larger map")
    return FusedNorm(shape, groups=channels, activate=activate, dropout=dropout, eps=EPSILON)


@register(
    "rms",
    formula="x / √(E[x²] + ε) · w",
    paper="Zhang & Sennrich 2019, Root Mean Square Layer Normalization, arXiv:1910.07467, eq. 4",
    axes="C, H, W",
    parameters="C",
    fused=True,
)
def rms_norm(shape: Shape, *, activate: bool, dropout: float) -> nn.Module:
    """Root mean square normalization over the whole map, a weight for each channel."""
    return FusedNorm(shape, groups=1, centre=False, activate=activate, dropout=dropout, eps=EPSILON)


def channel_multiple(text: str) -> int:
    """What the channels must be a multiple of, for this normalization to be built on them."""
    entry, number = find(text)
    return number if entry.divides and number is not None else 1
