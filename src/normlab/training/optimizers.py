"""Which optimizer trains which parameters, and at what share of the learning rate."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.training.muon import Muon


@dataclass(frozen=True)
class ScaledOptimizer:
    """An optimizer and its learning rate, as a share of the schedule's."""

    optimizer: torch.optim.Optimizer
    share: float = 1.0

    def step(self, learning_rate: float) -> None:
        """Updates the parameters by their gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * self.share
        self.optimizer.step()


def trained_by_muon(network: Network, recipe: Recipe) -> list[Tensor]:
    """The weights that Muon trains: with the recipe's `muon`, those that mix channels.

    It does not train the classifier's: no normalization follows them.
    """
    if not recipe.muon:
        return []
    return [weight for weight in network.weights[:-1] if weight.shape[1] > 1]


def build_optimizers(network: Network, recipe: Recipe) -> list[ScaledOptimizer]:
    """SGD for all parameters, but those that the recipe gives to Muon.

    The weights of convolutions and of `FC` decay; normalizations, scales and biases do not.
    """
    weights, by_muon = network.weights, trained_by_muon(network, recipe)
    taken, decaying = set(by_muon), set(weights)
    groups: list[dict[str, Any]] = [
        {
            "params": [weight for weight in weights if weight not in taken],
            "weight_decay": recipe.weight_decay,
        },
        {"params": [p for p in network.parameters() if p not in decaying]},
    ]
    sgd = torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    optimizers = [ScaledOptimizer(sgd)]
    if by_muon:
        optimizers.append(ScaledOptimizer(Muon(by_muon), recipe.muon))
    return optimizers
