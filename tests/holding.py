"""Commands that stand still at a moment, so that a test can act on them just then."""

import os

# Python imports a module of this name before anything else: in the command, and in what it starts.
SITE = """
import os, select, sys, time
from itertools import count
from pathlib import Path

BEFORE, TURN = os.environ["HOLD_BEFORE"], int(os.environ["HOLD_TURN"])
HELD, RELEASED = (Path(__file__).with_name(name) for name in ("held", "released"))
turns = count(1)
stdin = select.poll()
stdin.register(0, 0)  # asks for nothing: it then tells when the other end was closed

def hold(event, arguments):
    if event != "os.rename" or not os.fspath(arguments[1]).endswith(BEFORE) or next(turns) != TURN:
        return
    (HELD / str(os.getpid())).touch()
    end = time.monotonic() + 600  # the tests may have been killed
    while not RELEASED.exists() and time.monotonic() < end:
        if os.environ["HOLD_STDIN"] and stdin.poll(0):
            break
        time.sleep(0.02)

sys.addaudithook(hold)
"""


def holding(folder, *, before, turn=1, stdin=True):
    """Has processes wait before they rename a file: a run is in its epochs while it waits.

    Args:
        folder: A new one, for `held` and `release`.
        before: The end of the new path, such as `bn-0/checkpoint-before.pt`: written each epoch.
        turn: Which of a process's renamings; 1 is the first.
        stdin: Whether a process goes on, too, once its standard input is closed: of the runs of a
            study it is when the study stops them, or ends.

    Returns:
        What is to be added to their environment.
    """
    (folder / "held").mkdir(parents=True)
    (folder / "sitecustomize.py").write_text(SITE)
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "HOLD_BEFORE": before,
        "HOLD_TURN": str(turn),
        "HOLD_STDIN": "yes" if stdin else "",
    }


def held(folder):
    """The processes that wait, or did."""
    return [int(path.name) for path in (folder / "held").iterdir()]


def release(folder):
    """Has those that wait go on, and those that would."""
    (folder / "released").touch()
