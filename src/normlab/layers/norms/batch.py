"""Statistics over the images of a batch: BatchNorm and its variants."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from normlab.layers.activations import Activation
from normlab.layers.dropout import drop
from normlab.layers.fused import ChannelAffine, FusedNorm, refuse_single_values
from normlab.layers.norms.registry import EPSILON, Shape, register


@register(
    "bn",
    formula="(x − E) / √(Var + ε) · w + b; in eval mode, E and Var are running averages",
    paper="Ioffe & Szegedy 2015, Batch Normalization, arXiv:1502.03167, algorithms 1 and 2",
    axes="N, H, W",
    parameters="2·C",
    takes_activation=True,
    scale_invariant=True,
)
def batch_norm(shape: Shape, *, activation: Activation | None, dropout: float) -> nn.Module:
    """Batch normalization with a momentum of 0.1."""
    return FusedNorm(shape, groups=None, activation=activation, dropout=dropout, eps=EPSILON)


@register(
    "ghost-bn",
    formula="as bn, over each n images of a batch separately",
    paper="Hoffer, Hubara & Soudry 2017, Train longer, generalize better, arXiv:1705.08741, "
    "algorithm 1",
    axes="n of N, H, W",
    parameters="2·C",
    argument="number of images n (default: 32)",
    takes_activation=True,
    scale_invariant=True,
)
class GhostBatchNorm(nn.Module):
    """Batch normalization over parts of the batch. The last part may be smaller.

    If only the inner layer is in training mode, as in recalibration, it sees whole batches.
    """

    def __init__(
        self,
        shape: Shape,
        images: int | None = None,
        *,
        activation: Activation | None,
        dropout: float,
    ) -> None:
        super().__init__()
        self.images = images or 32
        self.norm = FusedNorm(
            shape, groups=None, activation=activation, dropout=dropout, eps=EPSILON
        )

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        whole = len(x) // self.images * self.images
        y: Tensor
        if not self.training or not whole:
            y = self.norm(x)
        elif whole == len(x):
            y = self.norm(x, samples=self.images)
        else:
            y = torch.cat([self.norm(x[:whole], samples=self.images), self.norm(x[whole:])])
        return y

    def as_affine(self) -> ChannelAffine | None:
        """In eval mode it is batch normalization."""
        return self.norm.as_affine()


@register(
    "brn",
    formula="((x − E) / σ · r + d) · w + b, where r = σ / σ̄ within 1/r̂ to r̂ and d = (E − Ē) / σ̄ "
    "within ±d̂; Ē and σ̄ are running averages",
    paper="Ioffe 2017, Batch Renormalization, arXiv:1702.03275, algorithm 1; the limits r̂ and d̂ "
    "are 1 and 0 for 250 steps, then grow to 3 by step 2,000 and to 5 by step 1,250: a twentieth "
    "of the paper's steps, for shorter runs",
    axes="N, H, W",
    parameters="2·C",
    scale_invariant=True,
)
class BatchRenorm(nn.Module):
    """Batch renormalization; in eval mode it is batch normalization."""

    WARM_UP, R_STEPS, D_STEPS = 250, 2000, 1250  # for runs of about 7,000 steps
    R_MAX, D_MAX = 3.0, 5.0

    running_mean: Tensor
    running_std: Tensor
    steps: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels, self.momentum = shape[0], 0.01
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_std", torch.ones(channels))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        y = x.to(self.weight.dtype)
        if self.training:
            refuse_single_values(x.numel() // x.shape[1])
            mean = y.mean((0, 2, 3))
            std = (y.var((0, 2, 3), correction=0) + EPSILON).sqrt()
            r, d = self._correction(mean.detach(), std.detach())
            scale = r / std
            shift = d - mean * scale
        else:
            scale = 1 / self.running_std
            shift = -self.running_mean * scale
        scale, shift = self.weight * scale, self.weight * shift + self.bias
        return (y * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def as_affine(self) -> ChannelAffine:
        """What it is in eval mode."""
        return ChannelAffine.of_statistics(self, self.running_mean, self.running_std)

    @torch.no_grad()
    def _correction(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """This step's r and d. Updates the running statistics."""
        step = int(self.steps)
        r_share = (step - self.WARM_UP) / (self.R_STEPS - self.WARM_UP)
        d_share = (step - self.WARM_UP) / (self.D_STEPS - self.WARM_UP)
        r_max = 1 + (self.R_MAX - 1) * min(1.0, max(0.0, r_share))
        d_max = self.D_MAX * min(1.0, max(0.0, d_share))
        r = (std / self.running_std).clamp(1 / r_max, r_max)
        d = ((mean - self.running_mean) / self.running_std).clamp(-d_max, d_max)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_std.lerp_(std, self.momentum)
        self.steps += 1
        return r, d


