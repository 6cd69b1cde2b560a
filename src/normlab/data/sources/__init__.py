"""The data sets, one module each: the module's name is the data set's.

A module defines

    SPELLING         its name on the command line: `digits`, `folder:PATH`
    PUBLIC_NAME      its name on model cards; None where every user has other data
    HUB_NAME         its name on the Hugging Face Hub, or None
    MIRRORABLE       whether a mirrored image shows the same class
    from_request     loads it

and nothing else has to change to add one.
"""

import pkgutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of a data set, as in `normlab.data.load`.

    Attributes:
        name: The whole name: `folder:pictures`.
        path: What follows the colon.
        data_root: Where the data lies, or None.
        split_seed: Seed of the splits that normlab draws.
        skip_unreadable: Whether to leave out images that cannot be read.
    """

    name: str
    path: str = ""
    data_root: Path | None = None
    split_seed: int = 0
    skip_unreadable: bool = False


def names() -> list[str]:
    """The data sets' names; no module is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))
