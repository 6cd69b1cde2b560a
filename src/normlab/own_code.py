"""The user's own code, which the command line names `module:name`."""

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from normlab.errors import UsageError
from normlab.garbage import collect_at_exit

REFERENCE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)", re.ASCII)


def import_module(name: str, asked: str) -> ModuleType:
    """Imports a module of the user's: from the Python path or, last, from the working folder.

    Args:
        name: The module.
        asked: What the user asked for, which begins the errors.

    Raises:
        UsageError: It cannot be imported.
    """
    collect_at_exit()
    try:
        with _working_folder_searched():
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{asked}: {error}. Is the file in this folder or on PYTHONPATH?"
        ) from None
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise UsageError(f"{asked}: importing {name} failed: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error raised by the user's code, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def _working_folder_searched() -> Iterator[None]:
    """Searches the working folder for modules, last. Otherwise what lies there must not run."""
    if "" in sys.path:  # as in a notebook
        yield
        return
    sys.path.append("")
    try:
        yield
    finally:
        sys.path.remove("")
