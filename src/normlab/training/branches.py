"""Branches of 3×3 convolutions that exist during training and are folded before weights are saved.

A convolution is linear, so a sum of convolutions is one convolution with the sum of their kernels,
and a chain of them without biases is one with their product. The branches are added up, or
multiplied, as kernels: a step costs little more than without them. The network computes the same
before and after folding, and it has the parameters of the plain convolution.

`repvgg`: a 3×3, a 1×1 and, where input and output have one shape, a scale for each channel, added
up (Ding et al. 2021, RepVGG: Making VGG-style ConvNets Great Again, arXiv:2101.03697, section 3.2,
without a normalization in each branch: the network's follows the sum).
`expand`: 1×1 · 3×3 · 1×1 with four times the channels in between (Guo, Alvarez & Salzmann 2020,
ExpandNets: Linear Over-parameterization to Train Compact Convolutional Networks, arXiv:1811.10495,
section 3.1).

Kernels of branches are trained as those of plain convolutions are: Muon turns each by itself at its
fixed norm, so that none outgrows the others; otherwise SGD trains them, and they decay. The scales
of an identity are SGD's and do not decay.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from normlab.config import Branches
from normlab.errors import UsageError
from normlab.network.model import Convolution, Network
from normlab.seeding import seed_for
from normlab.training.muon import norm_factor

EXPANSION = 4  # the paper's rate


class Sum(nn.Module):
    """The kernel of a 3×3, a 1×1 and perhaps an identity, divided by √(number of branches).

    So the sum of branches of equal scale starts at the scale of one.

    Args:
        identity: Whether there is an identity.
        by_muon: Whether Muon trains the kernels.
        seed: Seed of the first 1×1.
    """

    def __init__(self, *, identity: bool, by_muon: bool, seed: int) -> None:
        super().__init__()
        self.identity, self.by_muon, self.seed = identity, by_muon, seed

    def forward(self, full: Tensor, point: Tensor, scale: Tensor | None = None) -> Tensor:
        """Kernels C' × C × 3 × 3 and C' × C × 1 × 1, and C scales, to a kernel C' × C × 3 × 3."""
        added = point if scale is None else point + torch.diag(scale)[:, :, None, None]
        branches = 2 if scale is None else 3
        kernel: Tensor = (full + F.pad(added, (1, 1, 1, 1))) / branches**0.5
        return kernel

    def right_inverse(self, full: Tensor) -> tuple[Tensor, ...]:
        """First branches, whose outputs have the scale of a plain first kernel's."""
        (point,) = _drawn([(*full.shape[:2], 1, 1)], self.seed)
        point *= full.norm() / point.norm()
        if not self.identity:
            return full, point
        scale = 1.0 if self.by_muon else 1 / float(norm_factor(full))
        return full, point, full.new_full((len(full),), scale)


class Product(nn.Module):
    """The kernel of 1×1 · 3×3 · 1×1.

    Args:
        by_muon: Whether Muon trains the kernels.
        seed: Seed of the first kernels.
    """

    def __init__(self, *, by_muon: bool, seed: int) -> None:
        super().__init__()
        self.by_muon, self.seed = by_muon, seed

    def forward(self, last: Tensor, middle: Tensor, first: Tensor) -> Tensor:
        """Kernels C' × M' × 1 × 1, M' × M × 3 × 3 and M × C × 1 × 1 to C' × C × 3 × 3."""
        with torch.autocast(middle.device.type, enabled=False):  # as when it is folded
            outer = (last.flatten(1) @ middle.flatten(1)).view(len(last), *middle.shape[1:])
            return torch.einsum("omhw,mc->ochw", outer, first.flatten(1))

    def right_inverse(self, full: Tensor) -> tuple[Tensor, ...]:
        """First branches: at Muon's norm, or with a product of a plain first kernel's norm."""
        outputs, inputs = full.shape[:2]
        wide = (EXPANSION * outputs, EXPANSION * inputs)
        shapes = ((outputs, wide[0], 1, 1), (*wide, 3, 3), (wide[1], inputs, 1, 1))
        kernels = _drawn(shapes, self.seed)
        if self.by_muon:
            return tuple(kernel * norm_factor(kernel) for kernel in kernels)
        factor = (full.norm() / self.forward(*kernels).norm()) ** (1 / 3)
        return tuple(kernel * factor for kernel in kernels)


def _drawn(shapes: Iterable[tuple[int, int, int, int]], seed: int) -> list[Tensor]:
    """PyTorch's first weights of convolutions: uniform within ±1/√(values that an output sees)."""
    draws = torch.Generator().manual_seed(seed)
    kernels = [torch.empty(shape) for shape in shapes]
    for kernel in kernels:
        bound = kernel[0].numel() ** -0.5
        kernel.uniform_(-bound, bound, generator=draws)
    return kernels


def add_branches(network: Network, branches: Branches, *, muon: float, seed: int) -> None:
    """Gives each 3×3 convolution that mixes channels its branches.

    Args:
        network: A new network, on the CPU.
        branches: Which; `none` changes nothing.
        muon: The recipe's.
        seed: The run's seed.

    Raises:
        UsageError: The network has no such convolution.
    """
    if branches == "none":
        return
    found = False
    for index, block in enumerate(network.blocks):
        if not isinstance(block, Convolution) or block.conv.kernel_size != (3, 3):
            continue
        conv, drawn_from = block.conv, seed_for(seed, "branches", index)
        by_muon = muon > 0 and conv.in_channels > 1
        if branches == "expand":
            branched: nn.Module = Product(by_muon=by_muon, seed=drawn_from)
        else:
            same = conv.in_channels == conv.out_channels and conv.stride == conv.padding == (1, 1)
            branched = Sum(identity=same, by_muon=by_muon, seed=drawn_from)
        parametrize.register_parametrization(conv, "weight", branched)
        found = True
    if not found:
        raise UsageError(
            f"--branches {branches} is for 3×3 convolutions, C in a layout, and the network has "
            "none: leave it out"
        )


@torch.enable_grad()  # otherwise the folded kernels would be buffers
def fold_branches(network: Network) -> None:
    """Replaces all branches by their plain convolutions."""
    for block in network.blocks:  # a custom network's own parametrizations stay
        if isinstance(block, Convolution) and parametrize.is_parametrized(block.conv, "weight"):
            parametrize.remove_parametrizations(block.conv, "weight")
