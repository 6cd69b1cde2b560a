"""A training step: its batch, the loss, the update."""

import math
import reprlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normlab.config import Precision
from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.storage.records import MalformedError, entry
from normlab.training.distributed import process_group
from normlab.training.optimizers import Optimizer, build_optimizers
from normlab.training.precision import products_in


def distillation_loss(
    logits: Tensor, taught: Tensor, temperature: float, weights: Tensor | None = None
) -> Tensor:
    """T² KL(softmax(taught / T) ‖ softmax(logits / T)), summed over the images, in nats.

    The factor keeps gradients of one size whatever T is. Hinton, Vinyals & Dean 2015, Distilling
    the Knowledge in a Neural Network, arXiv:1503.02531, section 2. The divergence is the paper's
    cross-entropy less the teacher's entropy, which has no gradient: a loss of 0 is a full match.

    Args:
        logits: N × classes.
        taught: The teacher's logits, N × classes.
        temperature: T, above 0.
        weights: What each image counts, N; None: 1.
    """
    own, others = (F.log_softmax(each / temperature, dim=1) for each in (logits, taught))
    if weights is not None:
        divergences = F.kl_div(own, others, reduction="none", log_target=True).sum(dim=1)
        return temperature**2 * (weights * divergences).sum()
    return temperature**2 * F.kl_div(own, others, reduction="sum", log_target=True)


def label_loss(
    logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None = None
) -> Tensor:
    """The cross-entropy with the labels, summed over the images, in nats.

    Args:
        logits: N × classes.
        labels: int64 N.
        smoothing: Share of each target that is spread over all classes.
        weights: What each image counts, N; None: 1.
    """
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    losses = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    return (weights * losses).sum()


class TrainStep:
    """A step of gradient descent on a network's mean cross-entropy.

    Args:
        network: The network to train.
        recipe: Settings of the optimizers, and label smoothing.
        precision: Precision of the activations and of the convolutions' arithmetic.
        teacher_weight: The teacher's share of the loss in steps that have its logits, 0 to 1.
        temperature: Divides the logits of teacher and network before they are compared.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        precision: Precision,
        *,
        teacher_weight: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        self.network, self.recipe, self.precision = network, recipe, precision
        self.teacher_weight, self.temperature = teacher_weight, temperature
        self.processes = process_group()
        self.optimizers = build_optimizers(network, recipe)

    def state_dict(self) -> list[dict[str, Any]]:
        """The optimizers' states."""
        return [_state_dict(scaled.optimizer) for scaled in self.optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Restores the optimizers' states. Their settings are the recipe's, not the file's.

        Raises:
            MalformedError: They are not the states of these optimizers.
        """
        if len(states) != len(self.optimizers):
            raise MalformedError(f"{len(states)} optimizers, expected {len(self.optimizers)}")
        for scaled, state in zip(self.optimizers, states, strict=True):
            for number, values in entry(state, "state", dict).items():
                _restore(scaled.optimizer, number, values)

    def step(
        self,
        rate: float,
        inputs: Tensor,
        labels: Tensor,
        taught: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[float, int]:
        """One step at a learning rate.

        Each process computes on its shard of the batch. If the loss is not finite, the weights
        stay as they are.

        Args:
            rate: The learning rate.
            inputs: float32 N × C × S × S, 0 to 1.
            labels: int64 N.
            taught: The teacher's logits, float32 N × classes; None learns from labels alone.
            weights: What each image counts in the loss, float32 N; None: 1.

        Returns:
            The batch's mean loss and number of correct predictions, both before the update.
        """
        images = len(labels)
        inputs, labels = self.processes.shard(inputs), self.processes.shard(labels)
        weights = None if weights is None else self.processes.shard(weights)
        with products_in(self.precision, inputs.device):
            logits = self.network(inputs)
        smoothing = self.recipe.label_smoothing
        loss = label_loss(logits.float(), labels, smoothing, weights)
        if taught is not None:
            taught = self.processes.shard(taught)
            taught_loss = distillation_loss(logits.float(), taught, self.temperature, weights)
            loss = (1 - self.teacher_weight) * loss + self.teacher_weight * taught_loss
        loss = loss / images
        correct = (logits.argmax(dim=1) == labels).sum()
        sums = self.processes.sum(torch.stack((loss.detach(), correct.float()))).tolist()
        if math.isfinite(sums[0]):
            self._clear_gradients()
            loss.backward()  # type: ignore[no-untyped-call]
            self._all_reduce_gradients()
            self.update(rate)
        return sums[0], int(sums[1])

    def _clear_gradients(self) -> None:
        """As the network's `zero_grad`, which searches all its modules for their parameters."""
        for scaled in self.optimizers:
            for weight in scaled.optimizer.weights:
                weight.grad = None

    def _all_reduce_gradients(self) -> None:
        """Adds the gradients of all processes up, in one message: the networks are small."""
        if self.processes.size == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        total = self.processes.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(total, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def update(self, rate: float) -> None:
        """Updates the parameters by their gradients."""
        for scaled in self.optimizers:
            scaled.step(rate)


def _state_dict(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's momenta by their weights' numbers, in the layout of PyTorch's optimizers."""
    return {
        "state": {
            number: {optimizer.MOMENTUM: optimizer.momenta[weight]}
            for number, weight in enumerate(optimizer.weights)
            if weight in optimizer.momenta
        }
    }


def _restore(optimizer: Optimizer, number: Any, values: Any) -> None:
    """Sets what an optimizer keeps of a weight; MalformedError if it does not fit the weight."""
    numbers = range(len(optimizer.weights))
    if type(number) is not int or number not in numbers or not isinstance(values, dict):
        raise MalformedError(f"its optimizer has no state {reprlib.repr(number)}")
    weight, value = optimizer.weights[number], values.get(optimizer.MOMENTUM)
    if value is None:
        return
    if not (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.layout == torch.strided
        and (value.shape, value.dtype) == (weight.shape, weight.dtype)
    ):
        raise MalformedError(f"its optimizer's state {number} is not that of a weight")
    # A copy: a forged one may have all its values in one place.
    optimizer.momenta[weight] = value.detach().clone().to(weight.device)
