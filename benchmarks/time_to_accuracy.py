"""How long normlab takes to 70% and to 80% test accuracy on CIFAR-10.

    python benchmarks/time_to_accuracy.py [--seeds 3] [--threads 2] [--precision bfloat16]
        [--reference REFERENCE.json] [--out OUT.json]

The clock starts after the imports, with the extracted binary files on disk, and stops when the
last epoch's evaluation is written: loading, the folder's files and an evaluation of the 10,000
test images after every epoch are in it. Each seed is a process of its own. A run that does not
reach its accuracy counts as not reached, not as a time.

CIFAR-10 comes from $NORMLAB_DATA; where only the archive is there, it is extracted beforehand.
--reference takes what reference_seed.py wrote on the same machine, and adds the ratio.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import positive, report

GOALS = ((0.70, "sprint"), (0.80, "sprint-80"))

CHILD = """
import json, sys, time
import torch
import torch._dynamo  # the first optimizer imports it; here it is one of the imports
import normlab
from normlab.training import train
network, seed, threads, precision, data, out = sys.argv[1:]
config = normlab.RunConfig(network=network, seed=int(seed), precision=precision)
execution = normlab.Execution(data_root=data, threads=int(threads), device="cpu")
start = time.perf_counter()
run = train(config, out, execution, quiet=True)
seconds = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds,
    "epochs": [e.accuracy for e in run.epochs],
    "epoch_seconds": [e.seconds for e in run.epochs],
    "parameters": run.summary.parameters,
    "layout": run.layout,
}))
"""


def extracted(root, folder):
    """The folder with the binary files: as given, or with the archive extracted into `folder`."""
    if list(Path(root).rglob("data_batch_1.bin")):
        return Path(root)
    with tarfile.open(Path(root) / "cifar-10-binary.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return Path(folder)


def measure(network, seed, threads, precision, data):
    """One run of a network with its own recipe, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHILD, network, str(seed), str(threads), precision]
        done = subprocess.run(
            [*command, str(data), f"{folder}/run"], check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--reference", type=Path, help="what reference_seed.py wrote")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    root = os.environ.get("NORMLAB_DATA") or sys.exit("NORMLAB_DATA must name CIFAR-10's folder")
    settings = arguments.threads, arguments.precision
    goals = []
    with tempfile.TemporaryDirectory() as folder:
        data = extracted(root, folder)
        measure("sprint", 0, *settings, data)  # fills the disk's cache, builds the kernels
        for goal, network in GOALS:
            runs = [measure(network, seed, *settings, data) for seed in range(arguments.seeds)]
            # A run that missed the goal is longer than any that reached it.
            times = sorted(r["seconds"] if r["epochs"][-1] >= goal else math.inf for r in runs)
            median = times[len(times) // 2]
            goals.append({"accuracy": goal, "network": network, "median_seconds": median})
            goals[-1]["runs"] = runs
            accuracies = ", ".join(f"{run['epochs'][-1]:.2%}" for run in runs)
            print(f"{goal:.0%} by {network}: {median:.1f} s, median; last epochs {accuracies}")
            if arguments.reference and goal == 0.70:
                reference = json.loads(arguments.reference.read_text())["median_seconds_to_70"]
                goals[-1] |= {"reference_seconds": reference, "ratio": reference / median}
                print(f"the reference: {reference:.0f} s, {reference / median:.0f} times as long")
    report(arguments.out, goals=goals, threads=arguments.threads, precision=arguments.precision)


if __name__ == "__main__":
    main()
