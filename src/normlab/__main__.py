"""The command `normlab`, and `python -m normlab`."""

import sys

try:
    import logging
    import os
    import signal
    from threading import Timer

    def _resend(lost: "sys.UnraisableHookArgs") -> None:
        """Sends Ctrl-C again if it came within a callback, where Python swallows it."""
        if issubclass(lost.exc_type, KeyboardInterrupt) and not sys.is_finalizing():
            timer = Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            timer.start()
        else:
            sys.__unraisablehook__(lost)

    if os.name == "posix":  # elsewhere os.kill ends the process
        sys.unraisablehook = _resend

    # This process is normlab's own: the user's settings for matplotlib do not reach its figures,
    # and matplotlib's files and warnings (where HOME cannot be written) do not reach the user.
    _cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")  # noqa: PTH118
    os.environ["MPLCONFIGDIR"] = os.path.expanduser(  # noqa: PTH111 — it never fails
        os.path.join(_cache, "normlab-matplotlib")  # noqa: PTH118
    )
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

    from normlab.cli import main
except KeyboardInterrupt:  # during the imports, which take a moment
    print("normlab: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
