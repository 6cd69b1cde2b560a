"""Scaled weight standardization: the convolutions are normalized, the features are not."""

import math

import torch
from torch import Tensor, nn

from normlab.layers.activations import Activate, Activation, normal_moments
from normlab.layers.fused import ChannelAffine
from normlab.layers.norms.none import Affine
from normlab.layers.norms.registry import Shape, register
from normlab.layers.norms.sample import StandardizedConv2d


class ScaledStandardizedConv2d(StandardizedConv2d):
    """A convolution whose filters have mean 0 and norm 1, except depthwise ones."""

    def standardized(self) -> Tensor:
        """The filters that it computes with."""
        filters = super().standardized()
        return filters / math.sqrt(filters[0].numel())


@register(
    "sws",
    formula="x · w + b, after convolutions whose filters are (W − E) / √(n · (Var + 1e-10)) over "
    "their n inputs, except depthwise ones; w starts at 1 / √Var[f(z)], z standard normal and f "
    "the activation, which is 1.71 for a ReLU, at √3 where no activation follows",
    paper="Brock, De & Smith 2021, Characterizing signal propagation to close the performance gap "
    "in unnormalized ResNets, arXiv:2101.08692, equation 3; De & Smith 2020, arXiv:2002.10444, for "
    "residual branches (SkipInit)",
    axes="none",
    parameters="2·C",
    takes_activation=True,
    convolution=ScaledStandardizedConv2d,
    skip_init=True,
)
class StandardizedGain(Affine):
    """The gain and the bias after standardized filters.

    Where no activation follows, the filters are depthwise, which are not standardized: w starts as
    without normalization.
    """

    def __init__(self, shape: Shape, *, activation: Activation | None, dropout: float) -> None:
        super().__init__(shape, activation=activation, dropout=dropout)
        if activation is not None:
            with torch.no_grad(), torch.device("cpu"):  # also where it is built without values
                one = torch.ones(1)
                mean, _ = normal_moments(Activate(activation, 1), one, 0 * one)
            variance = activation.second_moment - float(mean) ** 2
            nn.init.constant_(self.weight, variance**-0.5)

    def undo_scale(self, scale: float) -> None:
        """Nothing: the scale of standardized filters has no effect."""
        del scale

    def as_affine(self) -> ChannelAffine:
        """The layer itself. Exports do not fold what a class inherits."""
        return super().as_affine()
