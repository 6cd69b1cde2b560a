"""A depthwise-separable convolution with its normalizations in one pass, where it can be compiled.

It is the block `D`: a depthwise 3 × 3 convolution, a normalization, a 1 × 1 convolution, another
normalization, and its input added, if it is residual. Computed one sample after the other, a map is
still in the cache when the next layer reads it.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from normlab.layers import depthwise, kernels
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.fused import KEPT, FusedNorm, prepare, prepare_backward
from normlab.layers.hooks import has_hooks

FEWEST_CHANNELS = 8
# Of maps in the products. With more, oneDNN's are faster, or as fast; sooner where it has
# instructions for bfloat16.
MOST_CHANNELS = {torch.float32: 128, torch.bfloat16: 104}
STRIP, ROWS, WIDEST = 64, 8, 16  # of pointwise.c and vectors.h, at most


class Separable(NamedTuple):
    """The layers of a block."""

    depthwise: nn.Module
    between: nn.Module
    conv: nn.Module
    norm: nn.Module

    def can_run_compiled(self, x: Tensor, *, residual: bool) -> bool:
        """Whether the pass computes what the layers give for these maps one after the other.

        Layers with hooks are called one by one, so that the hooks see their maps; and those of
        which something was replaced.
        """
        first, between, conv, norm = self
        if not (
            type(first) is DepthwiseConv2d
            and type(between) is type(norm) is FusedNorm
            and type(conv) is nn.Conv2d
            and not any(map(has_hooks, (first, between, conv, norm)))
            and not _has_any_global_hook()  # type: ignore[no-untyped-call]
        ):
            return False
        channels, outputs = len(between.weight), len(norm.weight)
        autocast = torch.is_autocast_enabled("cpu")
        return (
            conv.weight.shape == (outputs, channels, 1, 1)
            and conv.stride == conv.dilation == (1, 1)
            and conv.padding in ((0, 0), "valid", "same")
            and conv.groups == 1
            and conv.bias is None
            and conv.weight.dtype == torch.float32
            and conv.weight.device == x.device
            and (channels == outputs or not residual)
            and x.shape[1] == channels
            and x.dtype == (torch.get_autocast_dtype("cpu") if autocast else torch.float32)
            and min(channels, outputs) >= FEWEST_CHANNELS
            and max(channels, outputs) <= MOST_CHANNELS.get(x.dtype, 0)
            and (between.groups is None) == (norm.groups is None)
            # In eval mode with gradients PyTorch's own can be differentiated twice.
            and first.training == between.training == conv.training == norm.training
            and (conv.training or not torch.is_grad_enabled())
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
        (between, norm), threads = norms, torch.get_num_threads()
        u, z, y = torch.empty_like(x), _empty(x, len(kernel)), _empty(x, len(kernel))
        given = norm.groups is None and not norm.training
        prepared: list[tuple[kernels.Settings, dict[str, Tensor | None]]]
        if given:
            prepared = [(kernels.Settings(e.activation), e.running_affine()) for e in norms]
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
            | {"out": z, "filters": filters.t().contiguous(), "room": _room(filters, threads)},
            norm=tensors[1] | {"out": y, "residual": x if residual else None},
            threads=threads,
            given=given,
        )
        if not given:
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
        d_taps = torch.empty_like(taps)
        d_filters = filters.new_empty(filters.shape[::-1]) if ctx.needs_input_grad[4] else None
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
                "sums": depthwise.room_for_sums(taps, threads),
            },
            pointwise=between
            | {
                "dy": dz,
                "out": du,
                "filters": filters,
                "d_filters": d_filters,
                "room": _room(filters, threads),
            },
            norm=norm | {"dy": dy, "out": dz, "residual": x if ctx.residual else None},
            threads=threads,
        )
        return (
            dx,
            d_taps.t().reshape(-1, 1, 3, 3),
            between["d_weight"],
            between["d_bias"],
            None if d_filters is None else d_filters.t()[:, :, None, None],
            norm["d_weight"],
            norm["d_bias"],
            None,
            None,
        )


def _empty(x: Tensor, channels: int, samples: int | None = None) -> Tensor:
    """Maps for a pass to fill, as x but for these sizes."""
    size = (samples or len(x), channels, *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _room(filters: Tensor, threads: int) -> Tensor:
    """The `room` of pointwise.h, for filters of K × C: each thread's sums, and strips of maps."""
    outputs, channels = filters.shape
    sums = (channels + ROWS) * (outputs + WIDEST)
    return filters.new_empty(threads, 2 * sums + STRIP * (2 * channels + outputs))
