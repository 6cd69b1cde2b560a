"""Layers that do not measure the scale of features: none, and local response normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normlab.layers.activations import Activate, Activation
from normlab.layers.dropout import drop
from normlab.layers.fused import ChannelAffine
from normlab.layers.norms.registry import Shape, register


class Affine(nn.Module):
    """x · w + b for each channel; w starts so that features keep their scale from layer to layer.

    With PyTorch's first weights, the second moment of a convolution's output is a third of its
    input's. Where the input is an activation f(z) of standard normal z, that is m = E[f(z)²], 1/2
    for a ReLU. So w starts at √(3/m), which is √6 for a ReLU, or at √3 where no activation follows
    (He et al. 2015, Delving Deep into Rectifiers, arXiv:1502.01852, section 2.2, with the gain
    separate from the weights). It is multiplied by `divided_by` to make up for a later division.

    Weights that Muon trains start about √3 times as large, and w that much lower. Muon keeps their
    norm, so w alone learns the scale: a weight normalization, with one norm for all filters of a
    convolution (Salimans & Kingma 2016, Weight Normalization, arXiv:1602.07868, equation 2).
    """

    def __init__(
        self,
        shape: Shape,
        *,
        activation: Activation | None,
        dropout: float,
        divided_by: float = 1.0,
    ) -> None:
        super().__init__()
        self.activate = Activate(activation, shape[0]) if activation else None
        self.dropout = dropout
        gain = divided_by * (3.0 / (activation.second_moment if activation else 1.0)) ** 0.5
        self.weight = nn.Parameter(torch.full((shape[0],), gain))
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        y = x * self.weight[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        y = self.activate(y) if self.activate else y
        return drop(y, self.dropout, self.training)

    def undo_scale(self, scale: float) -> None:
        """Changes a parameter so that scale · x gives what x gave."""
        self.weight.div_(scale)

    def as_affine(self) -> ChannelAffine:
        """The layer itself."""
        return ChannelAffine(self.weight, self.bias, self.activate)


register(
    "none",
    formula="x · w + b; w starts at √6 before a ReLU, at √3 where no activation follows, and after "
    "weights that Muon trains about √3 times lower",
    paper="no normalization; He et al. 2015, arXiv:1502.01852, section 2.2, for the first w; De & "
    "Smith 2020, arXiv:2002.10444, for residual branches (SkipInit)",
    axes="none",
    parameters="2·C",
    takes_activation=True,
    skip_init=True,
)(Affine)


@register(
    "lrn",
    formula="a / (2 + 1e-4 · Σ a²)^0.75 with a = f(x · w + b), f the activation, Σ over 5 "
    "neighbouring channels",
    paper="Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural "
    "Networks, section 3.3; w and b as in none, the first w times 2^0.75",
    axes="5 channels, at each pixel",
    parameters="2·C",
    takes_activation=True,
    skip_init=True,
)
class LocalResponseNorm(nn.Module):
    """Local response normalization, after the activation."""

    def __init__(self, shape: Shape, *, activation: Activation | None, dropout: float) -> None:
        super().__init__()
        self.affine = Affine(shape, activation=activation, dropout=0.0, divided_by=2**0.75)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        a = self.affine(x)
        return drop(local_response(a), self.dropout, self.training)


def local_response(a: Tensor) -> Tensor:
    """N × C × H × W, each value divided by (2 + 1e-4 · Σ a²)^0.75 over 5 neighbouring channels."""
    neighbours = F.pad(a.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
    divided: Tensor = a / (2 + 1e-4 * neighbours) ** 0.75
    return divided
