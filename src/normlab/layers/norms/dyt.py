"""Dynamic Tanh: values are squashed instead of normalized."""

import torch
from torch import Tensor, nn

from normlab.layers.activations import Activate, Activation
from normlab.layers.dropout import drop
from normlab.layers.norms.registry import Shape, register


@register(
    "dyt",
    formula="tanh(α · x) · w + b, one α, which starts at 0.5; w starts at 2 · √6 before a ReLU, at "
    "2 · √3 where no activation follows (the paper's starts at 1)",
    paper="Zhu et al. 2025, Transformers without Normalization, arXiv:2503.10622, section 4; He et "
    "al. 2015, arXiv:1502.01852, section 2.2, for the first w",
    axes="none",
    parameters="2·C + 1",
    takes_activation=True,
)
class DynamicTanh(nn.Module):
    """Dynamic Tanh.

    The paper's w starts at 1, for networks whose blocks are all residual. Here w starts so that
    features keep their scale from layer to layer where tanh(α · x) ≈ α · x, as in `none`.
    """

    def __init__(self, shape: Shape, *, activation: Activation | None, dropout: float) -> None:
        super().__init__()
        self.activate = Activate(activation, shape[0]) if activation else None
        self.dropout = dropout
        first_slope = 0.5
        gain = (3.0 / (activation.second_moment if activation else 1.0)) ** 0.5
        self.slope = nn.Parameter(torch.tensor(first_slope))
        self.weight = nn.Parameter(torch.full((shape[0],), gain / first_slope))
        self.bias = nn.Parameter(torch.zeros(shape[0]))

    def undo_scale(self, scale: float) -> None:
        """Changes a parameter so that scale · x gives what x gave."""
        self.slope.div_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        y = (x.to(self.weight.dtype) * self.slope).tanh()
        y = y * self.weight[:, None, None] + self.bias[:, None, None]
        y = self.activate(y) if self.activate else y
        return drop(y.to(x.dtype), self.dropout, self.training)
