"""A command's process: its standard streams, its errors in one line, its exit code.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 interrupted, 141 the reader has gone.
"""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

from normlab.errors import NormlabError, printable
from normlab.launch import launch_variables
from normlab.notation import LayoutError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def exit_after(command: Callable[[], None]) -> None:
    """Runs a command; exits with its code if that is not 0. Errors of bugs are raised."""
    _open_streams()
    code: str | int | None = None
    try:
        try:
            command()
        except NormlabError as error:
            # A layout's error has a line with a caret; other line breaks come from a name.
            lines = str(error).split("\n") if isinstance(error, LayoutError) else [str(error)]
            say("\n".join(map(printable, lines)))
            code = error.exit_code
        except SystemExit as stop:  # after --help, or an unknown flag
            code = stop.code
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        _close_output()
        sys.exit(141)
    except (KeyboardInterrupt, Exception) as error:
        if _by_interrupt(error):
            say("interrupted")
            sys.exit(130)
        if _out_of_memory(error):
            say("there is too little memory: choose a smaller --batch-size or fewer --workers")
            sys.exit(1)
        if not (isinstance(error, OSError) and error.errno in _FULL and error.filename is None):
            raise
        say(f"the output cannot be written: {error.strerror}")
        _close_output()
        sys.exit(1)
    if code is not None:
        sys.exit(code)


def _open_streams() -> None:
    """Makes the standard streams usable, however this process was started.

    A closed one is replaced by the null device: else the next file that is opened would take its
    place. Output to a full pipe waits for the reader.
    """
    with suppress(OSError):  # no null device, as in a bare container: then no stream is closed
        null = os.open(os.devnull, os.O_RDWR)
        while null <= 2:  # the lowest number that is free
            os.set_inheritable(null, True)
            null = os.open(os.devnull, os.O_RDWR)
        os.close(null)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8")
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8"))
        with suppress(OSError):
            os.set_blocking(number, True)
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) < 20:  # some programs set 0: tables would be empty
        del os.environ["COLUMNS"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # the terminal may be ASCII only


def say(message: str) -> None:
    """Prints a message. A process that a launcher started says which one it is."""
    _, rank = launch_variables()
    with suppress(OSError):  # the standard error cannot be written either
        print(f"normlab: {f'rank {printable(rank)}: ' if rank else ''}{message}", file=sys.stderr)


def show(line: str) -> None:
    """Prints a line that may name a file: a terminal must not obey what its name contains."""
    print(printable(line))


def _close_output() -> None:
    """Keeps Python from flushing the output again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _by_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C caused an error: an import that it interrupts can raise an ImportError."""
    return any(isinstance(cause, KeyboardInterrupt) for cause in _chain(error))


def _out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy or torch could not allocate memory."""
    return any(
        isinstance(cause, MemoryError)
        or "can't allocate memory" in str(cause)
        or "out of memory" in str(cause)
        for cause in _chain(error)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, the one that caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
