"""Depthwise convolution, by the compiled passes where they can process the maps."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import kernels

FEWEST_CHANNELS = 8  # a vector of depthwise.c


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution, one filter for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × C × H' × W'."""
        return convolve(self, x)


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """What a depthwise convolution computes from maps, N × C × H × W to N × C × H' × W'."""
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    output: Tensor
    if _can_run_compiled(conv, x):
        output = _Depthwise.apply(x, conv.weight)  # type: ignore[no-untyped-call]
    else:
        output = conv._conv_forward(x, conv.weight, conv.bias)
    return output


def _can_run_compiled(conv: nn.Conv2d, x: Tensor) -> bool:
    weight = conv.weight
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == conv.in_channels == conv.out_channels == x.shape[1]
        and conv.groups >= FEWEST_CHANNELS
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and weight.dtype == torch.float32
        and weight.device == x.device
        and (x.dtype == torch.float32 or torch.is_autocast_enabled(x.device.type))
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
        d_weight = filters.new_empty(torch.get_num_threads(), *filters.shape)
        kernels.depthwise(
            "backward",
            x,
            dy=dy.contiguous(memory_format=torch.channels_last),
            out=dx,
            weight=filters,
            d_weight=d_weight,
        )
        return dx, d_weight[0].t().reshape(-1, 1, 3, 3)
