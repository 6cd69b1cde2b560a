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

from normlab.errors import UsageError


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
        formula: The function, from a tensor to a tensor of the same shape and dtype. With a
            `first_slope`, it takes the slopes of the C channels as its second argument.
        second_moment: E[f(z)²] for z of the standard normal distribution. It sets the first weights
            of layers without normalization.
        first_slope: Where each channel learns a slope: the value that it starts with.
        compiled: Its compiled pass; None where it has none.
        int8_operators: The ONNX operators it becomes that int8 export quantizes.
    """

    name: str
    formula: Callable[..., Tensor]
    second_moment: float
    first_slope: float | None = None
    compiled: CompiledPass | None = None
    int8_operators: tuple[str, ...] = ()


RELU = Activation(
    name="relu",
    formula=F.relu,
    second_moment=0.5,
    compiled=CompiledPass(value="z < 0 ? 0 : z", gradient="z <= 0 ? 0 : g"),
    int8_operators=("Relu",),
)

# z · min(max(z / 6 + 1/2, 0), 1): Howard et al. 2019, Searching for MobileNetV3, arXiv:1905.02244,
# section 5.2.
HARD_SWISH = Activation(
    name="hard-swish",
    formula=F.hardswish,
    second_moment=0.3315674,
    compiled=CompiledPass(
        value="z * hard_logistic(z)",
        gradient="z <= -3 ? 0 : z >= 3 ? g : g * (z * (1.0f / 3) + 0.5f)",
    ),
)

# z · σ(z): Elfwing, Uchibe & Doya 2017, Sigmoid-Weighted Linear Units, arXiv:1702.03118, section 2.
SILU = Activation(
    name="silu",
    formula=F.silu,
    second_moment=0.3557755,
    compiled=CompiledPass(value="z * logistic(z)", gradient="g * silu_slope(z)"),
)


# Hendrycks & Gimpel 2016, Gaussian Error Linear Units, arXiv:1606.08415, section 2: their
# approximation by tanh, which is z · σ(1.5958 · (z + 0.044715 · z³)) and needs no error function.
def _gelu(z: Tensor) -> Tensor:
    return F.gelu(z, approximate="tanh")


GELU = Activation(
    name="gelu",
    formula=_gelu,
    second_moment=0.4251937,
    compiled=CompiledPass(
        value="z * logistic(gelu_exponent(z))",
        gradient="g * gelu_slope(z)",
    ),
)

# He et al. 2015, Delving Deep into Rectifiers, arXiv:1502.01852, section 2.1: one slope for each
# channel, which starts at 0.25 and does not decay.
PRELU = Activation(
    name="prelu",
    formula=F.prelu,
    second_moment=(1 + 0.25**2) / 2,
    first_slope=0.25,
)


# Maas, Hannun & Ng 2013, Rectifier Nonlinearities Improve Neural Network Acoustic Models,
# section 2.
def _leaky(z: Tensor) -> Tensor:
    return F.leaky_relu(z, negative_slope=0.01)


LEAKY = Activation(
    name="leaky",
    formula=_leaky,
    second_moment=(1 + 0.01**2) / 2,
    compiled=CompiledPass(value="z < 0 ? 0.01f * z : z", gradient="z <= 0 ? 0.01f * g : g"),
    int8_operators=("LeakyRelu",),
)

ACTIVATIONS = {
    activation.name: activation for activation in (RELU, HARD_SWISH, SILU, GELU, PRELU, LEAKY)
}


def find(name: str) -> Activation:
    """The activation of this name; UsageError if there is none."""
    if name not in ACTIVATIONS:
        raise UsageError(f"no activation {name!r}: use one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Activate(nn.Module):
    """An activation as a layer.

    Args:
        activation: The activation.
        channels: The channels of its input, for the slopes that it learns, if it does.
    """

    def __init__(self, activation: Activation, channels: int) -> None:
        super().__init__()
        self.activation = activation
        self.slope: nn.Parameter | None = None
        if activation.first_slope is not None:
            self.slope = nn.Parameter(torch.full((channels,), activation.first_slope))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W, or N × C, to the same shape."""
        if self.slope is None:
            return self.activation.formula(x)
        return self.activation.formula(x, self.slope.to(x.dtype))

    def extra_repr(self) -> str:
        """The activation's name."""
        return self.activation.name


# Values of the standard normal distribution, at equal steps of probability.
_NORMAL = tuple(NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256))


def normal_moments(activate: Activate, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of activate(weight · z + bias), z of the standard normal distribution.

    They are taken over 256 values of z, which are equally probable. For a ReLU of z itself the mean
    is right to 0.1% and the variance to 1%.

    Args:
        activate: The activation, for C channels.
        weight: C values.
        bias: C values.

    Returns:
        The mean and the variance, C values each.
    """
    z = torch.tensor(_NORMAL, dtype=weight.dtype, device=weight.device)
    values = activate(z[:, None] * weight + bias)
    return values.mean(0), values.var(0, correction=0)
