"""Statistics per image: over groups of channels, all channels, one channel, or one pixel."""

import torch
from torch import Tensor, nn

from normlab.errors import UsageError
from normlab.layers.activations import Activation
from normlab.layers.depthwise import convolve
from normlab.layers.dropout import drop
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.registry import EPSILON, Shape, register

GROUPS = "number of groups (default: the largest divisor of C that is at most 4)"


def default_groups(channels: int) -> int:
    """The largest divisor of the channels that is at most 4."""
    return next(groups for groups in (4, 3, 2, 1) if channels % groups == 0)


def checked_groups(name: str, shape: Shape, groups: int | None) -> int:
    """The number of groups, checked against the shape."""
    channels, height, width = shape
    if groups is not None and channels % groups:
        raise UsageError(f"{name}={groups}: {groups} groups do not divide {channels} channels")
    groups = groups or default_groups(channels)
    if groups == channels and height * width == 1:
        raise UsageError(f"{name}={groups} over one value is constant: use fewer groups")
    return groups


@register(
    "gn",
    formula="(x − E) / √(Var + ε) · w + b",
    paper="Wu & He 2018, Group Normalization, arXiv:1803.08494, equations 1, 2 and 7",
    axes="H, W and a group of channels",
    parameters="2·C",
    argument=GROUPS,
    divides=True,
    takes_activation=True,
    scale_invariant=True,
)
def group_norm(
    shape: Shape, groups: int | None = None, *, activation: Activation | None, dropout: float
) -> nn.Module:
    """Group normalization, affine per channel."""
    groups = checked_groups("gn", shape, groups)
    return FusedNorm(shape, groups=groups, activation=activation, dropout=dropout, eps=EPSILON)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and standard deviation 1 over their inputs.

    Depthwise filters are not standardized: with mean 0 they would only detect edges.
    """

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × C' × H' × W'."""
        if self.groups > 1:
            return convolve(self, x)
        output: Tensor = self._conv_forward(x, self.standardized(), None)
        return output

    def standardized(self) -> Tensor:
        """The filters that it computes with."""
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), correction=0, keepdim=True)
        return (self.weight - mean) * (variance + 1e-10).rsqrt()


register(
    "gn-ws",
    formula="as gn, after convolutions whose filters are (W − E) / √(Var + 1e-10) over their "
    "inputs, except depthwise ones",
    paper="Qiao et al. 2019, Micro-Batch Training with Batch-Channel Normalization and Weight "
    "Standardization, arXiv:1903.10520, equations 9 to 11",
    axes="H, W and a group of channels",
    parameters="2·C",
    argument=GROUPS,
    divides=True,
    takes_activation=True,
    convolution=StandardizedConv2d,
    scale_invariant=True,
)(group_norm)


@register(
    "ln",
    formula="(x − E) / √(Var + ε) · w + b, w and b for each channel",
    paper="Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450; with an affine map per "
    "channel it is GroupNorm with one group (Wu & He 2018, section 3.1)",
    axes="C, H, W",
    parameters="2·C",
    takes_activation=True,
    scale_invariant=True,
)
def layer_norm(shape: Shape, *, activation: Activation | None, dropout: float) -> nn.Module:
    """Layer normalization over the whole map, affine per channel."""
    return FusedNorm(shape, groups=1, activation=activation, dropout=dropout, eps=EPSILON)


@register(
    "ln-full",
    formula="(x − E) / √(Var + ε) · w + b, w and b for each element of C × H × W",
    paper="Ba, Kiros & Hinton 2016, Layer Normalization, arXiv:1607.06450, equation 3",
    axes="C, H, W",
    parameters="2·C·H·W",
    scale_invariant=True,
)
def layer_norm_full(shape: Shape) -> nn.Module:
    """Layer normalization as PyTorch's LayerNorm([C, H, W]): parameters grow with the map."""
    return nn.LayerNorm(shape, eps=EPSILON)


