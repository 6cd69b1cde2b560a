"""The data sets, one module each: the module's name is the data set's.

A module defines what `Source` lists. Nothing else has to change to add one.
"""

import pkgutil
from pathlib import Path
from typing import Protocol

from normlab.config import DataConfig
from normlab.data.dataset import Dataset
from normlab.errors import UsageError


class Source(Protocol):
    """A module that defines a data set."""

    SPELLING: str
    """Its name on the command line: `digits`, `folder:PATH`, `cifar100[:coarse]`."""
    PUBLIC: bool
    """Whether its name says what data it is: a folder of that name has other pictures elsewhere."""
    HUB_NAME: str | None
    """The one data set that it is on the Hugging Face Hub, if any."""
    MIRRORABLE: bool
    """Whether a mirrored or flipped image shows the same class."""
    HAS_IMAGE_FILES: bool
    """Whether it reads image files, which `skip_unreadable` may leave out."""
    HAS_COLUMNS: bool
    """Whether `image_column` and `label_column` choose among its columns."""

    def load(self, config: DataConfig, data_root: Path | None) -> Dataset:
        """Loads it as `normlab.data.load` says. Raises UsageError or DataError.

        Images may have another size or number of channels: they are converted afterwards.
        """

    def needs_download(self) -> bool:
        """Whether `load` would download it, without a data root."""


def names() -> list[str]:
    """The data sets' names; no module is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def refuse_data_root(config: DataConfig, data_root: Path | None) -> None:
    """Raises UsageError if there is a data root beside a name that says where the data is."""
    if data_root is not None:
        raise UsageError(f"{config.dataset} says where the pictures are: leave out --data-root")
