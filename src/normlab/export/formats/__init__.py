"""The export formats: each file in this folder is one, and its name is the format's.

A format's file defines `FORMAT`: a `Format`, a `FolderFormat` if it is several files, or a
`PageFormat` if it takes several runs. Nothing else has to be changed to add one: the command line
lists the files' names, and imports a format (and torch) only when it is used. A format's own
libraries are imported in its functions, which are called once `libraries` has been checked.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from normlab.errors import UsageError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from normlab.export.browser.page import ExportedPage
    from normlab.export.firmware.write import Program
    from normlab.export.program import Pixels, PredictFn
    from normlab.runs.run import Run


@dataclass(frozen=True, kw_only=True)
class Format:
    """An export format.

    Attributes:
        suffix: What its files' names end with, such as `.onnx`.
        libraries: Modules that must be installed; the extra `export` installs them.
        write: From a traced program and metadata to the file's content.
        load: Makes a file's content a function that predicts on the CPU.
        quantize: From a file's content in float32, images to calibrate with and metadata to the
            content in int8; None where the format has no int8.
    """

    suffix: str
    libraries: tuple[str, ...] = ()
    write: "Callable[[ExportedProgram, dict[str, str]], bytes]"
    load: "Callable[[bytes], PredictFn]"
    quantize: "Callable[[bytes, Pixels, dict[str, str]], bytes] | None" = None


class FolderWriter(Protocol):
    """Exports a run to a folder."""

    def __call__(
        self,
        run: "Run",
        folder: Path,
        *,
        float32: bool,
        unproved: bool,
        data_root: Path | None,
    ) -> "Program":
        """Checks the network and writes the files."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderFormat:
    """An export format of several files.

    Attributes:
        write: Checks the network and writes the files.
    """

    write: FolderWriter


@dataclass(frozen=True, kw_only=True)
class PageFormat:
    """An export format that is a page about one run or several.

    Attributes:
        suffix: As in `Format`.
        write: Writes the page about runs to a file; None for its default place.
    """

    suffix: str
    write: "Callable[[Sequence[Run], Path | None], ExportedPage]"


def names() -> tuple[str, ...]:
    """The formats' names, sorted. None of them is imported."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def find(name: str) -> Format | FolderFormat | PageFormat:
    """The format of this name; UsageError where there is none."""
    if name not in names():
        raise UsageError(f"no format {name!r}: there are {', '.join(names())}")
    found: Format | FolderFormat | PageFormat = importlib.import_module(f"{__name__}.{name}").FORMAT
    return found


def file_name(stem: str, to: str, *, int8: bool) -> str:
    """The name of an exported file: `model.onnx`, `model-int8.onnx`; of a folder: `model-c`."""
    found = find(to)
    if isinstance(found, FolderFormat):
        return f"{stem}-{to}"
    return f"{stem}{'-int8' if int8 else ''}{found.suffix}"