class _SumOfAll(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is summed over them too."""

    @staticmethod
    def forward(_: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


@register(
    "sync-bn",
    formula="as bn, over the batch of all processes together",
    paper="Ioffe & Szegedy 2015, arXiv:1502.03167, for data-parallel training",
    axes="N of all processes, H, W",
    parameters="2·C",
    scale_invariant=True,
)
class SyncBatchNorm(nn.Module):
    """Batch normalization over the batches of all processes together."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        channels, self.momentum = shape[0], 0.1
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        y = x.to(self.weight.dtype)
        if self.training:
            mean, variance = self._statistics(y)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * (variance + EPSILON).rsqrt()
        shift = self.bias - mean * scale
        return (y * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    def as_affine(self) -> ChannelAffine:
        """What it is in eval mode."""
        deviation = (self.running_var + EPSILON).sqrt()
        return ChannelAffine.of_statistics(self, self.running_mean, deviation)

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over all processes. Updates the running statistics."""
        count = self._sum(x.new_tensor([x.numel() / x.shape[1]]))
        refuse_single_values(int(count))
        # The mean first, then the deviations from it: E[x²] − E[x]² would cancel.
        mean = self._sum(x.sum((0, 2, 3))) / count
        deviation = x - mean[:, None, None]
        variance = self._sum(deviation.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return mean, variance

    @staticmethod
    def _sum(x: Tensor) -> Tensor:
        if not (dist.is_available() and dist.is_initialized()):
            return x
        total: Tensor = _SumOfAll.apply(x)  # type: ignore[no-untyped-call]
        return total


@register(
    "ebn",
    formula="(x − E) / √(Var + ε) · w + b, with an E for each channel and one Var, the mean of "
    "(x − E)² over all channels; in eval mode, E and Var are running averages",
    paper="Luo et al. 2020, Extended Batch Normalization, arXiv:2003.05569, section 3",
    axes="N, H, W for E; N, C, H, W for Var",
    parameters="2·C",
    takes_activation=True,
    scale_invariant=True,
)
def extended_batch_norm(
    shape: Shape, *, activation: Activation | None, dropout: float
) -> nn.Module:
    """Batch normalization with a mean per channel and a variance over all channels."""
    return FusedNorm(
        shape, groups=None, pooled=True, activation=activation, dropout=dropout, eps=EPSILON
    )


@register(
    "evonorm-b0",
    formula="x / max(√(Var + ε), v · x + √(Var₁ + ε)) · w + b, which includes the activation; Var "
    "over the batch, Var₁ over each image; x / √(Var + ε) · w + b where none follows; in eval "
    "mode, Var is a running average",
    paper="Liu et al. 2020, Evolving Normalization-Activation Layers, arXiv:2004.02967, table 2",
    axes="N, H, W for Var; H, W for Var₁",
    parameters="3·C",
    activates=True,
    scale_invariant=True,
    by_activation=True,
)
class EvoNormB0(nn.Module):
    """EvoNorm-B0, which combines normalization and activation."""

    running_var: Tensor

    def __init__(self, shape: Shape, *, activate: bool, dropout: float) -> None:
        super().__init__()
        channels, self.momentum, self.dropout = shape[0], 0.1, dropout
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.slope = nn.Parameter(torch.ones(channels)) if activate else None
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        y = x.to(self.weight.dtype)
        if self.training:
            refuse_single_values(count := x.numel() // x.shape[1])
            variance = y.var((0, 2, 3), correction=0)
            with torch.no_grad():
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        else:
            variance = self.running_var
        deviation = (variance + EPSILON).sqrt()[:, None, None]
        if self.slope is not None:
            of_image = (y.var((2, 3), correction=0, keepdim=True) + EPSILON).sqrt()
            deviation = torch.maximum(deviation, y * self.slope[:, None, None] + of_image)
        y = y / deviation * self.weight[:, None, None] + self.bias[:, None, None]
        return drop(y.to(x.dtype), self.dropout, self.training)

    def as_affine(self) -> ChannelAffine | None:
        """What it is in eval mode without its activation; None with it."""
        if self.slope is not None:
            return None
        deviation = (self.running_var + EPSILON).sqrt()
        return ChannelAffine.of_statistics(self, torch.zeros_like(deviation), deviation)
