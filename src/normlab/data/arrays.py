"""Data sets from arrays: those in memory, and those that a file holds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from normlab.config import Channels, DataConfig
from normlab.data.class_names import class_name
from normlab.data.dataset import Dataset, Split, SplitName
from normlab.data.finishing import finished
from normlab.data.splits import dataset_of_splits
from normlab.errors import DataError
from normlab.storage.records import check_settings
from normlab.wording import counted, shape_text


class Labeled(NamedTuple):
    """A split's arrays, with their names for errors."""

    image_name: str
    images: ArrayLike
    label_name: str
    labels: ArrayLike


def from_arrays(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    *,
    x_val: ArrayLike | None = None,
    y_val: ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    name: str = "arrays",
    size: int = 32,
    channels: Channels = "auto",
    split_seed: int = 0,
) -> Dataset:
    """A data set from arrays in memory: `normlab.train(config, out, dataset=...)` takes it.

    Args:
        x_train: Training images, uint8 of 0 to 255: N × H × W (grey), N × H × W × 1 or
            N × H × W × 3.
        y_train: Their labels, integers or text: N, or N × 1.
        x_test: Test images, or None: then a stratified fifth of the others is drawn.
        y_test: Their labels.
        x_val: Images to choose settings by, or None.
        y_val: Their labels.
        classes: The classes' names: label k is `classes[k]`. None: the labels themselves.
        name: The data set's name.
        size: As in `normlab.data.load`.
        channels: As in `normlab.data.load`.
        split_seed: Seed of the test split, if it is drawn.

    Raises:
        DataError: The arrays have another shape or type, there are labels without images, or fewer
            than two classes.
        UsageError: The size or the channels are not allowed.
    """
    check_settings(DataConfig(size=size, channels=channels, split_seed=split_seed))
    given: dict[SplitName, Labeled] = {"train": Labeled("x_train", x_train, "y_train", y_train)}
    splits: tuple[tuple[SplitName, str, ArrayLike | None, ArrayLike | None], ...] = (
        ("holdout", "val", x_val, y_val),
        ("test", "test", x_test, y_test),
    )
    for split, suffix, images, labels in splits:
        if images is not None and labels is not None:
            given[split] = Labeled(f"x_{suffix}", images, f"y_{suffix}", labels)
        elif images is not None or labels is not None:
            raise DataError(f"x_{suffix} and y_{suffix} belong together: give both")
    return finished(dataset_of(given, name, split_seed, classes), size, channels)


def dataset_of(
    given: Mapping[SplitName, Labeled],
    name: str,
    split_seed: int,
    classes: Sequence[str] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """A data set of arrays as they are, N × C × H × W.

    Raises:
        DataError: As in `from_arrays`.
    """
    images = {split: _images(arrays.image_name, arrays.images) for split, arrays in given.items()}
    labels = {
        split: _labels(arrays, len(images[split]), classes) for split, arrays in given.items()
    }
    shape = images["train"].shape[1:]
    for split, arrays in given.items():
        if (found := images[split].shape[1:]) != shape:
            raise DataError(
                f"{arrays.image_name} has images of {shape_text(found)}, "
                f"{given['train'].image_name} of {shape_text(shape)} (channels × height × width): "
                "give all splits one shape"
            )
    values = np.unique(labels["train"]) if classes is None else np.arange(len(classes))
    for split, arrays in given.items():
        if len(other := np.setdiff1d(labels[split], values)):
            known = (
                f"{given['train'].label_name} has not"
                if classes is None
                else f"there is no such class among {len(classes)}"
            )
            raise DataError(f"{arrays.label_name} has the label {other[0].item()!r}, {known}")
    names = [str(value) for value in (values.tolist() if classes is None else classes)]
    splits = {
        split: Split(images[split], np.searchsorted(values, labels[split]).astype(np.int64))
        for split in given
    }
    called = {split: arrays.image_name for split, arrays in given.items()}
    return dataset_of_splits(name, names, splits, called, split_seed=split_seed, notes=notes)


def _images(name: str, given: ArrayLike) -> NDArray[np.uint8]:
    """Images as N × C × H × W."""
    array: NDArray[Any] = np.asarray(given)
    came = f"{name} is {array.dtype}, {shape_text(array.shape) or 'a single value'}"
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        raise DataError(f"{came}, channels first: put them last, {name}.transpose(0, 2, 3, 1)")
    if array.ndim == 4 and array.shape[3] == 4:
        raise DataError(f"{came}, with transparency: leave it out, {name}[..., :3]")
    if array.shape[:1] == (0,):
        raise DataError(f"{name} has no images")
    if array.ndim not in (3, 4) or array.shape[3:] not in ((), (1,), (3,)) or not array.size:
        raise DataError(f"{came}: expected uint8, N × H × W, N × H × W × 1 or N × H × W × 3")
    if array.dtype != np.uint8:
        convert = (
            f"integers of 0 to 255: {name}.astype('uint8')"
            if array.dtype.kind in "iu"
            else f"values of 0 to 1: ({name} * 255).round().astype('uint8')"
        )
        raise DataError(f"{came}: expected uint8, 0 to 255 (from {convert})")
    if array.ndim == 3:
        return array[:, None]
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _labels(arrays: Labeled, images: int, classes: Sequence[str] | None) -> NDArray[Any]:
    """Labels as one-dimensional integers or text."""
    _, _, name, given = arrays
    array: NDArray[Any] = np.asarray(given)
    came = f"{name} is {array.dtype}, {shape_text(array.shape) or 'a single value'}"
    if array.ndim == 2 and array.shape[1] > 1:
        raise DataError(
            f"{came}: expected one label for each image (from one column for each class: "
            f"{name}.argmax(axis=1))"
        )
    if array.ndim not in (1, 2) or array.dtype.kind not in ("bui" if classes else "buiU"):
        kinds = "integers" if classes else "integers or text"
        raise DataError(f"{came}: expected {kinds}, one for each image")
    array = array.reshape(-1)
    if len(array) > images:
        raise DataError(
            f"{name} has labels without images: {counted(len(array), 'label')}, "
            f"{arrays.image_name} has {counted(images, 'image')}"
        )
    if len(array) < images:
        raise DataError(
            f"{arrays.image_name} has images without labels: {counted(images, 'image')}, "
            f"{name} has {counted(len(array), 'label')}"
        )
    if array.dtype.kind == "U":
        return np.array([class_name(label, name) for label in array.tolist()])
    return array.astype(np.int64)
