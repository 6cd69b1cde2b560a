"""The command `normlab`, and `python -m normlab`."""

import sys

try:
    import os
    import signal
    from threading import Timer

    def _again(lost: "sys.UnraisableHookArgs") -> None:
        """Sends a Ctrl-C again that came within a callback, where Python swallows it."""
        if issubclass(lost.exc_type, KeyboardInterrupt) and not sys.is_finalizing():
            timer = Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            sys.__unraisablehook__(lost)

    if os.name == "posix":  # elsewhere os.kill ends the process
        sys.unraisablehook = _again

    from normlab.cli import main
except KeyboardInterrupt:  # while it is imported, which takes a moment: answered as it would
    print("normlab: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
