"""Notes on the standard error: what the user should know, and is no error."""

import sys
from contextlib import suppress
from functools import cache

from normlab.errors import printable


def note(text: str) -> None:
    """Prints `note: TEXT` on the standard error."""
    with suppress(OSError, ValueError):  # a closed or full standard error must not end a run
        print(f"note: {printable(text)}", file=sys.stderr)


note_once = cache(note)
"""Prints a note as `note` does, each text once per process."""
