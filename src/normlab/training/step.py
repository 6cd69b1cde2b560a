"""A step of training: the batch it sees, the loss, the update."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from normlab.config import Precision
from normlab.data import Dataset
from normlab.data.augment import augment
from normlab.inference.evaluate import to_input
from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.seeding import generator
from normlab.training.distributed import process_group
from normlab.training.muon import Muon


class Batches:
    """The augmented batches of a run's epochs, each drawn from (seed, epoch, step) alone.

    Args:
        dataset: Its training split is moved to the device and stays uint8 there.
        recipe: The batch size and the augmentation.
        seed: The run's.
        device: Where the batches are wanted.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.images = torch.from_numpy(dataset.train.images).to(device)
        self.labels = torch.from_numpy(dataset.train.labels).to(device)
        self.recipe, self.seed = recipe, seed
        self.steps = math.ceil(len(self.labels) / recipe.batch_size)
        coin = torch.rand(len(self.labels), generator=generator(seed, "mirror"))
        self.starts_mirrored = (coin < 0.5).to(device)
        self.ordered_epoch = -1

    def __call__(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs, float32 N × 3 × 32 × 32 in 0 to 1 and channels last, and labels, int64 N."""
        recipe = self.recipe
        if epoch != self.ordered_epoch:
            order = torch.randperm(len(self.labels), generator=generator(self.seed, "order", epoch))
            self.order, self.ordered_epoch = order.to(self.images.device), epoch
        places = self.order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        inputs = to_input(self.images[places])
        if recipe.mirror:
            mirrored = self.starts_mirrored[places] ^ bool(epoch % 2)
            inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
        inputs = augment(inputs, recipe.augment, generator(self.seed, "augment", epoch, step))
        return inputs.contiguous(memory_format=torch.channels_last), self.labels[places]


class TrainStep:
    """Gradient descent on a network's mean cross-entropy.

    Weights of convolutions and of `FC` decay; normalizations, scales and biases do not. With the
    recipe's `muon` those that mix channels are Muon's instead, at that share of the learning rate;
    the classifier's are not, for no normalization follows it.

    Args:
        network: What is trained.
        recipe: The optimizer's settings and the label smoothing.
        precision: Of the activations and of the convolutions' arithmetic.
    """

    def __init__(self, network: Network, recipe: Recipe, precision: Precision) -> None:
        self.network, self.recipe, self.precision = network, recipe, precision
        self.processes = process_group()
        weights = network.weights
        mixing = [weight for weight in weights[:-1] if recipe.muon and weight.shape[1] > 1]
        by_muon = set(mixing)
        plain = [weight for weight in weights if weight not in by_muon]
        decaying = set(weights)
        others = [parameter for parameter in network.parameters() if parameter not in decaying]
        groups: list[dict[str, Any]] = [
            {"params": plain, "weight_decay": recipe.weight_decay},
            {"params": others},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.SGD(
                groups,
                lr=recipe.learning_rate,
                momentum=recipe.momentum,
                nesterov=recipe.nesterov,
            )
        ]
        if mixing:
            self.optimizers.append(Muon(mixing))

    def state_dict(self) -> list[dict[str, Any]]:
        """The optimizers' state."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Puts it back."""
        for optimizer, own in zip(self.optimizers, state, strict=True):
            optimizer.load_state_dict(own)

    def step(self, rate: float, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
        """One step at a learning rate: the batch's mean loss and right answers before it.

        Of several processes each computes on its part of the batch. Where the loss is not finite
        the weights are left as they were.
        """
        images, inputs, labels = (
            len(labels),
            self.processes.shard(inputs),
            self.processes.shard(labels),
        )
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bfloat16):
            logits = self.network(inputs)
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing, reduction="sum")
        loss = loss / images
        right = (logits.argmax(dim=1) == labels).sum()
        value, correct = self.processes.sum(torch.stack((loss.detach(), right.float()))).tolist()
        if math.isfinite(value):
            self.network.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._add_up_gradients()
            self.update(rate)
        return value, int(correct)

    def _add_up_gradients(self) -> None:
        """Over all processes, in one message: the networks are small."""
        if self.processes.size == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        total = self.processes.sum(torch.cat([gradient.flatten() for gradient in gradients]))
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, summed in zip(gradients, torch.split(total, sizes), strict=True):
            gradient.copy_(summed.view_as(gradient))

    def update(self, rate: float) -> None:
        """Moves the parameters by their gradients."""
        for optimizer in self.optimizers:
            share = self.recipe.muon if isinstance(optimizer, Muon) else 1.0
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
