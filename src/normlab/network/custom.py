"""Networks of the user's own: a function makes the module, and normlab's normalizations are in it.

    def resnet20(norm, classes, shape=(3, 32, 32)): ...

`norm(channels)` is the normalization that is compared, as a module; with `activate=True` the run's
activation follows, or the normalization's own. `norm.conv2d` is the class of the convolutions
before it. `shape` is the shape of an image, C × H × W; a function that does not take it gets images
in colour. The module maps N × C × H × W to N × classes.
"""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from normlab import own_code
from normlab.config import DataConfig
from normlab.errors import UsageError
from normlab.layers import activations, norms
from normlab.layers.activations import Activation
from normlab.layers.norms import Shape
from normlab.notation import is_custom
from normlab.wording import shape_text

NOT_APPLIED = (
    "is your own network: the parameter budget, open widths, compiled blocks, the recipe's dropout "
    "and folding do not apply"
)


C = TypeVar("C", bound=DataConfig)
_MADE: WeakSet[nn.Module] = WeakSet()  # a run must not start with the weights of another


class Norm(nn.Module):
    """A normalization of the registry. The first maps that it sees give it the shape it needs."""

    layer: nn.Module | None

    def __init__(self, name: str, channels: int, *, activate: bool, activation: Activation) -> None:
        super().__init__()
        self.name, self.channels = name, channels
        self.activate, self.activation = activate, activation
        self.scale_invariant = norms.find(name)[0].scale_invariant
        self.shape: Shape | None = None
        self.layer = None

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        if self.layer is None:
            if x.ndim != 4 or x.shape[1] != self.channels:
                raise ValueError(
                    f"norm({self.channels}) expects N × {self.channels} × H × W, "
                    f"not {shape_text(x.shape)}"
                )
            channels, height, width = x.shape[1:]
            self.shape = (channels, height, width)
            # Networks with different normalizations draw the same weights.
            with torch.random.fork_rng(devices=[]):
                self.layer = norms.build(
                    self.name, self.shape, activate=self.activate, activation=self.activation
                )
            self.layer.train(self.training)
        normalized: Tensor = self.layer(x)
        return normalized


@dataclass(frozen=True)
class NormFactory:
    """What the user's function gets as `norm`.

    Attributes:
        name: The normalization, as the registry finds it.
        activation: The activation of the run.
    """

    name: str
    activation: Activation

    def __call__(self, channels: int, *, activate: bool = False) -> Norm:
        """The normalization of N × channels × H × W.

        Args:
            channels: Number of channels.
            activate: Whether the run's activation follows, or the normalization's own.
        """
        return Norm(self.name, channels, activate=activate, activation=self.activation)

    @property
    def conv2d(self) -> type[nn.Conv2d]:
        """The class of the convolutions before it: one with standardized weights, for `gn-ws`."""
        return norms.find(self.name)[0].convolution


@dataclass(frozen=True)
class Layer:
    """What a module of a custom network computes, without the modules in it.

    Attributes:
        name: Its name in the network: `stages.0.conv1`.
        module: The module.
        shape: Shape of its output without N; empty if that is no tensor, or if it was not called.
        parameters: Number of its learned parameters that no module before it has.
        macs: Multiply-accumulates of its convolutions and matrix products, for one image.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]
    parameters: int
    macs: int


class CustomNetwork(nn.Module):
    """The module that the user's function makes.

    It is applied to two images, in eval mode, which gives its normalizations their shapes.
    Seed torch's generator before: the function draws the first weights from it.

    Attributes:
        module: The module.
        layers: Its parts with parameters, products or a normalization, in the order of their use.
        normalizations: For each convolution, the normalizations that its output is given to.

    Args:
        reference: `module:function`.
        norm: The normalization.
        classes: Number of classes.
        activation: The activation after the normalizations.
        shape: Shape (C, H, W) of an image.

    Raises:
        UsageError: There is no such function, it fails, or it makes something else.
    """

    def __init__(
        self, reference: str, norm: str, classes: int, activation: str, shape: Shape
    ) -> None:
        super().__init__()
        norms.find(norm)  # UsageError before the function is called
        follows = activations.find(activation)
        called = f"{reference} with {norm}"
        make = find(reference)
        takes_shape = _takes_shape(make)
        with _explained(called):
            # By keyword: a run's folder can make no other function run by naming it.
            module = make(
                norm=NormFactory(norm, follows),
                classes=classes,
                **({"shape": shape} if takes_shape else {}),
            )
        if not isinstance(module, nn.Module):
            raise UsageError(f"{called} must return a torch.nn.Module, not {type(module).__name__}")
        if module in _MADE:
            raise UsageError(f"{called} must make a new module at each call: it returned one twice")
        _MADE.add(module)
        self.module = module
        trace = _Trace(module)
        images = torch.randn(2, *shape)
        module.eval()
        told = "" if takes_shape or shape == (3, 32, 32) else ", which takes no shape"
        applied = f"{called}{told}, applied to two images of {shape_text(shape)},"
        with _explained(applied), torch.no_grad():
            output = trace.run(images)
        self._check(called, norm, classes, shape, output)
        with _explained(applied), torch.no_grad():  # as in training, where .view can fail
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            module(images.to(memory_format=torch.channels_last))
            module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.layers = [*trace.layers(images=2)]
        self.normalizations = trace.normalizations
        module.train()

    def _check(self, called: str, norm: str, classes: int, shape: Shape, output: object) -> None:
        """Raises UsageError if the output is not N × classes, or a normalization is not used."""
        found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if found != (2, classes):
            raise UsageError(
                f"{called} must map N × {shape_text(shape)} to N × {classes}, the number "
                f"of classes: two images gave {found}"
            )
        for name, part in self.module.named_modules():
            if isinstance(part, Norm) and part.layer is None:
                raise UsageError(f"{called} has a normalization that it does not use, {name}")
        needed = norms.find(norm)[0].convolution
        if self.norms and not any(isinstance(part, needed) for part in self.module.modules()):
            raise UsageError(
                f"{called}: {norm} changes the convolutions before it. Make them with "
                "norm.conv2d(…) in place of torch.nn.Conv2d(…)"
            )

    @property
    def norms(self) -> list[Norm]:
        """Its normalizations."""
        return _norms(self.module)

    @property
    def weights(self) -> list[Tensor]:
        """The weights of its convolutions and linear layers that are learned, as they are used."""
        weights = [
            part.module.weight
            for part in self.layers
            if isinstance(part.module, nn.Conv2d | nn.Linear)
        ]
        # A reparametrized weight is computed from others, and no parameter itself.
        learned = [w for w in weights if isinstance(w, nn.Parameter) and w.requires_grad]
        return [*dict.fromkeys(learned)]

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W, normalized by the training images, to N × classes."""
        logits: Tensor = self.module(x)
        return logits


