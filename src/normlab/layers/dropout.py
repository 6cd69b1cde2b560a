"""Dropout that draws the same numbers on every path and every device.

A value is dropped if a hash of its index and of a seed is below a threshold. The compiled passes
compute that inside their loops; here it is computed by PyTorch, for all maps and devices that they
do not process. So a run does not depend on whether a compiler was there.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Draw(NamedTuple):
    """What decides which values are dropped.

    Attributes:
        threshold: The probability in units of 2⁻³².
        seed: 32 bits.
    """

    threshold: int
    seed: int


def draw(probability: float) -> Draw:
    """The next draw from torch's generator of the CPU, whatever the device of the maps.

    Raises:
        ValueError: The probability is negative, or 1 or more.
    """
    return Draw(_threshold(probability), int(_seed()))


def drop(x: Tensor, probability: float, training: bool) -> Tensor:
    """Drops values of x with this probability, and divides the others by 1 − probability.

    Args:
        x: N × C × H × W, in any layout.
        probability: The probability.
        training: False: x is returned as it is, and nothing is drawn.

    Raises:
        ValueError: The probability is negative, or 1 or more.
    """
    if not training or not probability:
        return x
    threshold = _threshold(probability)
    seed = _opaque_seed(_ORDER) if torch.compiler.is_compiling() else _seed()
    # The scale is a number, not a tensor of x's type: bfloat16 would round it.
    return x * _kept(x, threshold, seed) * (1 / (1 - threshold * 2**-32))


class Dropout(nn.Module):
    """`drop` as a layer."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        return drop(x, self.probability, self.training)

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.probability}"


def _threshold(probability: float) -> int:
    """The probability in units of 2⁻³²."""
    if not 0 <= probability < 1:
        raise ValueError(f"dropout must be 0 or more and below 1, not {probability}")
    return min(round(probability * 2**32), 2**32 - 1)


def _seed() -> Tensor:
    """The next seed from torch's generator of the CPU: int64, from 0 to 2³² − 1."""
    return torch.randint(2**32, (), generator=torch.default_generator, device="cpu")


# torch.compile would draw from a generator of its own. It does not look into this operation. That
# the operation is said to change a tensor keeps the draws apart, and in order.
_ORDER = torch.zeros(1, device="cpu")


@torch.library.custom_op("normlab::dropout_seed", mutates_args=["_order"])
def _opaque_seed(_order: Tensor) -> Tensor:
    return _seed()


@_opaque_seed.register_fake
def _(_order: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.int64, device="cpu")


def _kept(x: Tensor, threshold: int, seed: Tensor) -> Tensor:
    """Which values of x are kept: `dropout_factor` of normalize.c, bit for bit.

    Values are counted as they are in channels-last memory, wherever they are. int32 has the bits of
    C's uint32: sums and products wrap around, but a shift to the right repeats the sign.
    """
    h = torch.arange(x.numel(), device=x.device).to(torch.int32)
    h.mul_(_signed(0x9E3779B1)).add_(seed.to(torch.int32))
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    h *= _signed(0x85EBCA6B)
    h ^= (h >> 13).bitwise_and_(0x7FFFF)
    h *= _signed(0xC2B2AE35)
    h ^= (h >> 16).bitwise_and_(0xFFFF)
    h ^= _signed(1 << 31)  # now int32 is in the order of the uint32
    samples, channels, *pixels = x.shape
    return (h >= threshold - (1 << 31)).view(samples, *pixels, channels).movedim(-1, 1)


def _signed(bits: int) -> int:
    """The int32 of 32 bits."""
    return bits - (1 << 32) if bits >> 31 else bits
