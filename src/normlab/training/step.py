"""A training step: its batch, the loss, the update."""

import math
import reprlib
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normlab.config import Precision
from normlab.data import Dataset
from normlab.data.augment import augment
from normlab.inference.evaluate import to_input
from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.seeding import generator
from normlab.storage.records import MalformedError, entry
from normlab.training.distributed import process_group
from normlab.training.optimizers import Optimizer, build_optimizers
from normlab.training.precision import products_in


class Batches:
    """The augmented batches of a run. Each depends on (seed, epoch, step) alone.

    Args:
        dataset: Its training split is moved to the device and stays uint8 there.
        recipe: Batch size and augmentation.
        seed: The run's seed.
        device: Device of the batches.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.images = torch.from_numpy(dataset.train.images).to(device)
        self.labels = torch.from_numpy(dataset.train.labels).to(device)
        taught = dataset.train.taught
        self.logits = None if taught is None else torch.from_numpy(taught).to(device)
        weights = class_weights(dataset.train.labels)
        self.class_weights = None if weights is None else torch.from_numpy(weights).to(device)
        self.recipe, self.seed = recipe, seed
        self.steps = math.ceil(len(self.labels) / recipe.batch_size)
        coin = torch.rand(len(self.labels), generator=generator(seed, "mirror"))
        self.starts_mirrored = (coin < 0.5).to(device)
        self.ordered_epoch = -1

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs, float32 N × C × S × S in 0 to 1 and channels last, and labels, int64 N."""
        recipe = self.recipe
        places = self._places(epoch, step)
        mirrored = self._mirrored(places, epoch) if recipe.mirror else None
        inputs = augment(
            to_input(self.images.index_select(0, places), mirrored),
            recipe.augment,
            generator(self.seed, "augment", epoch, step),
        )
        return inputs.contiguous(memory_format=torch.channels_last), self.labels[places]

    def taught(self, epoch: int, step: int) -> Tensor:
        """The teacher's logits for a batch, float32 N × classes.

        They are those of each image, or of its mirror image where the batch has that; the other
        steps of augmentation are left out. TypeError if the data has no teacher's logits.
        """
        if self.logits is None:
            raise TypeError("the training split has no teacher's logits")
        places = self._places(epoch, step)
        if self.recipe.mirror:
            return self.logits[places, self._mirrored(places, epoch).long()].float()
        return self.logits[places, 0].float()

    def weights(self, labels: Tensor) -> Tensor | None:
        """What each image of a batch counts in a balanced loss, float32 N; None: all the same."""
        return None if self.class_weights is None else self.class_weights[labels]

    def _places(self, epoch: int, step: int) -> Tensor:
        """Which images a batch has."""
        if epoch != self.ordered_epoch:
            order = torch.randperm(len(self.labels), generator=generator(self.seed, "order", epoch))
            self.order, self.ordered_epoch = order.to(self.images.device), epoch
        size = self.recipe.batch_size
        return self.order[step * size : (step + 1) * size]

    def _mirrored(self, places: Tensor, epoch: int) -> Tensor:
        """Which of these images the epoch mirrors."""
        return self.starts_mirrored[places] ^ bool(epoch % 2)


def class_weights(labels: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """What an image of each class counts in a balanced loss: N / (K n).

    N images have K classes, this one n images. So each class counts as much as each other, and the
    images 1 in the mean.

    Args:
        labels: The labels of the training images.

    Returns:
        float32, by class, 0 for a class without images; None if all have equally many.
    """
    counts = np.bincount(labels)
    present = counts[counts > 0]
    if present.min() == present.max():
        return None
    weights = np.zeros(len(counts), np.float32)
    weights[counts > 0] = len(labels) / (len(present) * present)
    return weights


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
            self.network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._all_reduce_gradients()
            self.update(rate)
        return sums[0], int(sums[1])

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
    if number not in range(len(optimizer.weights)) or not isinstance(values, dict):
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
