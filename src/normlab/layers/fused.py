"""Normalization, activation and dropout in one layer, on the passes of normalize.c.

It computes bn, ebn, gn, ln, in and rms. They all take their statistics over groups of cells, where
a cell is one channel of one sample:

    BatchNorm           a channel's cells of all samples, or of a part of them
    Extended BatchNorm  as BatchNorm, but all channels have the mean of their variances
    GroupNorm           the cells of a group of channels of one sample (LayerNorm: of all channels,
                        InstanceNorm: of one)
    RMSNorm             as LayerNorm, with the mean taken as 0

So the cells are laid out as parts × samples × groups × members, and the statistics are taken over
samples and members: BatchNorm has one part and a group for each channel, GroupNorm a part for each
sample.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import kernels
from normlab.layers.activations import Activate, Activation
from normlab.layers.dropout import draw, drop


class ChannelAffine(NamedTuple):
    """What some normalizations are in eval mode: activation(x · weight + bias) for each channel.

    Attributes:
        weight: C values.
        bias: C values.
        activate: The activation that follows; None for none.
    """

    weight: Tensor
    bias: Tensor
    activate: Activate | None = None

    @classmethod
    def of_statistics(
        cls,
        norm: Any,
        mean: Tensor,
        deviation: Tensor,
        activate: Activate | None = None,
    ) -> Self:
        """(x − mean) / deviation · weight + bias, with the weight and the bias of a layer.

        The division rounds differently from the multiplication by 1 / deviation in the layers' own
        passes. Exported files depend on it to the last bit, and int8 calibration amplifies that.
        """
        weight = norm.weight / deviation
        return cls(weight, norm.bias - mean * weight, activate)


def refuse_single_values(count: int) -> None:
    """Raises what PyTorch's BatchNorm raises for one value per channel."""
    if count == 1:
        raise ValueError("Expected more than 1 value per channel when training")


