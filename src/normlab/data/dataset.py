"""What every data source returns: images and labels in splits, with a fingerprint."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from normlab.data.splitting import SUBSET, relabeled, stratified
from normlab.errors import UsageError
from normlab.wording import counted

SplitName = Literal["train", "holdout", "test"]


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, N × C × S × S, values 0 to 255; C is 3 (red, green, blue) or 1 (grey).
        labels: int64, N, values 0 to classes - 1.
        taught: A teacher's logits for the images, or None: float16, N × views × classes. The first
            view is the image, the second its mirror image.
        names: The images' files, or None where they have none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    taught: NDArray[np.float16] | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """The images at these indices, in this order."""
        taught = None if self.taught is None else self.taught[indices]
        names = None if self.names is None else tuple(self.names[k] for k in indices)
        return Split(self.images[indices], self.labels[indices], taught, names)

    def first_of_each_class(self, count: int, classes: int) -> "Split":
        """The first images of each class, at most `count`, class after class."""
        indices = [np.flatnonzero(self.labels == k)[:count] for k in range(classes)]
        return self.take(np.concatenate(indices))


@dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: `cifar10`, `digits`, or `folder:PATH` with the folder it was read from.
        classes: The classes' names; label k is `classes[k]`.
        train: The images that a network is trained on.
        test: The images for final figures only.
        holdout: Images to choose settings by, or None: those that `hold_out` took out of the
            training split, or those that came as a split of their own.
        notes: Facts that a reader of the results should know: files that are not the published
            ones, images that were skipped.
        fingerprint: SHA-256 (hex) of the pixels and labels as loaded, before `hold_out`.
        teacher: If the training split has a teacher's logits: the teacher's name, and the SHA-256
            of its weights.
        drawn: The splits that were drawn from the training images by the split seed.
        in_order: Whether it is a copy of a published data set, with the training images in their
            order. Such copies have the same pictures in their splits, up to some pixels.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    holdout: Split | None = None
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    teacher: tuple[str, str] | None = None
    drawn: tuple[SplitName, ...] = ()
    in_order: bool = False

    def __post_init__(self) -> None:
        if not self.fingerprint:
            splits = (self.train, self.test, self.holdout)
            known = fingerprint(*(split for split in splits if split is not None))
            object.__setattr__(self, "fingerprint", known)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    @property
    def to_train_or_choose(self) -> int:
        """Number of images outside of the test split."""
        return len(self.train) + len(self.holdout or ())

    @property
    def splits(self) -> dict[SplitName, Split]:
        """The splits that it has, by their names."""
        holdout: dict[SplitName, Split] = {} if self.holdout is None else {"holdout": self.holdout}
        return {"train": self.train, **holdout, "test": self.test}

    def split(self, name: SplitName) -> Split:
        """A split by its name; ValueError if there is none, such as `holdout` of most data sets."""
        if name not in get_args(SplitName):
            raise ValueError(f"no split {name!r}: there are {', '.join(get_args(SplitName))}")
        if name not in self.splits:
            raise ValueError("nothing was held out of this data set: use hold_out first")
        return self.splits[name]

    def hold_out(self, count: int, seed: int = 0) -> "Dataset":
        """Moves a stratified, seeded part of the training split into `holdout`.

        Each class gives its share, in whole numbers that add up to `count`. The fingerprint does
        not change. A data set that came with images to choose by keeps them.

        Raises:
            DataError: `count` leaves a class without a training or a held-out image.
            UsageError: The data set has images to choose by, and not so many.
        """
        if self.holdout is not None:
            if count == len(self.holdout):
                return self
            raise UsageError(
                f"{self.name} already has {counted(len(self.holdout), 'image')} to choose settings "
                "by: leave out --holdout"
            )
        chosen, rest = stratified(self.train.labels, count, seed)
        return dataclasses.replace(
            self,
            train=self.train.take(rest),
            holdout=self.train.take(chosen),
            drawn=(*self.drawn, "holdout"),
        )

    def without_holdout(self) -> "Dataset":
        """The same without the images that it brought to choose settings by."""
        if self.holdout is None:
            return self
        return dataclasses.replace(self, holdout=None, fingerprint="")

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


def repeated(train: Split, test: Split) -> list[tuple[int, int]]:
    """The test images that are training images, too: equal in every pixel, whatever their label.

    Images are compared by 64-bit hashes of their bytes: 0.1 s for CIFAR-10.

    Returns:
        Pairs of indices: a test image, and the first training image that equals it.
    """
    seen: dict[int, int] = {}
    for index, image in enumerate(train.images):
        seen.setdefault(hash(image.tobytes()), index)
    found = (seen.get(hash(image.tobytes())) for image in test.images)
    return [(index, known) for index, known in enumerate(found) if known is not None]


def fingerprint(*splits: Split) -> str:
    """SHA-256 (hex) of each split's images and labels: training, test, and a hold-out of its own.

    Images as their uint8 bytes in N × C × S × S order, labels as little-endian int64.
    """
    digest = hashlib.sha256()
    for split in splits:
        digest.update(np.ascontiguousarray(split.images).data)
        digest.update(np.ascontiguousarray(split.labels, dtype="<i8").data)
    return digest.hexdigest()
