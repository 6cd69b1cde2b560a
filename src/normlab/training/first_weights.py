"""First weights for Muon: they start at the norm that it keeps.

PyTorch's first weights have about √(1/3) of that norm. Muon's first step would scale them to it,
and where their scale has an effect, that changes the answers, whatever the learning rate.
"""

from collections import Counter
from collections.abc import Iterable

import torch

from normlab.network.custom import CustomNetwork
from normlab.network.model import Convolution, FullyConnected, Network
from normlab.recipes import Recipe
from normlab.training.muon import norm_factor
from normlab.training.optimizers import trained_by_muon


@torch.no_grad()
def start_at_muons_norm(network: Network, recipe: Recipe) -> None:
    """Scales the first weights that the recipe gives to Muon to the norm that Muon keeps.

    A normalization with the method `undo_scale` makes up for it: the network computes the same. One
    without, or a layer that no normalization follows, does not: then only the weights' norm, about
    1 for each output, preserves the scale of the layer's input.

    Weights whose scale has no effect, because a scale-invariant normalization follows, keep it.
    """
    by_muon = set(trained_by_muon(network, recipe))
    ignored = False  # whether the scale of the output has no effect, from the last block backwards
    for block in reversed(network.blocks):
        if isinstance(block, CustomNetwork):
            _scale_custom(block, by_muon)
            continue
        norms: list[torch.nn.Module] = []
        if isinstance(block, Convolution):
            weight, norms = block.conv.weight, [*block.norms]
            ignores_weight = block.scale_invariant if norms else ignored and not block.residual
            if norms:
                ignored = block.scale_invariant and not block.residual
        elif isinstance(block, FullyConnected):
            weight, ignores_weight = block.linear.weight, False
        else:  # pooling keeps scales
            continue
        if weight not in by_muon or ignores_weight:
            continue
        _scale(weight, norms)


def _scale_custom(network: CustomNetwork, by_muon: set[torch.Tensor]) -> None:
    """Scales the weights of a custom network, which shows by itself what follows a convolution.

    A normalization that several convolutions share cannot make up for all of their scales.
    """
    sources = Counter(norm for norms in network.normalizations.values() for norm in norms)
    followed = {convolution.weight: norms for convolution, norms in network.normalizations.items()}
    for weight in network.weights:
        norms = followed.get(weight, [])
        if weight in by_muon and not (norms and all(norm.scale_invariant for norm in norms)):
            _scale(weight, [norm for norm in norms if sources[norm] == 1])


def _scale(weight: torch.Tensor, norms: Iterable[torch.nn.Module]) -> None:
    """Scales a weight, unless it is zero, and has the normalizations after it make up for that."""
    if not weight.any():
        return
    scale = norm_factor(weight)
    weight.mul_(scale)
    for norm in norms:
        for layer in norm.modules():
            if undo_scale := getattr(layer, "undo_scale", None):
                undo_scale(float(scale))
