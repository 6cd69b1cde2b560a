"""Notes on the standard error: what normlab cannot guarantee here. Each is printed once."""

import sys
from contextlib import suppress
from functools import cache

from normlab.errors import printable


@cache
def note_once(text: str) -> None:
    """Prints `note: TEXT` on the standard error, once per process."""
    with suppress(OSError, ValueError):  # a closed or full standard error must not end a run
        print(f"note: {printable(text)}", file=sys.stderr)