@register(
    "ln-channel",
    formula="(x − E) / √(Var + ε) · w + b, at each pixel separately",
    paper="Ba, Kiros & Hinton 2016, arXiv:1607.06450, as in Liu et al. 2022, A ConvNet for the "
    "2020s, arXiv:2201.03545",
    axes="C",
    parameters="2·C",
    scale_invariant=True,
)
class ChannelLayerNorm(nn.Module):
    """Layer normalization over the channels of each pixel."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        if shape[0] == 1:
            raise UsageError("ln-channel over one channel is constant: the block needs 2 or more")
        self.norm = nn.LayerNorm(shape[0], eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        normalized: Tensor = self.norm(x.permute(0, 2, 3, 1))
        return normalized.permute(0, 3, 1, 2)


@register(
    "in",
    formula="(x − E) / √(Var + ε) · w + b",
    paper="Ulyanov, Vedaldi & Lempitsky 2016, Instance Normalization, arXiv:1607.08022",
    axes="H, W",
    parameters="2·C",
    takes_activation=True,
    scale_invariant=True,
)
def instance_norm(shape: Shape, *, activation: Activation | None, dropout: float) -> nn.Module:
    """Instance normalization, affine: GroupNorm with one group per channel."""
    channels, height, width = shape
    if height * width == 1:
        raise UsageError("in over a 1 × 1 map is constant: the block needs a larger map")
    return FusedNorm(shape, groups=channels, activation=activation, dropout=dropout, eps=EPSILON)


@register(
    "rms",
    formula="x / √(E[x²] + ε) · w",
    paper="Zhang & Sennrich 2019, Root Mean Square Layer Normalization, arXiv:1910.07467, eq. 4",
    axes="C, H, W",
    parameters="C",
    takes_activation=True,
    scale_invariant=True,
)
def rms_norm(shape: Shape, *, activation: Activation | None, dropout: float) -> nn.Module:
    """Root mean square normalization over the whole map, with one weight per channel."""
    return FusedNorm(
        shape, groups=1, centre=False, activation=activation, dropout=dropout, eps=EPSILON
    )


@register(
    "frn",
    formula="max(x / √(E[x²] + 1e-6) · w + b, t), t learned; the maximum replaces the activation",
    paper="Singh & Krishnan 2020, Filter Response Normalization Layer, arXiv:1911.09737, "
    "equations 1 to 4",
    axes="H, W",
    parameters="3·C",
    activates=True,
    scale_invariant=True,
)
class FilterResponseNorm(nn.Module):
    """Filter response normalization with its thresholded linear unit."""

    EPSILON = 1e-6

    def __init__(self, shape: Shape, *, activate: bool, dropout: float) -> None:
        super().__init__()
        channels, height, width = shape
        if height * width == 1:
            raise UsageError("frn over a 1 × 1 map keeps only signs: the block needs a larger map")
        self.dropout = dropout
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.threshold = nn.Parameter(torch.zeros(channels)) if activate else None

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        squares = x.to(self.weight.dtype).square().mean((2, 3), keepdim=True)
        scale = self.weight[:, None, None] * (squares + self.EPSILON).rsqrt()
        y = x * scale + self.bias[:, None, None]
        if self.threshold is not None:
            y = torch.maximum(y, self.threshold[:, None, None])
        return drop(y.to(x.dtype), self.dropout, self.training)


@register(
    "evonorm-s0",
    formula="x · sigmoid(v · x) / √(Var + ε) · w + b, which includes the activation; "
    "x / √(Var + ε) · w + b where none follows",
    paper="Liu et al. 2020, Evolving Normalization-Activation Layers, arXiv:2004.02967, table 2",
    axes="H, W and a group of channels",
    parameters="3·C",
    argument=GROUPS,
    divides=True,
    activates=True,
    by_activation=True,
)
class EvoNormS0(nn.Module):
    """EvoNorm-S0, which combines normalization and activation."""

    def __init__(
        self, shape: Shape, groups: int | None = None, *, activate: bool, dropout: float
    ) -> None:
        super().__init__()
        self.groups, self.dropout = checked_groups("evonorm-s0", shape, groups), dropout
        self.weight = nn.Parameter(torch.ones(shape[0]))
        self.bias = nn.Parameter(torch.zeros(shape[0]))
        self.slope = nn.Parameter(torch.ones(shape[0])) if activate else None

    def undo_scale(self, scale: float) -> None:
        """Changes a parameter so that scale · x gives what x gave, but for ε."""
        if self.slope is not None:
            self.slope.div_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        samples, channels = x.shape[:2]
        cells = x.to(self.weight.dtype).reshape(samples, self.groups, -1)
        deviation = (cells.var(2, correction=0) + EPSILON).rsqrt()
        deviation = deviation.repeat_interleave(channels // self.groups, dim=1)[:, :, None, None]
        y = x.to(self.weight.dtype)
        if self.slope is not None:
            y = y * (y * self.slope[:, None, None]).sigmoid()
        y = y * deviation * self.weight[:, None, None] + self.bias[:, None, None]
        return drop(y.to(x.dtype), self.dropout, self.training)
