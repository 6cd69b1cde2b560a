"""Processor time and memory of short commands in two versions of normlab, in alternating turns.

    python benchmarks/commands.py BEFORE AFTER [--repetitions 7] [--out OUT.json]

BEFORE and AFTER are checkouts, for example of `git worktree add ../before COMMIT`. The commands are
those whose start and end count: a summary, one epoch on the embedded digits with its page, and a
study of six such runs. The ratio is the median over turns.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from common import alternate, median_ratio, medians, parser, report, show, watched

DIGITS = ("C:8 P C:16 P C:16 GAP FC", "--dataset", "digits", "--recipe", "demo", "--epochs", "1")
COMMANDS = {
    "summary": ("summary", "nano"),
    "train": ("train", *DIGITS, "--out", "run"),
    "compare": ("compare", *DIGITS, "--norms", "bn", "gn", "ln", "--seeds", "2", "--out", "study"),
}


def cost(checkout, command):
    """The processor time of a command, in seconds, and its peak memory, in MB."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")}
    with tempfile.TemporaryDirectory() as folder:
        try:
            return watched(
                [sys.executable, "-m", "normlab", *command],
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env=environment,
            )
        except subprocess.CalledProcessError:
            raise SystemExit(f"normlab {' '.join(command)} failed in {checkout}") from None


def main():
    arguments = parser(__doc__, repetitions=7)
    arguments.add_argument("before", type=Path, metavar="BEFORE")
    arguments.add_argument("after", type=Path, metavar="AFTER")
    options = arguments.parse_args()
    measured, rows = {}, []
    for name, command in COMMANDS.items():
        turns = {
            version: partial(cost, getattr(options, version), command)
            for version in ("before", "after")
        }
        costs = alternate(turns, options.repetitions)
        for unit, kind in enumerate(("seconds", "MB")):
            results = {version: [turn[unit] for turn in of] for version, of in costs.items()}
            measured[f"{name}, {kind}"] = results
            middle = medians(results)
            ratio = median_ratio(results["after"], results["before"])
            rows.append((name, kind, *(f"{middle[v]:.2f}" for v in turns), f"{ratio:.2f}"))
    show("commands", ("command", "cost", "before", "after", "ratio"), rows)
    report(options.out, measured=measured)


if __name__ == "__main__":
    main()
