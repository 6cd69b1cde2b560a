"""Muon: momentum with an orthogonalized update."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.linalg import vector_norm


class Muon:
    """Nesterov momentum with an orthogonalized update, on weights of a fixed norm.

    If the momentum is U Σ Vᵀ, the update is about U Vᵀ: every direction moves equally far. Before
    each step the weights, as a matrix of outputs × (inputs · height · width), are scaled to the
    norm √outputs, about 1 for each output. If a normalization follows, the scale of the weights
    has no effect, and the learning rate is the angle by which they turn.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks, and, for
    convolutions and the fixed norm, the code of Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a
    Single GPU, arXiv:2404.00498.

    Args:
        weights: Weights with two dimensions or more.
        momentum: Decay of the sum of gradients from step to step.
    """

    MOMENTUM = "momentum"

    def __init__(self, weights: Iterable[Tensor], *, momentum: float = 0.95) -> None:
        self.weights, self.momentum = [*weights], momentum
        self.momenta: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Updates the weights by their gradients, at a learning rate."""
        for weight in self.weights:
            if weight.grad is None:  # a custom network may not use all in every step
                continue
            if weight not in self.momenta:
                self.momenta[weight] = torch.zeros_like(weight)
            momentum = self.momenta[weight].mul_(self.momentum).add_(weight.grad)
            update = weight.grad.add(momentum, alpha=self.momentum)
            matrix = update.flatten(1)
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            weight.mul_(norm_factor(weight))
            weight.add_(orthogonalize(matrix).view_as(weight), alpha=-rate * scale)


def norm_factor(weight: Tensor) -> Tensor:
    """The factor that scales a weight to the norm that Muon keeps. A weight of zeros stays so."""
    norm = vector_norm(weight).clamp_(min=1e-30)  # so that 0 times the factor is 0
    factor: Tensor = len(weight) ** 0.5 / norm
    return factor


def orthogonalize(matrix: Tensor) -> Tensor:
    """Moves the singular values of a matrix (rows × columns) near 1.

    It takes three steps of a Newton–Schulz iteration with Jordan's coefficients. They do not
    converge but raise small values fast: values above a tenth of the matrix's norm end between
    0.65 and 1.25, smaller ones lower.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (vector_norm(matrix) + 1e-7)
    for _ in range(3):
        gram = x @ x.T
        factor = torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        x = torch.addmm(x, factor, x, beta=3.4445)
    return x.T if tall else x
