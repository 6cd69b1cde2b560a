"""A data set of the splits that a source has: some have no test images, some have validation's."""

from collections.abc import Mapping, Sequence

import numpy as np

from normlab.data.class_names import look_alikes
from normlab.data.dataset import Dataset, Split, SplitName
from normlab.data.splitting import a_fifth
from normlab.errors import DataError
from normlab.wording import counted

# The names of splits, in any case. Of several for one purpose, the first is taken.
SPLITS: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "holdout": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def role_of(name: str) -> SplitName | None:
    """What a split is for, by its name in the data; None if it has another name."""
    return next((role for role, names in SPLITS.items() if name.casefold() in names), None)


def dataset_of_splits(
    name: str,
    classes: Sequence[str],
    splits: Mapping[SplitName, Split],
    called: Mapping[SplitName, str],
    *,
    split_seed: int,
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of training images, with or without images to choose by and images to test.

    Images to choose settings by are the test images if there are no others. If there are neither, a
    stratified fifth of the training images is drawn for testing, at least one of each class. A note
    says which.

    Args:
        name: The data set's name.
        classes: The classes' names.
        splits: The splits; the training split is among them.
        called: What each split is called where it comes from: `val/`.
        split_seed: Seed of the draw.
        notes: Notes of the data set.

    Raises:
        DataError: A class has a single image, and the test images must be drawn.
    """
    notes = [*look_alikes(classes), *notes]
    train, test, holdout = splits["train"], splits.get("test"), splits.get("holdout")
    if test is not None and holdout is not None:
        notes.append(
            f"{called['holdout']} has {counted(len(holdout), 'image')} to choose settings by, "
            f"{called['test']} is for the end"
        )
    elif holdout is not None:
        test, holdout = holdout, None
        notes.append(f"{called['holdout']} has the test images")
    drawn: tuple[SplitName, ...] = ()
    if test is None:
        drawn = ("test",)
        test, train = _drawn_test_split(name, classes, train, split_seed)
        notes.append(
            f"the data has no test images: {len(test):,} of its "
            f"{counted(len(test) + len(train), 'image')} were set aside to test on"
        )
    return Dataset(name, tuple(classes), train, test, holdout, tuple(notes), drawn=drawn)


def _drawn_test_split(
    name: str, classes: Sequence[str], whole: Split, seed: int
) -> tuple[Split, Split]:
    try:
        test, train = a_fifth(whole.labels, seed)
    except DataError as error:
        sizes = np.bincount(whole.labels, minlength=len(classes))
        smallest = int(np.where(sizes, sizes, len(whole)).argmin())
        raise DataError(
            f"{name} has no test images, and its images cannot be split: the smallest class, "
            f"{classes[smallest]!r}, has {sizes[smallest]}; add images to it or add test images"
        ) from error
    return whole.take(test), whole.take(train)
