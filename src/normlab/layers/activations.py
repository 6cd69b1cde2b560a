"""The activations: what a network applies after its normalizations.

An activation is one entry here. Its formula is enough to train with it, to fold it and to export
it. One that also has a compiled pass runs inside the fused normalizations; without one, PyTorch
computes it after their affine map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CompiledPass(NamedTuple):
    """An activation in C, for the passes of normalize.c: two expressions of type float.

    Attributes:
        value: The activation of z.
        gradient: The gradient with respect to z, where g is the gradient of the activation.
    """

    value: str
    gradient: str


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An activation function, applied to every value by itself.

    Attributes:
        name: Its name.
        formula: The function, from a tensor to a tensor of the same shape and dtype.
        second_moment: E[f(z)²] for z of the standard normal distribution. It sets the first weights
            of layers without normalization.
        compiled: Its compiled pass; None where it has none.
        int8_operators: The ONNX operators it becomes that int8 export quantizes.
    """

    name: str
    formula: Callable[[Tensor], Tensor]
    second_moment: float
    compiled: CompiledPass | None = None
    int8_operators: tuple[str, ...] = ()


RELU = Activation(
    name="relu",
    formula=F.relu,
    second_moment=0.5,
    compiled=CompiledPass(value="z < 0 ? 0 : z", gradient="z <= 0 ? 0 : g"),
    int8_operators=("Relu",),
)

ACTIVATIONS = {activation.name: activation for activation in (RELU,)}

# Values of the standard normal distribution, at equal steps of probability.
_NORMAL = tuple(NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256))


def normal_moments(activation: Activation, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of activation(weight · z + bias), z of the standard normal distribution.

    They are taken over 256 values of z, which are equally probable. For a ReLU of z itself the mean
    is right to 0.1% and the variance to 1%.

    Args:
        activation: The activation.
        weight: C values.
        bias: C values.

    Returns:
        The mean and the variance, C values each.
    """
    z = torch.tensor(_NORMAL, dtype=weight.dtype, device=weight.device)
    values = activation.formula(z[:, None] * weight + bias)
    return values.mean(0), values.var(0, correction=0)


class Activate(nn.Module):
    """An activation as a layer."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of any shape to one of the same shape."""
        return self.activation.formula(x)

    def extra_repr(self) -> str:
        """The activation's name."""
        return self.activation.name
