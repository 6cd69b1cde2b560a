"""The data sets, one module each: the module's name is the data set's.

A module defines what `Source` lists. Nothing else has to change to add one.
"""

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from normlab.config import Channels
from normlab.data.dataset import Dataset
from normlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of a data set, as in `normlab.data.load`.

    Attributes:
        name: The whole name: `folder:pictures`.
        path: What follows the colon.
        data_root: Where the data is, or None.
        split_seed: Seed of the splits that normlab draws.
        skip_unreadable: Whether to leave out images that cannot be read.
        image_column: The column of a table that has the images, or None.
        label_column: The column that has the labels, or None.
        size: Height and width of the images. A source may return others: `load` converts them.
        channels: `grey`, `colour` or `auto`, likewise.
    """

    name: str
    path: str = ""
    data_root: Path | None = None
    split_seed: int = 0
    skip_unreadable: bool = False
    image_column: str | None = None
    label_column: str | None = None
    size: int = 32
    channels: Channels = "auto"


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

    def load(self, request: Request) -> Dataset:
        """Loads it. Raises UsageError or DataError."""

    def needs_download(self) -> bool:
        """Whether `load` would download it, without a data root."""


def names() -> list[str]:
    """The data sets' names; no module is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def refuse_data_root(request: Request) -> None:
    """Raises UsageError if there is a data root beside a name that says where the data is."""
    if request.data_root is not None:
        raise UsageError(f"{request.name} says where the pictures are: leave out --data-root")
