"""The parts of a run that are its user's own code, and whether they are trusted."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from normlab import notation
from normlab.errors import RunError


def custom_normalizations(norm: str, line: str) -> list[str]:
    """The network's custom normalizations, each `module:Class`."""
    names = {norm, *(block.norm or "" for block in notation.parse(line))}
    return sorted(name for name in names if ":" in name)


def custom_networks(line: str) -> list[str]:
    """The custom network that a line names, `module:function`; none if it is a layout."""
    return [block.kind for block in notation.parse(line) if block.custom]


@dataclass(frozen=True)
class CustomCode:
    """A part of a run that is the user's own code.

    Attributes:
        what: The kind of part.
        name: Its name, `module:name`.
        variable: The environment variable that says which modules of this kind are trusted.
    """

    what: str
    name: str
    variable: str

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.name.partition(":")[0]


def custom_code(norm: str, line: str) -> list[CustomCode]:
    """The parts of a run that are the user's own code."""
    return [
        *(
            CustomCode("normalization", n, "NORMLAB_NORMS")
            for n in custom_normalizations(norm, line)
        ),
        *(CustomCode("network", name, "NORMLAB_NETWORKS") for name in custom_networks(line)),
    ]


def refuse_untrusted_code(path: Path, norm: str, line: str) -> None:
    """Refuses a custom normalization or network unless its module is trusted.

    A run's folder can come from anyone, and importing a module runs its code. A module is trusted
    if it was imported already, or if the environment names it.

    Raises:
        RunError: With what to do.
    """
    for code in custom_code(norm, line):
        module, variable = code.module, code.variable
        if module not in {*sys.modules, *os.environ.get(variable, "").split()}:
            raise RunError(
                f"{path} names the {code.what} {code.name}, which is code: if you trust the "
                f"module {module} on this machine, put {variable}={module} before the command "
                f"(in Python: import {module})"
            )
