"""The user's own code, which the command line names `module:name`."""

import difflib
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from normlab.errors import UsageError, one_line
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
        raise UsageError(f"{asked}: importing {name} failed: {described(error)}") from error


def find(reference: str, asked: str, kind: str, fits: Callable[[Any], bool]) -> Any:
    """The function or class that a reference, `module:name`, names. Imports its module.

    Args:
        reference: The reference.
        asked: As in `import_module`.
        kind: What it must be: `function`.
        fits: Whether it is that.

    Raises:
        UsageError: There is no such module, or it has no such thing.
    """
    module_name, _, name = reference.partition(":")
    module = import_module(module_name, asked)
    found = getattr(module, name, None)
    if not fits(found):
        fitting = [other for other, value in vars(module).items() if fits(value)]
        near = difflib.get_close_matches(name, fitting, n=1)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UsageError(f"{asked}: {module_name} has no {kind} {name}{hint}")
    return found


def described(error: BaseException) -> str:
    """An error raised by the user's code, on one line with its type."""
    return f"{type(error).__name__}: {one_line(error)}"


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
