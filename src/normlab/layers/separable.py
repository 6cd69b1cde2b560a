"""A depthwise-separable convolution with its normalizations in one pass, where it can be compiled.

It is the block `D`: a depthwise 3 × 3 convolution, a normalization, a 1 × 1 convolution, another
normalization, and its input added, if it is residual. Computed one sample after the other, a map is
still in the cache when the next layer reads it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import depthwise, kernels
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.fused import KEPT, FusedNorm, prepare, prepare_backward

FEWEST_CHANNELS, MOST_CHANNELS = 8, 112  # of its maps; with more, the layers are as fast
_STRIP, _LANES = 64, 16  # pixels and channels that pointwise.c takes at a time, at most


class Separable(NamedTuple):
    """The layers of a block."""

    depthwise: nn.Module
    between: nn.Module
    conv: nn.Module
    norm: nn.Module | None

    def can_run_compiled(self, x: Tensor) -> bool:
        """Whether the pass computes what the layers compute of these maps one after the other.

        Layers with hooks are called one by one, so that the hooks see their maps.
        """
        first, between, conv, norm = self
        autocast = torch.is_autocast_enabled("cpu")
        return (
            isinstance(first, DepthwiseConv2d)
            and type(between) is type(norm) is FusedNorm
            and (between.groups is None) == (norm.groups is None)
            and type(conv) is nn.Conv2d
            and conv.kernel_size == conv.stride == conv.dilation == (1, 1)
            and conv.padding in ((0, 0), "valid", "same")
            and conv.groups == 1
            and conv.bias is None
            and min(conv.in_channels, conv.out_channels) >= FEWEST_CHANNELS
            and max(conv.in_channels, conv.out_channels) <= MOST_CHANNELS
            and conv.in_channels == x.shape[1] == len(between.weight)
            and conv.out_channels == len(norm.weight)
            and conv.weight.dtype == torch.float32
            and conv.weight.device == x.device
            and not any(map(_has_hooks, (first, between, conv, norm)))
            # In eval mode with gradients PyTorch's own can be differentiated twice.
            and first.training == between.training == conv.training == norm.training
            and (conv.training or not torch.is_grad_enabled())
            and x.dtype == (torch.get_autocast_dtype("cpu") if autocast else torch.float32)
            and depthwise.can_run_compiled(first, x)
            and all(
                each.activation in kernels.ACTIVATION_NUMBERS and each.can_run_compiled(x)
                for each in (between, norm)
            )
        )

    def __call__(self, x: Tensor, *, residual: bool) -> Tensor:
        """N × C × H × W to N × K × H × W, where `can_run_compiled`."""
        first, between, conv, norm = self
        assert isinstance(between, FusedNorm)
        assert isinstance(norm, FusedNorm)
        y: Tensor = _Separable.apply(  # type: ignore[no-untyped-call]
            x,
            first.weight,
            between.weight,
            between.bias,
            conv.weight,
            norm.weight,
            norm.bias,
            (between, norm),
            residual,
        )
        return y


def _has_hooks(layer: nn.Module) -> bool:
    return any(
        (
            layer._forward_hooks,
            layer._forward_pre_hooks,
            layer._backward_hooks,
            layer._backward_pre_hooks,
        )
    )


class _Separable(torch.autograd.Function):
    """The forward pass updates running averages."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        taps: Tensor,
        between_weight: Tensor,
        between_bias: Tensor | None,
        kernel: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        norms: tuple[FusedNorm, FusedNorm],
        residual: bool,
    ) -> Tensor:
        between, norm = norms
        u, z, y = torch.empty_like(x), _empty(x, len(kernel)), _empty(x, len(kernel))
        known = norm.groups is None and not norm.training
        prepared: list[tuple[kernels.Settings, dict[str, Tensor | None]]]
        if known:
            prepared = [(kernels.Settings(e.activation), {**e.running_affine()}) for e in norms]
        else:
            prepared = [
                prepare(between, u, between_weight, between_bias),
                prepare(norm, z, weight, bias),
            ]
        settings = [each for each, _ in prepared]
        tensors = [each for _, each in prepared]
        taps = taps.flatten(1).t().contiguous()
        filters = kernel.flatten(1).to(x.dtype).float().contiguous()  # rounded as x
        kernels.separable(
            "forward",
            x,
            u,
            z,
            settings,
            depthwise={"out": u, "weight": taps},
            pointwise=tensors[0]
            | {"out": z, "filters": filters.t().contiguous(), "room": _room(filters)},
            norm=tensors[1] | {"out": y, "residual": x if residual else None},
            known=known,
        )
        if not known:
            kept = (each[name] for each in tensors for name in KEPT)
            ctx.save_for_backward(x, u, z, taps, filters, *kept)
            ctx.settings, ctx.residual = settings, residual
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, u, z, taps, filters, *kept = ctx.saved_tensors
        (first, _), threads = ctx.settings, torch.get_num_threads()
        # A gradient that is not needed after its sample has room for one sample of each thread.
        dx, dz = torch.empty_like(x), _empty(z, z.shape[1], threads)
        du = _empty(u, u.shape[1], threads if first.part == 1 else len(u))
        d_taps, d_filters = torch.empty_like(taps), filters.new_empty(filters.shape[::-1])
        between = prepare_backward(u, kept[: len(KEPT)])
        norm = prepare_backward(z, kept[len(KEPT) :])
        dy = dy.contiguous(memory_format=torch.channels_last)
        kernels.separable(
            "backward",
            x,
            u,
            z,
            ctx.settings,
            depthwise={
                "dy": du,
                "out": dx,
                "weight": taps,
                "d_weight": d_taps,
                "sums": depthwise.room_for_sums(taps),
            },
            pointwise=between
            | {
                "dy": dz,
                "out": du,
                "filters": filters,
                "d_filters": d_filters,
                "room": _room(filters),
            },
            norm=norm | {"dy": dy, "out": dz, "residual": x if ctx.residual else None},
        )
        return (
            dx,
            d_taps.t().reshape(-1, 1, 3, 3),
            between["d_weight"],
            between["d_bias"],
            d_filters.t()[:, :, None, None],
            norm["d_weight"],
            norm["d_bias"],
            None,
            None,
        )


def _empty(x: Tensor, channels: int, samples: int | None = None) -> Tensor:
    """Maps for a pass to fill, as x but for these sizes."""
    size = (samples or len(x), channels, *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _room(filters: Tensor) -> Tensor:
    """The `room` of pointwise.c, for filters of K × C: each thread's sums, and strips of maps."""
    outputs, channels = filters.shape
    sums = (channels + _LANES) * (outputs + _LANES)
    size = _STRIP * (2 * channels + outputs) + 2 * sums
    return filters.new_empty(torch.get_num_threads(), size)
