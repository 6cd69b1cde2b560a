"""Without statistics of the features' own scale: none, and local response normalization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normlab.layers.norms.registry import Shape, register


class Affine(nn.Module):
    """x · w + b for each channel; w starts so that features keep their scale from layer to layer.

    PyTorch's first weights give a convolution's output a third of its input's second moment, and a
    ReLU halves that again, so w starts at √6, or √3 where none follows (He et al. 2015, Delving
    Deep into Rectifiers, arXiv:1502.01852, section 2.2, with the gain beside the weights), times
    what makes up for a division that follows.
    """

    def __init__(
        self, shape: Shape, *, activate: bool, dropout: float, divided_by: float = 1.0
    ) -> None:
        super().__init__()
        self.activate, self.dropout = activate, dropout
        gain = divided_by * (6.0 if activate else 3.0) ** 0.5
        self.weight = nn.Parameter(torch.full((shape[0],), gain))
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same."""
        y = x * self.weight[:, None, None].to(x.dtype) + self.bias[:, None, None].to(x.dtype)
        y = F.relu(y) if self.activate else y
        return F.dropout(y, self.dropout, self.training)


register(
    "none",
    formula="x · w + b; w starts at √6, at √3 where no activation follows",
    paper="no normalization; He et al. 2015, arXiv:1502.01852, section 2.2, for the first w; De & "
    "Smith 2020, arXiv:2002.10444, for residual branches (SkipInit)",
    axes="none",
    parameters="2·C",
    activates=True,
    skip_init=True,
)(Affine)


@register(
    "lrn",
    formula="a / (2 + 1e-4 · Σ a²)^0.75 with a = ReLU(x · w + b), Σ over 5 neighbouring channels",
    paper="Krizhevsky et al. 2012, ImageNet Classification with Deep Convolutional Neural "
    "Networks, section 3.3; w and b as without normalization, the first w times 2^0.75",
    axes="5 channels, at each pixel",
    parameters="2·C",
    activates=True,
    skip_init=True,
)
class LocalResponseNorm(nn.Module):
    """Local response normalization, after the activation."""

    def __init__(self, shape: Shape, *, activate: bool, dropout: float) -> None:
        super().__init__()
        self.affine = Affine(shape, activate=activate, dropout=0.0, divided_by=2**0.75)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same."""
        a = self.affine(x)
        neighbours = F.pad(a.square(), (0, 0, 0, 0, 2, 2)).unfold(1, 5, 1).sum(-1)
        y = a / (2 + 1e-4 * neighbours) ** 0.75
        return F.dropout(y, self.dropout, self.training)