class FusedNorm(nn.Module):
    """(x − E) / √(Var + ε) · weight + bias, then an activation and dropout.

    Args:
        shape: (C, H, W) of its input.
        groups: Number of groups of channels; each group of each sample is normalized by itself.
            None: BatchNorm, whose E and Var are taken per channel over the batch and, in eval mode,
            are running averages of them.
        centre: Whether the mean is subtracted and a bias learned; RMSNorm does neither.
        pooled: BatchNorm: whether all channels have one variance, the mean of theirs.
        activation: The activation that follows; None for none.
        dropout: Probability of the dropout after that, below 1.
        momentum: BatchNorm: the weight of the newest batch in the running averages.
        eps: ε.

    Raises:
        ValueError: `dropout` is negative, or 1 or more; groups do not divide the channels, or have
            a pooled variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        groups: int | None,
        centre: bool = True,
        pooled: bool = False,
        activation: Activation | None,
        dropout: float,
        momentum: float = 0.1,
        eps: float,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be 0 or more and below 1, not {dropout}")
        if pooled and groups is not None:
            raise ValueError("only BatchNorm has a pooled variance: leave out groups")
        channels = shape[0]
        if groups is not None and (groups < 1 or channels % groups):
            raise ValueError(f"{groups} groups do not divide {channels} channels")
        self.groups, self.centre, self.pooled, self.activation = groups, centre, pooled, activation
        self.activate = Activate(activation, channels) if activation else None
        self.dropout, self.momentum, self.eps = dropout, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if centre else None
        if groups is None:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(1 if pooled else channels))

    def forward(
        self, x: Tensor, residual: Tensor | None = None, samples: int | None = None
    ) -> Tensor:
        """N × C × H × W to the same shape; `residual` is added at the end.

        `samples`: BatchNorm in training mode normalizes parts of so many samples by themselves; it
        divides N.
        """
        if x.shape[1] != len(self.weight):
            raise ValueError(f"expected maps of {len(self.weight)} channels, got {x.shape[1]}")
        if samples is not None and (samples < 1 or len(x) % samples):
            raise ValueError(f"parts of {samples} samples do not divide a batch of {len(x)}")
        if self.can_run_compiled(x, samples):
            if self.activation in kernels.ACTIVATION_NUMBERS:
                return self._run_compiled(x, residual, samples, activate=True)
            y = self._run_compiled(x, None, samples, activate=False)
        else:
            y = self._run_pytorch(x, samples)
        if self.activate is not None:
            y = self.activate(y)
        y = drop(y, self.dropout, self.training)
        return y if residual is None else y + residual

    def as_affine(self) -> ChannelAffine | None:
        """What BatchNorm is in eval mode; None for the others, which depend on their input."""
        if self.groups is not None:
            return None
        deviation = (self.running_var + self.eps).sqrt()
        return ChannelAffine.of_statistics(self, self.running_mean, deviation, self.activate)

    def running_affine(self) -> dict[str, Tensor | None]:
        """BatchNorm's `scale` and `shift` of each channel in eval mode."""
        scale, shift = self._affine(self.running_mean, self.running_var)
        return {"scale": scale, "shift": shift}

    def extra_repr(self) -> str:
        """Channels, kind of statistics, activation and dropout."""
        kind = "batch" if self.groups is None else f"groups={self.groups}"
        kind += ", one variance" if self.pooled else ""
        activation = self.activation.name if self.activation else None
        return f"{len(self.weight)}, {kind}, activation={activation}, dropout={self.dropout}"

    def can_run_compiled(self, x: Tensor, samples: int | None = None) -> bool:
        """Whether the compiled passes can process these maps, but for the activation."""
        if self.groups is None:
            values = (samples or x.shape[0]) * x.shape[2] * x.shape[3]  # of a channel
            if values == 1:  # PyTorch raises the error
                return False
            if not self.training and torch.is_grad_enabled():
                return False
            if not (self.running_mean.is_contiguous() and self.running_var.is_contiguous()):
                return False
        own: list[Tensor] = [self.weight] if self.bias is None else [self.weight, self.bias]
        own += [self.running_mean, self.running_var] if self.groups is None else []
        float32 = all(each.dtype == torch.float32 and each.device == x.device for each in own)
        return float32 and kernels.usable(x)

    def _run_pytorch(self, x: Tensor, samples: int | None = None) -> Tensor:
        """The normalization by PyTorch's own functions."""
        if samples is not None:
            return torch.cat([self._run_pytorch(part) for part in torch.split(x, samples)])
        if self.pooled:
            return self._run_pooled(x)
        if self.groups is None:
            return F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training,
                self.momentum,
                self.eps,
            )
        if self.centre:
            return F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        y = F.rms_norm(x, x.shape[1:], eps=self.eps)
        return y * self.weight[:, None, None].to(x.dtype)

    def _run_pooled(self, x: Tensor) -> Tensor:
        """BatchNorm with one variance."""
        y = x.to(self.weight.dtype)
        mean, variance = self.running_mean, self.running_var
        if self.training:
            refuse_single_values(count := x.numel() // x.shape[1])
            mean = y.mean((0, 2, 3))
            variance = (y - mean[:, None, None]).square().mean().reshape(1)
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale, shift = (each[:, None, None] for each in self._affine(mean, variance))
        return (y * scale + shift).to(x.dtype)

    def _affine(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The scale and the shift of each channel in BatchNorm with these statistics."""
        assert self.bias is not None
        scale = self.weight * (variance + self.eps).rsqrt()
        return scale, self.bias - mean * scale

    def _run_compiled(
        self, x: Tensor, residual: Tensor | None, samples: int | None, *, activate: bool
    ) -> Tensor:
        """The layer by the compiled passes: all of it, or its affine map alone."""
        if residual is not None:
            residual = residual.to(x.dtype).expand_as(x)
            residual = residual.contiguous(memory_format=torch.channels_last)
        if self.groups is None and not self.training:
            y = torch.empty_like(x)
            settings = kernels.Settings(self.activation if activate else None)
            affine = self.running_affine()
            kernels.normalize("apply", x, settings, out=y, residual=residual, **affine)
            return y
        output: Tensor = _Normalize.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, residual, self, samples, activate
        )
        return output


class _Normalize(torch.autograd.Function):
    """The fused forward and backward passes. The forward pass updates running averages."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: FusedNorm,
        samples: int | None,
        activate: bool,
    ) -> Tensor:
        settings, tensors = prepare(norm, x, weight, bias, samples, activate=activate)
        y = torch.empty_like(x)
        kernels.normalize("forward", x, settings, out=y, residual=residual, **tensors)
        ctx.save_for_backward(x, *(tensors[name] for name in KEPT))
        ctx.settings = settings
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, *kept = ctx.saved_tensors
        tensors = prepare_backward(x, kept)
        dx, dy = torch.empty_like(x), dy.contiguous(memory_format=torch.channels_last)
        kernels.normalize("backward", x, ctx.settings, dy=dy, out=dx, **tensors)
        d_residual = dy if ctx.needs_input_grad[3] else None
        return dx, tensors["d_weight"], tensors["d_bias"], d_residual, None, None, None


KEPT = ("weight", "bias", "mean", "rstd", "scale", "shift")
"""What of `prepare`'s tensors the backward pass needs."""


def prepare(
    norm: FusedNorm,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    samples: int | None = None,
    *,
    activate: bool = True,
) -> tuple[kernels.Settings, dict[str, Tensor | None]]:
    """What a forward pass takes: its settings, and its tensors beside the maps.

    Draws the seed of its dropout, if it has one. `activate`: with the activation and the dropout.
    """
    dropout = norm.dropout if activate and norm.training else 0.0
    drawn = draw(dropout)._asdict() if dropout else {}
    batch = norm.groups is None
    part = (samples or len(x)) if batch else 1
    groups = norm.groups or x.shape[1]
    settings = kernels.Settings(
        activation=norm.activation if activate else None,
        groups=groups,
        part=part,
        centred=norm.centre,
        pooled=norm.pooled,
        eps=norm.eps,
        momentum=norm.momentum if batch else 0.0,
        **drawn,
    )
    mean, rstd = _empty(len(x) // part, groups)
    scale, shift = _empty(len(x) // part, x.shape[1])
    sums, products = _empty(*x.shape[:2])
    return settings, {
        "weight": weight.contiguous(),
        "bias": None if bias is None else bias.contiguous(),
        "mean": mean,
        "rstd": rstd,
        "scale": scale,
        "shift": shift,
        "sums": sums,
        "products": products,
        "running_mean": norm.running_mean if batch else None,
        "running_variance": norm.running_var if batch else None,
    }


def prepare_backward(x: Tensor, kept: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
    """The tensors that a backward pass takes beside the maps, from those of `KEPT`."""
    tensors = dict(zip(KEPT, kept, strict=True))
    weight, bias, scale = tensors["weight"], tensors.pop("bias"), tensors["scale"]
    assert weight is not None
    assert scale is not None
    tensors["d_weight"] = torch.empty_like(weight)
    tensors["d_bias"] = None if bias is None else torch.empty_like(bias)
    tensors["sums"], tensors["products"] = _empty(*x.shape[:2])
    tensors["factor"], tensors["constant"] = _empty(*scale.shape)
    return tensors


def _empty(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Two matrices for a pass to fill, float32."""
    first, second = torch.empty(2, rows, columns, dtype=torch.float32, device="cpu").unbind()
    return first, second
