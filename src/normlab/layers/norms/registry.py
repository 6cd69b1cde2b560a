"""The registry: what a normalization is called, what it computes, how it is built."""

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from normlab.errors import UsageError

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
        convolution: The class of the convolutions that it follows.
        skip_init: Each application of a residual branch is multiplied by a learned scale, which
            starts at 0, for this brings it to none: SkipInit (De & Smith 2020, Batch Normalization
            Biases Residual Blocks Towards the Identity Function, arXiv:2002.10444).
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
    convolution: type[nn.Conv2d] = nn.Conv2d
    skip_init: bool = False


REGISTRY: dict[str, Normalization] = {}

_SPELT_OUT = {
    "batchnorm": "bn",
    "groupnorm": "gn",
    "layernorm": "ln",
    "instancenorm": "in",
    "rmsnorm": "rms",
}

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
    activates: bool = False,
    convolution: type[nn.Conv2d] = nn.Conv2d,
    skip_init: bool = False,
) -> Callable[[Layer], Layer]:
    """Enters a layer, which a ReLU then follows, into the registry.

    The layer is a class or function that takes the shape (C, H, W), and the number behind `=` as a
    second argument where `argument` says what that is. One that `activates` also takes the keywords
    `activate` (bool) and `dropout` (probability): it applies the ReLU, or what it has instead, and
    the dropout itself. One that belongs to other weights names the `convolution` that has them. One
    that does not bring its input to a scale can ask for `skip_init`, as `Normalization` has it.

    A name can be registered anew only by the same layer, as by a notebook's cell that is run again.

    Raises:
        ValueError: The name is another layer's, or the notation could not spell it.
    """
    from normlab.notation import parse

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
            if activates:
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
            convolution=convolution,
            skip_init=skip_init,
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
        near = difflib.get_close_matches(name.lower(), [*REGISTRY, *_SPELT_OUT], n=1, cutoff=0.4)
        hint = f"did you mean {_SPELT_OUT.get(near[0], near[0])}? It is " if near else "it is "
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
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise UsageError(f"--norm {text}: {module_name} has no torch.nn.Module {class_name}")

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


def channel_multiple(text: str) -> int:
    """What the channels must be a multiple of, for this normalization to be built on them."""
    entry, number = find(text)
    return number if entry.divides and number is not None else 1
