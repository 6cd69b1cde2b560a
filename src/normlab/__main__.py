"""The command `normlab`, and `python -m normlab`."""

import os
import signal
import sys
from threading import Timer


def _again(lost: "sys.UnraisableHookArgs") -> None:
    """Sends a Ctrl-C again that came within a callback, where Python swallows what is raised."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


sys.unraisablehook = _again
try:
    from normlab.cli import main
except KeyboardInterrupt:  # while it is imported, which takes a moment: answered as it would
    print("normlab: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