def find(reference: str) -> Callable[..., Any]:
    """The function that a reference, `module:function`, names. Imports its module.

    Raises:
        UsageError: There is no such module or function.
    """
    made: Callable[..., Any] = own_code.find(reference, reference, "function", callable)
    return made


def in_colour_if_untold(config: C, networks: Iterable[str]) -> C:
    """A configuration with images in colour, if it leaves that open and a function takes no shape.

    Args:
        config: A run's or a study's.
        networks: Its networks: names, layouts and references.

    Raises:
        UsageError: There is no such function.
    """
    makes = [find(network) for network in networks if is_custom(network)]
    if config.channels == "auto" and not all(map(_takes_shape, makes)):
        return dataclasses.replace(config, channels="colour")
    return config


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns what the user's code raises into one line."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from None
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} failed: {own_code.described(error)}") from error


def _takes_shape(make: Callable[..., Any]) -> bool:
    """Whether the user's function wants to know the shape of an image."""
    try:
        return "shape" in inspect.signature(make).parameters
    except (TypeError, ValueError):  # a callable without a signature
        return False


class _Trace:
    """What the parts of a module do when it is applied once.

    Attributes:
        normalizations: As in `CustomNetwork`.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        within = {part for norm in _norms(module) for part in norm.modules() if part is not norm}
        self._names = {p: name for name, p in module.named_modules() if p not in within}
        self.normalizations: dict[nn.Module, list[Norm]] = {}
        self._shapes: dict[nn.Module, tuple[int, ...]] = {}  # in the order of the first use
        self._flops: dict[nn.Module, int] = {}
        self._running: list[list[int]] = []  # of the modules that run: start, and those within
        self._sources: dict[int, nn.Module] = {}  # convolutions, by the id of their output
        self._outputs: list[Tensor] = []  # kept, so that no other tensor gets its id
        self._counter = FlopCounterMode(display=False)

    def run(self, images: Tensor) -> object:
        """Applies the module to images."""
        handles = []
        for part in self._names:
            handles.append(part.register_forward_pre_hook(self._enter))
            handles.append(part.register_forward_hook(self._leave))
        try:
            with self._counter:
                return self.module(images)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._shapes.setdefault(part, ())
        self._running.append([self._counter.get_total_flops(), 0])
        if isinstance(part, Norm) and inputs and id(inputs[0]) in self._sources:
            norms = self.normalizations[self._sources[id(inputs[0])]]
            norms += [] if part in norms else [part]

    def _leave(self, part: nn.Module, _: object, output: object) -> None:
        start, within = self._running.pop()
        used = self._counter.get_total_flops() - start
        self._flops[part] = self._flops.get(part, 0) + used - within
        if self._running:
            self._running[-1][1] += used
        if isinstance(output, Tensor):
            self._shapes[part] = tuple(output.shape[1:])
            if isinstance(part, nn.Conv2d):
                self._sources[id(output)] = part
                self._outputs.append(output)
                self.normalizations.setdefault(part, [])

    def layers(self, *, images: int) -> Iterator[Layer]:
        """The parts that have parameters or products, or are a normalization, as they are used."""
        counted: set[Tensor] = set()
        # What one evaluation does not use comes first: the classifier is last.
        unused = [part for part in self._names if part not in self._shapes]
        for part in (*unused, *self._shapes):
            is_norm = isinstance(part, Norm)
            parameters = {*part.parameters(recurse=is_norm)} - counted
            counted |= parameters
            flops = self._flops.get(part, 0)
            if is_norm or parameters or flops:
                yield Layer(
                    name=self._names[part] or type(part).__name__,
                    module=part,
                    shape=self._shapes.get(part, ()),
                    parameters=sum(parameter.numel() for parameter in parameters),
                    macs=flops // (2 * images),
                )


def _norms(module: nn.Module) -> list[Norm]:
    return [part for part in module.modules() if isinstance(part, Norm)]
