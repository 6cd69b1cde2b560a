"""Training speed of two versions of normlab, in alternating turns.

    python benchmarks/versions.py BEFORE AFTER [--cases nano:bn:float32 micro:gn:bfloat16 …]
        [--threads 2] [--repetitions 7] [--out OUT.json]

BEFORE and AFTER are checkouts, for example of `git worktree add ../before COMMIT`. A case is a
network, a normalization and a precision. Each version trains each case in a process of its own,
with the network's recipe and batches of 128 CIFAR-10 images from $NORMLAB_DATA, in alternating
turns of some steps, of which the first is discarded. The ratio is the median over turns.
"""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from common import alternate, median_ratio, medians, parser, report, show

CASES = [
    f"{network}:{norm}:{precision}"
    for network in ("nano", "micro", "seed-bn")
    for precision in ("float32", "bfloat16")
    for norm in ("bn", "gn", "ln")
]
STEPS = 20
# Runs in a version's process: it trains the case that each line names.
TRAIN = """
import dataclasses, sys
import numpy as np
from common import Training
from normlab import data, recipes
from normlab.data import Dataset

loaded = data.load("cifar10")
part = loaded.train.take(np.arange(12_800))
dataset = Dataset("cifar10", loaded.classes, part, part.take(np.arange(10)))
threads, steps = map(int, sys.argv[1:])
trainings = {}
for case in map(str.strip, sys.stdin):
    if case not in trainings:
        network, norm, precision = case.split(":")
        name = network if network in recipes.RECIPES else "seed"
        recipe = dataclasses.replace(recipes.find(name), batch_size=128)
        trainings[case] = Training(network, dataset, recipe, threads, precision, norm=norm)
    print(trainings[case](steps), flush=True)
"""


class Version:
    """A checkout's process. A call trains a case for a turn; it returns images per second."""

    def __init__(self, checkout, threads):
        paths = os.pathsep.join(str(checkout.resolve() / part) for part in ("src", "benchmarks"))
        self.process = subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(threads), str(STEPS)],
            env=os.environ | {"PYTHONPATH": paths},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, case):
        self.process.stdin.write(case + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def main():
    arguments = parser(__doc__, repetitions=7, threads=2)
    arguments.add_argument("before", type=Path, metavar="BEFORE")
    arguments.add_argument("after", type=Path, metavar="AFTER")
    arguments.add_argument("--cases", nargs="+", default=CASES, metavar="NETWORK:NORM:PRECISION")
    options = arguments.parse_args()
    versions = {
        name: Version(checkout, options.threads)
        for name, checkout in (("before", options.before), ("after", options.after))
    }
    measured, rows = {}, []
    for case in options.cases:
        turns = {name: partial(version, case) for name, version in versions.items()}
        measured[case] = results = alternate(turns, options.repetitions)
        speeds = medians(results)
        ratios = [b / a for a, b in zip(results["before"], results["after"], strict=True)]
        rows.append(
            (
                case,
                f"{speeds['before']:,.0f}",
                f"{speeds['after']:,.0f}",
                f"{median_ratio(results['after'], results['before']):.2f}",
                f"{min(ratios):.2f} to {max(ratios):.2f}",
            )
        )
    for version in versions.values():
        version.close()
    head = ("case", "before", "after", "ratio", "range of the ratio")
    show(f"images per second, {options.threads} threads", head, rows)
    report(options.out, threads=options.threads, images_per_second=measured)


if __name__ == "__main__":
    main()
