"""Processor time of short commands in two versions of normlab, in alternating turns.

    python benchmarks/commands.py BEFORE AFTER [--repetitions 7] [--out OUT.json]

BEFORE and AFTER are checkouts, for example of `git worktree add ../before COMMIT`. The commands are
those whose start and end count: a summary, one epoch on the embedded digits with its page, and a
study of six such runs. The ratio is the median over turns.
"""

import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from common import alternate, median_ratio, medians, parser, report, show

DIGITS = ("C:8 P C:16 P C:16 GAP FC", "--dataset", "digits", "--recipe", "demo", "--epochs", "1")
COMMANDS = {
    "summary": ("summary", "nano"),
    "train": ("train", *DIGITS, "--out", "run"),
    "compare": ("compare", *DIGITS, "--norms", "bn", "gn", "ln", "--seeds", "2", "--out", "study"),
}


def children():
    """The processor time of all processes that this one started, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds(checkout, command):
    """The processor time of a command, with all that it starts."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")}
    start = children()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "normlab", *command],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return children() - start


def main():
    arguments = parser(__doc__, repetitions=7)
    arguments.add_argument("before", type=Path, metavar="BEFORE")
    arguments.add_argument("after", type=Path, metavar="AFTER")
    options = arguments.parse_args()
    measured, rows = {}, []
    for name, command in COMMANDS.items():
        turns = {
            version: partial(seconds, getattr(options, version), command)
            for version in ("before", "after")
        }
        measured[name] = results = alternate(turns, options.repetitions)
        middle = medians(results)
        ratio = median_ratio(results["after"], results["before"])
        rows.append((name, f"{middle['before']:.2f}", f"{middle['after']:.2f}", f"{ratio:.2f}"))
    show("seconds of processor time", ("command", "before", "after", "ratio"), rows)
    report(options.out, seconds=measured)


if __name__ == "__main__":
    main()
