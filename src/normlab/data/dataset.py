"""What every data source returns: images and labels in splits, with a fingerprint."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from normlab.data.splitting import SUBSET, relabeled, stratified

SplitName = Literal["train", "holdout", "test"]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, N × C × S × S, values 0 to 255; C is 3 (red, green, blue) or 1 (grey).
        labels: int64, N, values 0 to classes - 1.
        taught: A teacher's logits for the images, or None: float16, N × views × classes. The first
            view is the image, the second its mirror image.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    taught: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """The images at these indices, in this order."""
        taught = None if self.taught is None else self.taught[indices]
        return Split(self.images[indices], self.labels[indices], taught)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: `cifar10`, `digits`, or `folder:PATH` with the folder it was read from.
        classes: The classes' names; label k is `classes[k]`.
        train: The images that a network is trained on.
        test: The images for final figures only.
        holdout: Images that `hold_out` took out of the training split, to choose settings by; or
            None.
        notes: Facts that a reader of the results should know: files that are not the published
            ones, images that were skipped.
        fingerprint: SHA-256 (hex) of the pixels and labels as loaded, before any hold-out.
        teacher: If the training split has a teacher's logits: the teacher's name, and the SHA-256
            of its weights.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    holdout: Split | None = None
    notes: tuple[str, ...] = ()
    fingerprint: str = field(default="")
    teacher: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", fingerprint(self.train, self.test))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def split(self, name: SplitName) -> Split:
        """A split by its name; ValueError for `holdout` if nothing was held out."""
        split: Split | None = getattr(self, name)
        if split is None:
            raise ValueError("nothing was held out of this data set: use hold_out first")
        return split

    def hold_out(self, count: int, seed: int = 0) -> "Dataset":
        """Moves a stratified, seeded part of the training split into `holdout`.

        Each class gives its share, in whole numbers that add up to `count`. The fingerprint does
        not change.

        Raises:
            DataError: `count` leaves a class without a training or a held-out image.
        """
        chosen, rest = stratified(self.train.labels, count, seed)
        return dataclasses.replace(
            self, train=self.train.take(rest), holdout=self.train.take(chosen)
        )

    def subset(self, count: int, seed: int = 0) -> "Dataset":
        """Keeps a stratified, seeded part of the training split.

        Raises:
            DataError: There are fewer images, or a class would lose all of its images.
        """
        if count == len(self.train):
            return self
        chosen, _ = stratified(self.train.labels, count, seed, SUBSET)
        return dataclasses.replace(self, train=self.train.take(chosen))

    def with_label_noise(self, share: float, seed: int = 0) -> "Dataset":
        """Gives a stratified, seeded share of the training images another class's label.

        Raises:
            DataError: The share is less than one image per class.
        """
        labels = relabeled(self.train.labels, share, len(self.classes), seed)
        return dataclasses.replace(self, train=dataclasses.replace(self.train, labels=labels))


def repeated(train: Split, test: Split) -> int:
    """How many test images are training images, too: equal in every pixel, whatever their label.

    Images are compared by 64-bit hashes of their bytes: 0.1 s for CIFAR-10.
    """
    seen = {hash(image.tobytes()) for image in train.images}
    return sum(hash(image.tobytes()) in seen for image in test.images)


def fingerprint(train: Split, test: Split) -> str:
    """SHA-256 (hex) of training images, training labels, test images, test labels, in this order.

    Images as their uint8 bytes in N × C × S × S order, labels as little-endian int64.
    """
    digest = hashlib.sha256()
    for split in (train, test):
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return digest.hexdigest()
