"""Proxy normalization: activations are normalized by what they would be of normal values."""

import torch
from torch import Tensor, nn

from normlab.layers.activations import Activation, normal_moments
from normlab.layers.dropout import drop
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.registry import EPSILON, Shape, register
from normlab.layers.norms.sample import GROUPS, checked_groups

_FORMULA = (
    "(f(y) − E[f(z)]) / √(Var[f(z)] + 0.03) with y = (x − E) / √(Var + ε) · w + b, f the "
    "activation and z = w · ((1 + γ) · n + β) + b of standard normal n, where β and γ are learned "
    "and start at 0; y where no activation follows"
)
_PAPER = (
    "Labatie et al. 2021, Proxy-Normalizing Activations to Match Batch Normalization while "
    "Removing Batch Dependence, arXiv:2106.03743, section 5; the proxy's moments are over 256 "
    "quantiles"
)


class ProxyNorm(nn.Module):
    """A normalization and its activation, whose outputs are then normalized channel by channel.

    Their mean and variance are not measured: they are those of a proxy, a normal value of mean β
    and deviation 1 + γ that goes through the same affine map and activation. So each channel is
    near mean 0 and variance 1 as after batch normalization, without a batch.
    """

    EPSILON = 0.03

    def __init__(
        self, shape: Shape, *, groups: int, activation: Activation, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm = FusedNorm(shape, groups=groups, activation=activation, dropout=0.0, eps=EPSILON)
        self.proxy_mean = nn.Parameter(torch.zeros(shape[0]))
        self.proxy_scale = nn.Parameter(torch.zeros(shape[0]))  # less 1

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        mean, scale = self.proxy()
        y = self.norm(x.to(scale.dtype)) - mean[:, None, None]
        y = (y * scale[:, None, None]).to(x.dtype)
        return drop(y, self.dropout, self.training)

    def proxy(self) -> tuple[Tensor, Tensor]:
        """Per channel, the proxy's mean and 1 / √(variance + 0.03): of weights alone."""
        weight, bias = self.norm.weight, self.norm.bias
        activate = self.norm.activate
        assert bias is not None
        assert activate is not None
        proxy_scale = weight * (1 + self.proxy_scale)
        proxy_bias = weight * self.proxy_mean + bias
        mean, variance = normal_moments(activate, proxy_scale, proxy_bias)
        return mean, (variance + self.EPSILON).rsqrt()


def _build(shape: Shape, groups: int, activation: Activation | None, dropout: float) -> nn.Module:
    """With an activation, proxy normalization; without one, the normalization alone."""
    if activation is not None:
        return ProxyNorm(shape, groups=groups, activation=activation, dropout=dropout)
    return FusedNorm(shape, groups=groups, activation=None, dropout=dropout, eps=EPSILON)


@register(
    "proxy-gn",
    formula=_FORMULA,
    paper=_PAPER,
    axes="H, W and a group of channels",
    parameters="4·C",
    argument=GROUPS,
    divides=True,
    takes_activation=True,
    scale_invariant=True,
    by_activation=True,
)
def proxy_group_norm(
    shape: Shape, groups: int | None = None, *, activation: Activation | None, dropout: float
) -> nn.Module:
    """Proxy normalization around group normalization."""
    return _build(shape, checked_groups("proxy-gn", shape, groups), activation, dropout)


@register(
    "proxy-ln",
    formula=_FORMULA,
    paper=_PAPER,
    axes="C, H, W",
    parameters="4·C",
    takes_activation=True,
    scale_invariant=True,
    by_activation=True,
)
def proxy_layer_norm(shape: Shape, *, activation: Activation | None, dropout: float) -> nn.Module:
    """Proxy normalization around layer normalization."""
    return _build(shape, 1, activation, dropout)
