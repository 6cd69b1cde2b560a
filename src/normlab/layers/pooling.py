"""Max pooling, by the compiled passes where they can process the maps."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import kernels


class MaxPool(nn.Module):
    """2 × 2 max pooling with stride 2."""

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × C × ⌊H/2⌋ × ⌊W/2⌋."""
        if min(x.shape[2:]) > 1 and kernels.usable(x):
            output: Tensor = _MaxPool.apply(x)  # type: ignore[no-untyped-call]
            return output
        return F.max_pool2d(x, 2)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        samples, channels, height, width = x.shape
        y = torch.empty(
            (samples, channels, height // 2, width // 2),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        kernels.pool("forward", x, out=y)
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        x, y = ctx.saved_tensors
        even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
        dx = torch.empty_like(x) if even else torch.zeros_like(x)
        kernels.pool(
            "backward", x, y=y, dy=dy.contiguous(memory_format=torch.channels_last), out=dx
        )
        return dx
