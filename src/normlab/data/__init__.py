"""Data sets in memory, each by its name: `load("cifar10")`. They are defined in `sources`."""

import dataclasses
import difflib
import importlib
from pathlib import Path
from typing import cast

from normlab.config import Channels, DataConfig, RunConfig
from normlab.data import sources
from normlab.data.dataset import Dataset, Split, repeated
from normlab.data.shape import with_shape
from normlab.errors import UsageError
from normlab.storage.records import check_settings
from normlab.wording import counted

__all__ = ["Dataset", "Split", "apply_splits", "load", "load_for", "source_of"]


def load(
    name: str,
    *,
    data_root: Path | None = None,
    split_seed: int = 0,
    skip_unreadable: bool = False,
    size: int = 32,
    channels: Channels = "auto",
) -> Dataset:
    """Loads a data set as uint8 images, N × C × S × S, and int64 labels.

    Its notes say how many test images are training images too, if any are.

    Args:
        name: `cifar10`, `digits` (embedded), or `folder:PATH` with PATH/train/CLASS/*.png.
        data_root: `cifar10`: the folder that holds it; nothing is downloaded then. The default is
            $NORMLAB_DATA (likewise), else the cache folder, else a download. `digits` needs none.
        split_seed: `folder:` without a test folder: seed of the split drawn instead.
        skip_unreadable: `folder:` only: leave out images that cannot be read instead of stopping.
        size: Height and width S of the images, 16 to 128. Images of another size are converted.
        channels: `grey`: C is 1; `colour`: C is 3; `auto`: 1 if no training image has colour.

    Raises:
        UsageError: There is no such data set, or it cannot be loaded with these arguments.
        DataError: The data is missing or malformed.
    """
    check_settings(
        DataConfig(
            dataset=name,
            split_seed=split_seed,
            skip_unreadable=skip_unreadable,
            size=size,
            channels=channels,
        )
    )
    source = source_of(name)
    if source is None:
        raise _unknown(name)
    if skip_unreadable and not source.HAS_IMAGE_FILES:
        raise UsageError(f"{name} has no image files to skip: leave out --skip-unreadable")
    dataset = source.load(
        sources.Request(
            name=name,
            path=name.partition(":")[2],
            data_root=data_root,
            split_seed=split_seed,
            skip_unreadable=skip_unreadable,
            size=size,
            channels=channels,
        )
    )
    dataset = with_shape(dataset, size, channels)
    if known := repeated(dataset.train, dataset.test):
        note = (
            f"{known:,} of {counted(len(dataset.test), 'test image')} "
            f"{'is a training image' if known == 1 else 'are training images'}, too: "
            "test accuracy is higher than on new images"
        )
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    return dataset


def load_for(config: DataConfig, data_root: Path | None) -> Dataset:
    """The whole data set that a configuration names. Raises what `load` raises."""
    return load(
        config.dataset,
        data_root=data_root,
        split_seed=config.split_seed,
        skip_unreadable=config.skip_unreadable,
        size=config.size,
        channels=config.channels,
    )


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
    takes_path = ":" in source.SPELLING
    return source if takes_path == bool(path) and (takes_path or kind == name) else None


def _unknown(name: str) -> UsageError:
    spellings = {kind: _import(kind).SPELLING for kind in sources.names()}
    near = difflib.get_close_matches(name.partition(":")[0].lower(), spellings, n=1)
    hint = f"; did you mean {spellings[near[0]]}?" if near else ""
    return UsageError(f"no data set {name!r}: there are {', '.join(spellings.values())}{hint}")


def _import(kind: str) -> sources.Source:
    """Imports a source only when it is needed: each needs a library that takes time to import."""
    return cast(sources.Source, importlib.import_module(f"normlab.data.sources.{kind}"))
