"""Momentum whose every direction is made equally long."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized: of U Σ Vᵀ it takes about U Vᵀ.

    Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks; for convolutions,
    whose weights are taken as matrices of outputs × (inputs · height · width), as in Jordan 2024,
    94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv:2404.00498, and its repository.

    Args:
        parameters: Weights with two dimensions or more.
        lr: Learning rate: an update's directions have about this length, times √(outputs / inputs)
            where there are more outputs.
        momentum: Share of the gradients' sum that is kept from step to step.
        weight_decay: What a step takes off a weight, as a share of it, over the learning rate.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates the weights by their gradients."""
        del closure
        for group in self.param_groups:
            for weight in group["params"]:
                state: dict[str, Any] = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].mul_(group["momentum"]).add_(weight.grad)
                update = weight.grad.add(momentum, alpha=group["momentum"])
                matrix = update.flatten(1)
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalize(matrix).view_as(weight), alpha=-group["lr"] * scale)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Brings the singular values of a matrix, rows × columns, near 1: between 0.7 and 1.2.

    Three steps of a Newton–Schulz iteration with Jordan's coefficients, which do not converge but
    lift small values fast. Values below a hundredth of the largest stay smaller.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.T if tall else matrix
    x = x / (matrix.norm() + 1e-7)
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x
