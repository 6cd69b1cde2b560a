"""The augmented batches of a run."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normlab.data import Dataset
from normlab.data.augment import augment, draw_shifts
from normlab.inference.evaluate import to_input
from normlab.layers import kernels
from normlab.recipes import Recipe
from normlab.seeding import generator


class Batches:
    """The augmented batches of a run. Each depends on (seed, epoch, step) alone.

    Args:
        dataset: Its training split is moved to the device and stays uint8 there.
        recipe: Batch size and augmentation.
        seed: The run's seed.
        device: Device of the batches.
    """

    def __init__(self, dataset: Dataset, recipe: Recipe, seed: int, device: torch.device) -> None:
        self.images = torch.from_numpy(dataset.train.images).contiguous().to(device)
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
        places, steps = self._places(epoch, step), self.recipe.augment
        mirrored = self._mirrored(places, epoch) if self.recipe.mirror else None
        draws = generator(self.seed, "augment", epoch, step)
        if self.images.device.type == "cpu" and kernels.library() is not None:
            moved = torch.zeros(2, len(places), dtype=torch.int64)
            if steps[:1] == ("shift",):
                moved, steps = draw_shifts(len(places), self.images.shape[2], draws), steps[1:]
            inputs = kernels.batch(self.images, places, moved, mirrored)
        else:
            inputs = to_input(self.images.index_select(0, places), mirrored)
        inputs = augment(inputs, steps, draws).contiguous(memory_format=torch.channels_last)
        return inputs, self.labels[places]

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

    N images have K classes, this one n images. So every class has the same total weight, and the
    mean weight of an image is 1.

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
