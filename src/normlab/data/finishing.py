"""What is done with every data set after it was read, whatever its source."""

import dataclasses

import numpy as np

from normlab.config import Channels
from normlab.data.dataset import Dataset, Split, SplitName, repeated
from normlab.data.shape import with_shape
from normlab.errors import DataError, printable
from normlab.wording import SPLIT_WORDS, counted

_EXAMPLES = 3


def finished(dataset: Dataset, size: int, channels: Channels) -> Dataset:
    """A data set as runs use it: of one shape, checked, with a note on repeated images.

    Args:
        dataset: The data set as its source has it.
        size: As in `normlab.data.load`.
        channels: As in `normlab.data.load`.

    Raises:
        DataError: There are no images of two classes to train on, or none to test.
    """
    classes = np.unique(dataset.train.labels)
    if len(classes) < 2:
        names = "".join(f", {dataset.classes[k]!r}" for k in classes)
        raise DataError(
            f"{dataset.name} has training images of {len(classes) or 'no'} class{names}: "
            "two or more are needed"
        )
    dataset = with_shape(dataset, size, channels)
    notes = (*dataset.notes, *_repeats(dataset, "holdout"), *_repeats(dataset, "test"))
    return dataclasses.replace(dataset, notes=notes)


def _repeats(dataset: Dataset, name: SplitName) -> list[str]:
    """A note on images of a split that are training images, too."""
    split = dataset.splits.get(name)
    if split is None or not (pairs := repeated(dataset.train, split)):
        return []
    shown = ", ".join(
        f"{_named(split, k, name)} = {_named(dataset.train, known, 'train')}"
        for k, known in pairs[:_EXAMPLES]
    )
    return [
        f"{len(pairs):,} of {counted(len(split), f'{SPLIT_WORDS[name]} image')} "
        f"{'is a training image' if len(pairs) == 1 else 'are training images'}, too "
        f"({shown}{' …' if len(pairs) > _EXAMPLES else ''}): "
        f"{SPLIT_WORDS[name]} accuracy is higher than on new images"
    ]


def _named(split: Split, index: int, name: str) -> str:
    return printable(split.names[index]) if split.names else f"{name} image {index}"
