"""Which optimizer trains which parameters, and at what share of the learning rate."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.training.muon import Muon
from normlab.training.sgd import SGD


class Optimizer(Protocol):
    """What updates weights by their gradients."""

    MOMENTUM: str
    """The name of a weight's momentum in a checkpoint."""
    weights: list[Tensor]
    """What it trains."""
    momenta: dict[Tensor, Tensor]
    """What it keeps of each weight from step to step; empty before the first."""

    def step(self, rate: float) -> None:
        """Updates the weights, at a learning rate. One without a gradient stays as it is."""


@dataclass(frozen=True)
class ScaledOptimizer:
    """An optimizer and its learning rate, as a share of the schedule's."""

    optimizer: Optimizer
    share: float = 1.0

    def step(self, learning_rate: float) -> None:
        """Updates the parameters by their gradients."""
        self.optimizer.step(learning_rate * self.share)


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
    sgd = SGD(
        [weight for weight in weights if weight not in taken],
        [parameter for parameter in network.parameters() if parameter not in decaying],
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
    )
    optimizers = [ScaledOptimizer(sgd)]
    if by_muon:
        optimizers.append(ScaledOptimizer(Muon(by_muon), recipe.muon))
    return optimizers
