"""Data sets in memory, each by its name: `load("cifar10")`."""

import difflib
from pathlib import Path

from normlab.config import DataConfig, RunConfig
from normlab.data.dataset import Dataset, Split
from normlab.errors import UsageError

__all__ = ["Dataset", "Split", "apply_splits", "load", "load_for"]


def load_for(config: DataConfig, data_root: Path | None) -> Dataset:
    """The data set that a configuration names, whole. Raises what `load` raises."""
    return load(
        config.dataset,
        data_root=data_root,
        split_seed=config.split_seed,
        skip_unreadable=config.skip_unreadable,
    )


def apply_splits(dataset: Dataset, config: RunConfig) -> Dataset:
    """A data set as a run uses it: images held out, a part kept for training, labels made wrong.

    Raises:
        UsageError, DataError: The data set cannot be divided so.
    """
    if config.holdout:
        dataset = dataset.hold_out(config.holdout, config.split_seed)
    if config.train_images is not None:
        dataset = dataset.subset(config.train_images, config.split_seed)
    if config.label_noise:
        dataset = dataset.with_label_noise(config.label_noise, config.split_seed)
    return dataset


def load(
    name: str,
    *,
    data_root: Path | None = None,
    split_seed: int = 0,
    skip_unreadable: bool = False,
) -> Dataset:
    """Loads a data set as uint8 images, N × 3 × 32 × 32, and int64 labels.

    Args:
        name: `cifar10`, `digits` (embedded), or `folder:PATH` with PATH/train/CLASS/*.png.
        data_root: `cifar10`: the folder that holds it; nothing is downloaded then. Default:
            $NORMLAB_DATA (likewise), else the cache folder, else a download. `digits` needs none.
        split_seed: `folder:` without a test folder only: seed of the split drawn instead.
        skip_unreadable: `folder:` only: leave out images that cannot be read instead of stopping.

    Raises:
        UsageError: There is no such data set, it has no files to skip, or PATH is given twice.
        DataError: It is not where it was sought, or is not what it should be.
    """
    if skip_unreadable and name in ("cifar10", "digits"):
        raise UsageError(f"--skip-unreadable is for folder:PATH only: leave it out for {name}")
    # A source is imported when it is asked for: each needs a library that takes time to import.
    if name == "cifar10":
        from normlab.data import cifar10

        return cifar10.load(data_root)
    if name == "digits":
        from normlab.data import digits

        return digits.load()
    kind, _, path = name.partition(":")
    if kind == "folder" and path:
        from normlab.data import folder

        if data_root is not None:
            raise UsageError(f"{name} says where the pictures are: leave out --data-root")
        return folder.load(Path(path), split_seed=split_seed, skip_unreadable=skip_unreadable)
    names = {"cifar10": "cifar10", "digits": "digits", "folder": "folder:PATH"}
    near = difflib.get_close_matches(kind.lower(), names, n=1)
    hint = f"; did you mean {names[near[0]]}?" if near else ""
    raise UsageError(f"no data set {name!r}: there are {', '.join(names.values())}{hint}")
