"""A data set on disk that several processes read at once, sharing its memory."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from normlab.data.dataset import Dataset, Split, SplitName
from normlab.errors import DataError, NormlabError
from normlab.storage.files import write_atomically

_SPLITS = get_args(SplitName)


def write(dataset: Dataset, folder: Path) -> None:
    """Writes a data set's arrays. `dataset.json` is written last: it marks the folder as complete.

    Raises:
        NormlabError: There is no space, or no permission.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, split in dataset.splits.items():
            _save(folder / f"{name}-images.npy", split.images)
            _save(folder / f"{name}-labels.npy", split.labels)
            if split.taught is not None:
                _save(folder / f"{name}-taught.npy", split.taught)
    except OSError as error:
        raise NormlabError(f"{folder} cannot be written: {error.strerror or error}") from error
    rest = {
        field.name: getattr(dataset, field.name)
        for field in dataclasses.fields(dataset)
        if field.name not in _SPLITS
    }
    write_atomically(folder / "dataset.json", json.dumps(rest))


def _save(path: Path, array: NDArray[Any]) -> None:
    """Writes an array. `np.save` does too, but its error does not say why it wrote only a part."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(array.data)


def read(folder: Path) -> Dataset:
    """Reads the data set in a folder. Its images are mapped, and read from disk when used.

    A change to its arrays is private: it changes neither the files nor other processes' arrays.

    Raises:
        DataError: The folder holds no data set, or a damaged one.
    """
    try:
        rest = json.loads((folder / "dataset.json").read_text())
        splits = {}
        for name in _SPLITS:
            images, labels, taught = (
                folder / f"{name}-{part}.npy" for part in ("images", "labels", "taught")
            )
            if images.exists():
                splits[name] = Split(
                    np.load(images, mmap_mode="c"),
                    np.load(labels),
                    np.load(taught) if taught.exists() else None,
                )
        return Dataset(
            name=rest["name"],
            classes=tuple(rest["classes"]),
            notes=tuple(rest["notes"]),
            fingerprint=rest["fingerprint"],
            teacher=rest["teacher"] and tuple(rest["teacher"]),
            drawn=tuple(rest["drawn"]),
            in_order=rest.get("in_order", False),
            train=splits["train"],
            test=splits["test"],
            holdout=splits.get("holdout"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no data set that can be read: {error}") from None
