"""The registry: a normalization's name, what it computes, how it is built."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from normlab import own_code
from normlab.config import FULL_NAMES
from normlab.errors import UsageError
from normlab.layers.activations import RELU, Activate, Activation
from normlab.layers.dropout import Dropout

Shape = tuple[int, int, int]
EPSILON = 1e-5


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """An entry of the registry.

    Attributes:
        name: Its name for `--norm` and for `/name` in the notation.
        layer: The module and name of the class or function that computes it.
        build: Builds the module that normalizes, applies the activation and applies dropout. Takes
            the shape (C, H, W), the number after `=` (None if there is none), the activation (None
            if none follows) and the dropout probability.
        formula: What it computes.
        paper: Its source.
        axes: The axes of its statistics.
        parameters: The number of its learned parameters, in terms of C, H and W.
        argument: What the number after `=` means; None if it takes none.
        divides: Whether the number after `=` must divide the channels.
        convolution: The class of the convolutions before it.
        skip_init: Whether each application of a residual branch is multiplied by a learned scale
            that starts at 0, because the normalization does not bring the branch to a fixed scale:
            SkipInit (De & Smith 2020, Batch Normalization Biases Residual Blocks Towards the
            Identity Function, arXiv:2002.10444).
        scale_invariant: Whether the scale of its input has no effect, but for ε.
        by_activation: Whether it is another normalization where no activation follows.
    """

    name: str
    layer: str
    build: Callable[[Shape, int | None, Activation | None, float], nn.Module]
    formula: str
    paper: str
    axes: str
    parameters: str
    argument: str | None = None
    divides: bool = False
    convolution: type[nn.Conv2d] = nn.Conv2d
    skip_init: bool = False
    scale_invariant: bool = False
    by_activation: bool = False


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
    activates: bool = False,
    takes_activation: bool = False,
    convolution: type[nn.Conv2d] = nn.Conv2d,
    skip_init: bool = False,
    scale_invariant: bool = False,
    by_activation: bool = False,
) -> Callable[[Layer], Layer]:
    """Registers a layer as a normalization; the network's activation follows it.

    The layer is a class or function that takes the shape (C, H, W) and, if `argument` is given, the
    number after `=` as a second argument. If in eval mode it is one weight and one bias for each
    channel, its method `as_affine` returns them, and exported networks have them folded into the
    convolution before it.

    Muon keeps the weights before the layer at a fixed norm. If the layer is not `scale_invariant`,
    they start at that norm, which multiplies its input by some scale. A method `undo_scale(scale)`
    changes its first parameters so that it computes the same as before.

    A name can be registered again only by the same layer, as when a notebook cell is run again.

    Args:
        name: Its name; the notation must be able to spell it.
        formula: As in `Normalization`; so are `paper`, `axes` and `parameters`.
        paper: Its source.
        axes: The axes of its statistics.
        parameters: The number of its learned parameters.
        argument: What the number after `=` means.
        divides: Whether that number must divide the channels.
        activates: Whether the layer also takes the keywords `activate` (bool) and `dropout`
            (probability) and applies both: its own activation, and the dropout.
        takes_activation: Whether the layer takes the keywords `activation` (an `Activation`, or
            None) and `dropout` instead and applies both: whatever activation the network has.
        convolution: The class of the convolutions before it, for one that needs its own.
        skip_init: For one that does not bring its input to a fixed scale; see `Normalization`.
        scale_invariant: Whether the scale of its input has no effect, but for ε.
        by_activation: Whether it is another normalization where no activation follows.

    Raises:
        ValueError: The name is taken by another layer, or the notation cannot spell it.
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

        def build(
            shape: Shape, number: int | None, activation: Activation | None, dropout: float
        ) -> nn.Module:
            arguments = (shape,) if argument is None else (shape, number)
            if takes_activation:
                return layer(*arguments, activation=activation, dropout=dropout)
            if activates:
                return layer(*arguments, activate=activation is not None, dropout=dropout)
            return _followed_by(layer(*arguments), shape, activation, dropout)

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
            scale_invariant=scale_invariant,
            by_activation=by_activation,
        )
        return layer

    return enter


def find(text: str) -> tuple[Normalization, int | None]:
    """The entry for a name such as `bn`, `gn=8` or `my_module:MyNorm`, and the number after `=`.

    Raises:
        UsageError: There is no such entry, or it takes no number.
    """
    if ":" in text:
        return _import(text), None
    name, equals, number = text.partition("=")
    entry = REGISTRY.get(name)
    if entry is None:
        near = difflib.get_close_matches(name.lower(), [*REGISTRY, *FULL_NAMES], n=1, cutoff=0.4)
        hint = f"did you mean {FULL_NAMES.get(near[0], near[0])}? " if near else ""
        raise UsageError(
            f"no normalization {name!r}: {hint}Use one of {', '.join(REGISTRY)}, or module:Class "
            "for your own (a name registered in Python exists only in that program)"
        )
    if not equals:
        return entry, None
    if entry.argument is None:
        raise UsageError(f"{name} takes no number: write {name}")
    if not (number.isascii() and number.isdigit() and len(number) <= 99 and int(number) > 0):
        raise UsageError(f"{text[:50]!r}: the {entry.argument} must be a whole number above 0")
    return entry, int(number)


def build(
    text: str,
    shape: Shape,
    *,
    activate: bool,
    activation: Activation = RELU,
    dropout: float = 0.0,
) -> nn.Module:
    """The module that normalizes N × C × H × W, then applies an activation and dropout.

    Args:
        text: The normalization's name, as `find` takes it.
        shape: (C, H, W) of its input.
        activate: Whether the activation follows.
        activation: The activation; a normalization with its own applies that instead.
        dropout: Probability of dropout.

    Raises:
        UsageError: There is no such normalization, or it cannot be built for this shape.
    """
    entry, number = find(text)
    return entry.build(shape, number, activation if activate else None, dropout)


def _import(text: str) -> Normalization:
    layer = own_code.find(
        text,
        f"--norm {text}",
        "torch.nn.Module",
        lambda found: isinstance(found, type) and issubclass(found, nn.Module),
    )

    def build(
        shape: Shape, number: int | None, activation: Activation | None, dropout: float
    ) -> nn.Module:
        del number
        try:
            built = layer(shape)
            with torch.no_grad():
                output = built.eval()(torch.randn(2, *shape))
        except Exception as error:
            raise UsageError(
                f"--norm {text}: the layer built for the shape {shape} failed on two such maps: "
                f"{own_code.described(error)}"
            ) from error
        if output.shape != (2, *shape):
            raise UsageError(
                f"--norm {text}: the output must have the input's shape {(2, *shape)}, "
                f"not {tuple(output.shape)}"
            )
        built.train()
        return _followed_by(built, shape, activation, dropout)

    return Normalization(
        name=text,
        layer=text.replace(":", "."),
        build=build,
        formula="your own",
        paper="your own",
        axes="your own",
        parameters="your own",
    )


def _followed_by(
    layer: nn.Module, shape: Shape, activation: Activation | None, dropout: float
) -> nn.Module:
    """The layer, then the activation and dropout, as far as there are any."""
    layers = [layer]
    if activation:
        layers.append(Activate(activation, shape[0]))
    if dropout:
        layers.append(Dropout(dropout))
    return nn.Sequential(*layers) if len(layers) > 1 else layer


def channel_multiple(text: str) -> int:
    """The number that the channels must be a multiple of for this normalization."""
    entry, number = find(text)
    return number if entry.divides and number is not None else 1
