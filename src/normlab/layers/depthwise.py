"""Depthwise convolution, by the compiled passes where they can process the maps."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import kernels

# Fewer leave part of a vector of depthwise.c unused; PyTorch's own is faster then.
FEWEST_CHANNELS = {torch.float32: 8, torch.bfloat16: 16}


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, one filter for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × C × H' × W'."""
        return convolve(self, x)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a depthwise convolution computes from maps, N × C × H × W to N × C × H' × W'.

    In eval mode with gradients it is PyTorch's own, which can be differentiated twice.
    """
    output: Tensor
    if x.device.type == "cpu" and (conv.training or not torch.is_grad_enabled()):
        autocast = torch.is_autocast_enabled("cpu")
        maps = x.to(torch.get_autocast_dtype("cpu")) if autocast and x.dtype == torch.float32 else x
        if (autocast or x.dtype == torch.float32) and can_run_compiled(conv, maps):
            output = _Depthwise.apply(maps, conv.weight)  # type: ignore[no-untyped-call]
            return output
    output = conv._conv_forward(x, conv.weight, conv.bias)
    return output


def can_run_compiled(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether the compiled passes compute the layer's output for these maps."""
    weight = conv.weight
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == x.shape[1]
        and weight.shape == (conv.groups, 1, 3, 3)
        and conv.groups >= FEWEST_CHANNELS.get(x.dtype, math.inf)
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and weight.dtype == torch.float32
        and weight.device == x.device
        and kernels.usable(x)
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        filters = weight.flatten(1).t().contiguous()
        y = torch.empty_like(x)
        kernels.depthwise("forward", x, out=y, weight=filters)
        ctx.save_for_backward(x, filters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, filters = ctx.saved_tensors
        dx = torch.empty_like(x)
        d_weight = torch.empty_like(filters)
        kernels.depthwise(
            "backward",
            x,
            dy=dy.contiguous(memory_format=torch.channels_last),
            out=dx,
            weight=filters,
            d_weight=d_weight,
            sums=room_for_sums(filters, torch.get_num_threads()),
        )
        return dx, d_weight.t().reshape(-1, 1, 3, 3)


def room_for_sums(filters: Tensor, threads: int) -> Tensor:
    """The `sums` of depthwise.h, for filters of 9 × C."""
    return filters.new_empty(threads, 2, 9, filters.shape[1] + 16)
