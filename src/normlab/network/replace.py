"""Changes the normalizations of any torch module for those of the registry."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.hooks import has_hooks
from normlab.layers.modes import eval_mode
from normlab.layers.norms import Shape
from normlab.wording import counted, listed, shape_text

_OF_MAPS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)
_BY_NAME = re.compile(r"norm(\dd)?$", re.IGNORECASE)


class ChannelsLast(nn.Module):
    """A layer for N × C × H × W, applied to N × H × W × C."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """N × H × W × C to the same shape."""
        y: Tensor = self.layer(x.permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1)


@dataclass
class _Found:
    """A normalization of the module: its first name, and the inputs that it was applied to."""

    name: str
    layer: nn.Module
    shapes: list[torch.Size] = field(default_factory=list)
    sample: Tensor = field(default_factory=lambda: torch.empty(()))

    def note_input(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward pre-hook."""
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor):
            self.shapes.append(x.shape)
            self.sample = x.new_empty(())  # has its dtype and its device


def replace_norms(module: nn.Module, norm: str, *, example: Tensor) -> nn.Module:
    """Changes all normalizations of a module for one of the registry's, in place.

    It changes BatchNorm2d, SyncBatchNorm, GroupNorm, LayerNorm and InstanceNorm2d, wherever they
    are. Their inputs must be maps, N × C × H × W; a LayerNorm of one axis is applied to
    N × H × W × C. A forward pass of the example, in eval mode, shows the shapes.

    A new layer has the device, the dtype, the mode (training or eval) and the `requires_grad` of
    the old one. It starts with the old weight, bias and running averages, as far as it has the
    same in the same shape; but a weight that starts at another value than 1 (`none`, `lrn`, `dyt`)
    stays. ε and the momentum of running averages are the registry's. A layer that is used in
    several places stays one layer. Activations stay those of the module. A BatchNorm2d without
    running averages looks at the batch in eval mode, too; `bn` in its place has running averages,
    which start at 0 and 1.

    Call it before an optimizer, DistributedDataParallel or torch.compile is given the module.

    Args:
        module: Any torch module.
        norm: A normalization that `normlab norms` lists, or your `module:Class`.
        example: An input for `module`, such as two images; on its device.

    Returns:
        The module; the new layer if the module itself was a normalization.

    Raises:
        UsageError: A normalization cannot be replaced, or there is none; each that cannot is named.
            The module is as it was.
    """
    _check_replaces_alone(norm)
    found = [_Found(name, layer) for name, layer in module.named_modules() if _is_norm(layer)]
    if not found:
        raise UsageError(
            "the module has no normalization that is a layer of torch.nn: calls of "
            "torch.nn.functional cannot be replaced"
        )
    with torch.random.fork_rng(devices=[]):
        _apply(module, example, found)
        new: dict[nn.Module, nn.Module] = {}
        left: dict[str, list[str]] = {}
        for one in found:
            try:
                new[one.layer] = _replacement(one, norm)
            except UsageError as error:
                reason = f"{type(one.layer).__name__}: {error}"
                left.setdefault(reason, []).append(one.name or "the module itself")
    if left:
        number = sum(len(names) for names in left.values())
        named = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in left.items())
        raise UsageError(
            f"{number} of {counted(len(found), 'normalization')} cannot be replaced by {norm}, so "
            f"none was: {named}. Replace these before, or pass a part of the module without them"
        )
    for parent in [*module.modules()]:
        for name, child in [*parent._modules.items()]:
            if child in new:
                setattr(parent, name, new[child])
    return new.get(module, module)


def _check_replaces_alone(norm: str) -> None:
    """Raises an error for a normalization that is more than a layer in the place of another."""
    entry, _ = norms.find(norm)
    if entry.convolution is not nn.Conv2d:
        raise UsageError(
            f"{norm} also changes the convolutions before it, which replace_norms leaves as they "
            "are: choose another"
        )
    if entry.by_activation:
        raise UsageError(
            f"{norm} includes the activation after it, which replace_norms leaves as it is: choose "
            "another"
        )


