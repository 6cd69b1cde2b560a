"""Stochastic gradient descent with momentum."""

from collections.abc import Sequence

import torch
from torch import Tensor


class SGD:
    """Gradient descent with momentum and weight decay, equal to PyTorch's SGD to the last bit.

    PyTorch's loads its compiler, which takes every run a second.

    Args:
        decaying: Parameters whose weight decays.
        others: Parameters that do not decay.
        weight_decay: Is multiplied by the weight and added to the gradient.
        momentum: Decay of the sum of gradients from step to step.
        nesterov: Nesterov's momentum (Sutskever et al. 2013, On the importance of initialization
            and momentum in deep learning).
    """

    MOMENTUM = "momentum_buffer"

    def __init__(
        self,
        decaying: Sequence[Tensor],
        others: Sequence[Tensor],
        *,
        weight_decay: float,
        momentum: float,
        nesterov: bool,
    ) -> None:
        self.decaying, self.others = [*decaying], [*others]
        self.weights = [*decaying, *others]
        self.weight_decay, self.momentum, self.nesterov = weight_decay, momentum, nesterov
        self.momenta: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Updates the parameters by their gradients, at a learning rate."""
        for group, decay in ((self.decaying, self.weight_decay), (self.others, 0.0)):
            weights = [weight for weight in group if weight.grad is not None]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            if not weights:  # a custom network may not use all in every step
                continue
            if decay:
                gradients = [*torch._foreach_add(gradients, weights, alpha=decay)]
            if self.momentum:
                momenta = self._add_to_momenta(weights, gradients)
                if self.nesterov:
                    gradients = [*torch._foreach_add(gradients, momenta, alpha=self.momentum)]
                else:
                    gradients = momenta
            torch._foreach_add_(weights, gradients, alpha=-rate)

    def _add_to_momenta(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The momenta of these weights after a step; the first is the gradient."""
        known = [(w, g) for w, g in zip(weights, gradients, strict=True) if w in self.momenta]
        if known:
            momenta = [self.momenta[weight] for weight, _ in known]
            torch._foreach_mul_(momenta, self.momentum)
            torch._foreach_add_(momenta, [gradient for _, gradient in known])
        for weight, gradient in zip(weights, gradients, strict=True):
            if weight not in self.momenta:
                self.momenta[weight] = gradient.detach().clone()
        return [self.momenta[weight] for weight in weights]
