"""The command `normlab`, and `python -m normlab`."""

import sys

try:
    import os  # as `sys`, Python has imported it already

    try:
        _folder = os.getcwd()  # noqa: PTH109 — pathlib may lie in that folder
    except FileNotFoundError:
        print("normlab: the working folder was deleted: change to another", file=sys.stderr)
        sys.exit(1)
    # Python searches the working folder first for `python -m`, and a stranger may have filled it.
    if not sys.flags.safe_path and sys.path[:1] == [_folder]:
        del sys.path[0]

    import logging
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

    from normlab.garbage import collect_rarely
    from normlab.storage.files import user_cache

    collect_rarely()

    # This process is normlab's own: a backend that the user's environment names is not needed, and
    # matplotlib keeps its files in normlab's cache. Where that cannot be written it says nothing.
    if _cache := user_cache():
        os.environ.setdefault("MPLCONFIGDIR", f"{_cache}/normlab-matplotlib")
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)

    # Threads that wait for others keep their cores, by default for milliseconds, and slow down what
    # else runs there: benchmarks/busy_cores.py. libgomp reads this when torch is imported.
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = "5000"

    from normlab.cli import main
except KeyboardInterrupt:  # during the imports, which take a moment
    print("normlab: interrupted", file=sys.stderr)
    sys.exit(130)

if __name__ == "__main__":
    main()