def _is_norm(layer: nn.Module) -> bool:
    """Whether it is a normalization of torch.nn, or calls itself one and has no parts."""
    kind = type(layer)
    if isinstance(layer, _OF_MAPS):
        return True
    parametrizes = kind.__module__.startswith("torch.nn.utils.")  # such as spectral_norm
    return bool(_BY_NAME.search(kind.__name__)) and not (parametrizes or layer._modules)


def _apply(module: nn.Module, example: Tensor, found: Iterable[_Found]) -> None:
    """Applies the module to the example in eval mode, and leaves it as it was."""
    hooks = [one.layer.register_forward_pre_hook(one.note_input, with_kwargs=True) for one in found]
    try:
        with eval_mode(module), torch.no_grad():
            module(example)
    finally:
        for hook in hooks:
            hook.remove()


def _replacement(one: _Found, norm: str) -> nn.Module:
    """The new layer. Raises a UsageError with the reason if there cannot be one."""
    old = one.layer
    if not isinstance(old, _OF_MAPS):
        raise UsageError("only BatchNorm2d, GroupNorm, LayerNorm and InstanceNorm2d can be")
    if type(old).forward not in (kind.forward for kind in _OF_MAPS):
        raise UsageError("its class may compute something else than torch.nn's")
    if has_hooks(old) or is_parametrized(old):
        raise UsageError("it has hooks or parametrizations, which would be lost")
    if not one.shapes:
        raise UsageError("the example does not reach it")
    last = isinstance(old, nn.LayerNorm) and len(old.normalized_shape) == 1
    built: dict[Shape, nn.Module] = {}
    for size in one.shapes:
        if len(size) != 4:
            raise UsageError(f"its input is N × {shape_text(size[1:])}, not N × C × H × W")
        a, b, c = size[1:]
        shape = (c, a, b) if last else (a, b, c)
        built[shape] = norms.build(norm, shape, activate=False)
    (new, *others) = built.values()
    if any(_sizes(other) != _sizes(new) for other in others):
        maps = listed([shape_text(shape) for shape in built])
        raise UsageError(f"it is used for maps of {maps}, and {norm} depends on their size")
    values = next(itertools.chain(old.parameters(), _averages(old).values()), one.sample)
    new = new.to(values.device, values.dtype)
    _take_over(old, new)
    return (ChannelsLast(new) if last else new).train(old.training)


def _sizes(layer: nn.Module) -> list[torch.Size]:
    return [values.shape for values in layer.parameters()]


def _averages(layer: nn.Module) -> dict[str, Tensor]:
    """The running averages, by the last part of their names."""
    return {
        name.rpartition(".")[2]: values
        for name, values in layer.named_buffers()
        if values.is_floating_point()
    }


@torch.no_grad()
def _take_over(old: nn.Module, new: nn.Module) -> None:
    """Copies what both layers have, and whether it is trained."""
    learned: dict[str, Tensor] = dict(old.named_parameters())
    frozen = bool(learned) and not any(values.requires_grad for values in learned.values())
    for path, values in new.named_parameters():
        name = path.rpartition(".")[2]
        before = learned.get(name)
        values.requires_grad_(not frozen if before is None else before.requires_grad)
        if before is None:
            continue
        if values.ndim == before.ndim + 2:  # of each value of the maps, not of each channel
            before = before[..., None, None].expand_as(values)
        first = torch.full_like(values, 1.0 if name == "weight" else 0.0)
        starts_at_zero = name == "weight" and not before.any()  # a residual branch
        if before.shape == first.shape and (starts_at_zero or torch.equal(values, first)):
            values.copy_(before)
    before_averages, averages = _averages(old), _averages(new)
    if {k: v.shape for k, v in before_averages.items()} == {
        k: v.shape for k, v in averages.items()
    }:
        for name, average in averages.items():
            average.copy_(before_averages[name])
