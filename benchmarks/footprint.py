"""The overhead of normlab: start-up times and memory.

    python benchmarks/footprint.py [--repetitions 7] [--out OUT.json]

Each time is the median over the repetitions, each in a new process; the commands alternate. The
time that importing normlab and its training adds to torch's own import is the median of the
differences. Memory is the peak of a process that trains one epoch on CIFAR-10 from $NORMLAB_DATA;
without that variable it is not measured.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial

from common import alternate, medians, parser, report, watched

TRAINING = "import torch, normlab and its training"
COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import normlab": [sys.executable, "-c", "import normlab"],
    TRAINING: [
        sys.executable,
        "-c",
        "import normlab; normlab.train",
    ],
    "normlab --help": [sys.executable, "-m", "normlab", "--help"],
    "normlab train --help": [sys.executable, "-m", "normlab", "train", "--help"],
}


def seconds(command):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def training_memory():
    """Peak resident memory in MB of one epoch of `seed-bn` on CIFAR-10."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "seed-bn", "--epochs", "1", "--out", f"{folder}/run"]
        return watched([sys.executable, "-m", "normlab", *command])[1]


def main():
    options = parser(__doc__, repetitions=7).parse_args()
    commands = {name: partial(seconds, command) for name, command in COMMANDS.items()}
    times = alternate(commands, options.repetitions)  # the first turn fills the disk cache
    median_seconds = medians(times)
    beyond_torch = statistics.median(
        whole - torch_alone
        for whole, torch_alone in zip(times[TRAINING], times["import torch"], strict=True)
    )
    peak = training_memory() if os.environ.get("NORMLAB_DATA") else None
    for name, value in median_seconds.items():
        print(f"{name}: {value:.2f} s")
    print(f"importing beyond torch: {beyond_torch:.2f} s")
    if peak is not None:
        print(f"training on CIFAR-10, peak memory: {peak:.0f} MB")
    report(
        options.out,
        seconds=times,
        median_seconds=median_seconds,
        median_seconds_beyond_torch=beyond_torch,
        training_peak_mb=peak,
    )


if __name__ == "__main__":
    main()
