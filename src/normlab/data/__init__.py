"""Data sets in memory, each by its name: `load("cifar10")`. They are defined in `sources`."""

import dataclasses
import difflib
import importlib
from pathlib import Path
from typing import TypeVar, cast

from normlab.config import Channels, DataConfig, RunConfig
from normlab.data import sources
from normlab.data.arrays import from_arrays
from normlab.data.dataset import Dataset, Split
from normlab.data.finishing import finished
from normlab.errors import UsageError
from normlab.storage.records import check_settings

__all__ = [
    "Dataset",
    "Split",
    "apply_splits",
    "from_arrays",
    "load",
    "load_for",
    "load_recorded",
    "refuse_unknown",
    "source_of",
    "with_own_holdout",
]

C = TypeVar("C", bound=DataConfig)


def load(
    name: str,
    *,
    data_root: Path | None = None,
    split_seed: int = 0,
    skip_unreadable: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    size: int = 32,
    channels: Channels = "auto",
) -> Dataset:
    """Loads a data set as uint8 images, N × C × S × S, and int64 labels.

    Its notes say how many test images are training images too, if any are.

    Args:
        name: `cifar10`, `cifar100`, `cifar100:coarse`, `digits` (embedded), `folder:PATH`,
            `npz:FILE`, or `hf:OWNER/NAME[:CONFIG]` (Hugging Face).
        data_root: `cifar10`, `cifar100`: the folder that holds it; nothing is downloaded then. The
            default is $NORMLAB_DATA (likewise), else the cache folder, else a download.
        split_seed: Seed of the test split that is drawn where the data has none.
        skip_unreadable: `folder:`, `hf:`: leave out images that cannot be read instead of stopping.
        image_column: `hf:`: the column with the images. None: the only one of that type.
        label_column: `hf:`: the column with the labels. None: the only one of that type.
        size: Height and width S of the images, 16 to 128. Images of another size are converted.
        channels: `grey`: C is 1; `colour`: C is 3; `auto`: 1 if no training image has colour.

    Raises:
        UsageError: There is no such data set, or it cannot be loaded with these arguments.
        DataError: The data is missing or malformed.
    """
    settings = DataConfig(
        dataset=name,
        split_seed=split_seed,
        skip_unreadable=skip_unreadable,
        image_column=image_column,
        label_column=label_column,
        size=size,
        channels=channels,
    )
    return load_for(settings, data_root)


def load_for(config: DataConfig, data_root: Path | None) -> Dataset:
    """The whole data set that a configuration names. Raises what `load` raises."""
    check_settings(config)
    name = config.dataset
    source = refuse_unknown(name)
    if config.skip_unreadable and not source.HAS_IMAGE_FILES:
        raise UsageError(f"{name} has no image files to skip: leave out --skip-unreadable")
    if (config.image_column or config.label_column) and not source.HAS_COLUMNS:
        raise UsageError(f"{name} has no columns: leave out --image-column and --label-column")
    return finished(source.load(config, data_root), config.size, config.channels)


def load_recorded(config: DataConfig, data_root: Path | None) -> Dataset:
    """The whole data set of an older run or study, without images that it did not hold out.

    Args:
        config: Its settings.
        data_root: As in `load`; the new place of data that is named by its place (`folder:PATH`).

    Raises:
        UsageError: As in `load`.
        DataError: As in `load`.
    """
    kind, source = config.kind, source_of(config.dataset)
    if data_root is not None and source is not None and source.SPELLING.startswith(f"{kind}:"):
        config, data_root = dataclasses.replace(config, dataset=f"{kind}:{data_root}"), None
    dataset = load_for(config, data_root)
    return dataset if config.holdout else dataset.without_holdout()


def with_own_holdout(config: C, dataset: Dataset) -> C:
    """The settings of a new run or study, which hold out what the data set brings to choose by."""
    if config.holdout or dataset.holdout is None:
        return config
    return dataclasses.replace(config, holdout=len(dataset.holdout))


def apply_splits(dataset: Dataset, config: RunConfig) -> Dataset:
    """A data set as a run uses it: with hold-out, subset and label noise.

    Raises:
        UsageError, DataError: The data set cannot be split so.
    """
    if config.holdout:
        dataset = dataset.hold_out(config.holdout, config.split_seed)
    if config.train_images is not None:
        dataset = dataset.subset(config.train_images, config.split_seed)
    if config.label_noise:
        dataset = dataset.with_label_noise(config.label_noise, config.split_seed)
    return dataset


def source_of(name: str) -> sources.Source | None:
    """The module that defines a data set; None if there is no such data set."""
    kind, _, path = name.partition(":")
    if kind not in sources.names():
        return None
    source = _import(kind)
    spelling = source.SPELLING.removeprefix(kind)  # "", ":PATH" or "[:coarse]"
    fits = name == kind if not spelling else bool(path) or (spelling[0] == "[" and name == kind)
    return source if fits else None


def refuse_unknown(name: str) -> sources.Source:
    """The module that defines a data set; UsageError if there is no such data set."""
    if source := source_of(name):
        return source
    spellings = {kind: _import(kind).SPELLING for kind in sources.names()}
    near = difflib.get_close_matches(name.partition(":")[0].lower(), spellings, n=1)
    hint = f"; did you mean {spellings[near[0]]}?" if near else ""
    raise UsageError(f"no data set {name!r}: there are {', '.join(spellings.values())}{hint}")


def _import(kind: str) -> sources.Source:
    """Imports a source only when it is needed: each needs a library that takes time to import."""
    return cast(sources.Source, importlib.import_module(f"normlab.data.sources.{kind}"))
