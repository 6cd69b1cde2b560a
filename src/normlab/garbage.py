"""How a process of normlab's own collects garbage."""

import atexit
import gc


def collect_rarely() -> None:
    """Collects garbage less often, and not once more at the process's end.

    Importing torch and drawing pages make hundreds of thousands of objects that last. Python would
    search them again and again, and at the end, when the system takes all memory back anyway:
    benchmarks/commands.py.
    """
    gc.set_threshold(10_000, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)


def collect_at_exit() -> None:
    """Collects at the process's end after all: the user's code may count on it to close a file."""
    atexit.unregister(gc.freeze)
