"""What normlab costs before and beside the work: start-up times and memory.

    python benchmarks/footprint.py [OUT.json]

Each time is the median of seven processes, the commands alternating; what importing normlab and
its training adds to torch's own import is the median of the differences. Memory is the peak of a
process that trains one epoch on CIFAR-10 from $NORMLAB_DATA; without that variable it is left out.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPETITIONS = 7
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


def startup():
    times = {name: [] for name in COMMANDS}
    for _ in range(REPETITIONS + 1):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    return {name: values[1:] for name, values in times.items()}  # the first fills the disk's cache


def training_memory():
    """Peak resident memory in MB of one epoch of `seed-bn` on CIFAR-10."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", "seed-bn", "--epochs", "1", "--out", f"{folder}/run"]
        process = subprocess.Popen(
            [sys.executable, "-m", "normlab", *command], stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"normlab {' '.join(command)} failed")
    return usage.ru_maxrss / (1e3 if platform.system() == "Linux" else 1e6)


def main():
    import torch

    times = startup()
    result = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seconds": times,
        "median_seconds": {name: statistics.median(values) for name, values in times.items()},
        "median_seconds_beyond_torch": statistics.median(
            whole - torch_alone
            for whole, torch_alone in zip(times[TRAINING], times["import torch"], strict=True)
        ),
        "training_peak_mb": training_memory() if os.environ.get("NORMLAB_DATA") else None,
    }
    for name, value in result["median_seconds"].items():
        print(f"{name}: {value:.2f} s")
    print(f"importing beyond torch: {result['median_seconds_beyond_torch']:.2f} s")
    if result["training_peak_mb"] is not None:
        print(f"training on CIFAR-10, peak memory: {result['training_peak_mb']:.0f} MB")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
