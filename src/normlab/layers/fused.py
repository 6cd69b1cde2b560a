"""Normalization, activation and dropout in one, on the passes of normalize.c: bn, gn, ln, in, rms.

All five take their statistics over groups of cells, a cell being one channel of one sample:

    BatchNorm       a channel's cells of all samples
    GroupNorm       the cells of a group of a sample's channels (LayerNorm: of all, in: of one)
    RMSNorm         as LayerNorm, the mean taken for 0

so the cells are laid out as N × groups × members and the statistics run over `axes` of that.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from normlab.layers import kernels


class FusedNorm(nn.Module):
    """(x − E) / √(Var + ε) · weight + bias, then ReLU and dropout where they are asked for.

    Args:
        shape: (C, H, W) of what it normalizes.
        groups: Groups of channels; each is normalized by itself, sample by sample. None: BatchNorm,
            whose E and Var are a channel's over the batch and, in use, running means of them.
        centre: Whether the mean is taken off and a bias learned; RMSNorm does neither.
        activate: Whether a ReLU follows.
        dropout: Probability of the dropout after that, below 1.
        momentum: BatchNorm: the newest batch's share of the running means.
        eps: ε.

    Raises:
        ValueError: The probability of dropout is none.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        groups: int | None,
        centre: bool = True,
        activate: bool,
        dropout: float,
        momentum: float = 0.1,
        eps: float,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be 0 or more and below 1, not {dropout}")
        channels = shape[0]
        self.groups, self.centre, self.activate = groups, centre, activate
        self.dropout, self.momentum, self.eps = dropout, momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if centre else None
        if groups is None:
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """N × C × H × W to the same; what is `residual` is added in the end."""
        in_use = self.groups is None and not self.training
        alone = self.groups is None and x.numel() == x.shape[1]  # PyTorch says what is wrong
        if x.shape[1] != len(self.weight):
            raise ValueError(f"expected maps of {len(self.weight)} channels, got {x.shape[1]}")
        single = self.weight.dtype == torch.float32 and self.weight.device == x.device
        compiled = kernels.usable(x) and single and not alone
        if not compiled or (in_use and torch.is_grad_enabled()):
            y = self._plain(x)
            return y if residual is None else y + residual
        if residual is not None:
            residual = residual.to(x.dtype).expand_as(x)
            residual = residual.contiguous(memory_format=torch.channels_last)
        if in_use:
            return self._eval_forward(x, residual)
        dropout = self.dropout if self.training else 0.0
        output: Tensor
        output, mean, variance = _Normalize.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, residual, self, dropout
        )
        if self.groups is None:
            self._follow(mean, variance, x.numel() // x.shape[1])
        return output

    def extra_repr(self) -> str:
        """What tells one from another."""
        kind = "batch" if self.groups is None else f"groups={self.groups}"
        return f"{len(self.weight)}, {kind}, activate={self.activate}, dropout={self.dropout}"

    def _plain(self, x: Tensor) -> Tensor:
        """The same by PyTorch's own functions."""
        if self.groups is None:
            y = F.batch_norm(
                x,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                self.training,
                self.momentum,
                self.eps,
            )
        elif self.centre:
            y = F.group_norm(x, self.groups, self.weight, self.bias, self.eps)
        else:
            y = F.rms_norm(x, x.shape[1:], eps=self.eps) * self.weight[:, None, None].to(x.dtype)
        if self.activate:
            y = F.relu(y)
        return F.dropout(y, self.dropout, self.training)

    def _eval_forward(self, x: Tensor, residual: Tensor | None) -> Tensor:
        """BatchNorm by its running means."""
        assert self.bias is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        y = torch.empty_like(x)
        rows: Any = {"scale": scale[None], "shift": shift[None]}
        kernels.normalize("apply", x, out=y, residual=residual, relu=self.activate, **rows)
        return y

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Moves the running means; the variance that they keep is the unbiased one."""
        self.running_mean.lerp_(mean.flatten(), self.momentum)
        self.running_var.lerp_(variance.flatten() * (count / (count - 1)), self.momentum)


class _Normalize(torch.autograd.Function):
    """The fused forward and backward passes; also gives the mean and the variance it used."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        residual: Tensor | None,
        norm: FusedNorm,
        dropout: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        samples, channels = x.shape[:2]
        pixels = x.shape[2] * x.shape[3]
        groups = norm.groups or channels
        axes = (0, 2) if norm.groups is None else (2,)
        mean, squares = torch.empty(
            2, samples, channels, dtype=torch.float32, device="cpu"
        ).unbind()
        kernels.normalize("moments", x, sums=mean, products=squares)
        mean, squares = (t.view(samples, groups, -1) for t in (mean, squares))
        centre = mean.mean(axes, keepdim=True) if norm.centre else mean.new_zeros(samples, 1, 1)
        variance = (squares / pixels + (mean - centre).square()).mean(axes, keepdim=True)
        deviation = (variance + norm.eps).rsqrt()
        weights = weight.view(1, groups, -1)
        scale = weights * deviation
        shift = -centre * scale if bias is None else bias.view(1, groups, -1) - centre * scale
        scale, shift = _rows(scale, channels), _rows(shift, channels)
        drop: Any = {}
        if dropout:
            drop["threshold"] = min(round(dropout * 2**32), 2**32 - 1)
            drop["seed"] = int(torch.randint(2**32, ()))
        y = torch.empty_like(x)
        rows: Any = {"scale": scale, "shift": shift}
        kernels.normalize("apply", x, out=y, residual=residual, relu=norm.activate, **rows, **drop)
        ctx.save_for_backward(x, weights, centre, deviation, scale, shift)
        ctx.axes, ctx.drop, ctx.centred, ctx.relu = axes, drop, norm.centre, norm.activate
        ctx.mark_non_differentiable(centre, variance)
        return y, centre, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weights, centre, deviation, scale, shift = ctx.saved_tensors
        samples, channels = x.shape[:2]
        cells = (samples, *weights.shape[1:])
        dy = dy.contiguous(memory_format=torch.channels_last)
        common: Any = {"dy": dy, "scale": scale, "shift": shift, "relu": ctx.relu, **ctx.drop}
        sums, products = torch.empty(
            2, samples, channels, dtype=torch.float32, device="cpu"
        ).unbind()
        kernels.normalize(
            "backward_sums",
            x,
            **common,
            centre=_rows(centre.expand(-1, *cells[1:]), channels),
            sums=sums,
            products=products,
        )
        sums, products = sums.view(cells), products.view(cells)
        # With g the gradient of the affine map's output and D the values of a group:
        # dx = deviation · (w g − Σ w g / D − (x − centre) · deviation² · Σ w g (x − centre) / D)
        count = x.numel() // deviation.numel()
        of_input = -(deviation**3) * (weights * products).sum(ctx.axes, keepdim=True) / count
        constant = -of_input * centre
        if ctx.centred:
            constant -= deviation * (weights * sums).sum(ctx.axes, keepdim=True) / count
        dx = torch.empty_like(x)
        kernels.normalize(
            "backward_apply",
            x,
            **common,
            out=dx,
            of_gradient=scale,
            of_input=_rows(of_input.expand(-1, *cells[1:]), channels),
            constant=_rows(constant.expand(-1, *cells[1:]), channels),
        )
        d_weight = (products * deviation).sum(0).flatten()
        d_bias = sums.sum(0).flatten() if ctx.centred else None
        d_residual = dy if ctx.needs_input_grad[3] else None
        return dx, d_weight, d_bias, d_residual, None, None


def _rows(coefficients: Tensor, channels: int) -> Tensor:
    """As the passes take them: N × C, or 1 × C for all samples."""
    return coefficients.reshape(-1, channels).contiguous()
