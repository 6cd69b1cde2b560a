"""The time to 70% and to 80% test accuracy on CIFAR-10.

    python benchmarks/time_to_accuracy.py [--seeds 3] [--threads 2] [--precision bfloat16]
        [--reference .venv-seed/bin/python] [--out OUT.json]

The clock starts after the imports, with the extracted binary files on disk, and stops when the
evaluation of the last epoch is written. So the time includes loading the data, writing the run's
folder, and evaluating the 10,000 test images after every epoch. Each seed runs in a new process. A
run that does not reach the accuracy has no time; it counts as longer than all others.

CIFAR-10 comes from $NORMLAB_DATA; an archive is extracted beforehand. --reference names the Python
of the environment that `make bench-seed` builds. Then reference_seed.py is measured after the run
of every seed, and the ratio is the median over these pairs.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from common import median_ratio, positive, report

GOALS = (  # an accuracy, and the settings of a run that reaches it
    (0.70, {"network": "sprint"}),
    (0.80, {"network": "sprint", "recipe": "line", "epochs": 8}),
)

CHILD = """
import json, sys, time
from pathlib import Path
import torch
import normlab
from normlab.training.loop import train
settings, seed, threads, precision, data, out = sys.argv[1:]
config = normlab.RunConfig(**json.loads(settings), seed=int(seed), precision=precision)
execution = normlab.Execution(data_root=Path(data), threads=int(threads), device="cpu")
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
    """The folder with the binary files: `root`, or `folder` with the archive extracted into it."""
    if list(Path(root).rglob("data_batch_1.bin")):
        return Path(root)
    with tarfile.open(Path(root) / "cifar-10-binary.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return Path(folder)


def measure(settings, seed, threads, precision, data):
    """Does one run in a new process and returns its measurements."""
    settings = json.dumps(settings)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", CHILD, settings, str(seed), str(threads), precision]
        done = subprocess.run(
            [*command, str(data), f"{folder}/run"], check=True, capture_output=True, text=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def measured_reference(python, data):
    """The output of reference_seed.py for one repetition: machine, versions and times."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reference.json"
        command = [python, Path(__file__).with_name("reference_seed.py"), "--seeds", "1"]
        environment = os.environ | {"NORMLAB_DATA": str(data)}
        subprocess.run(
            [*command, "--out", out], check=True, env=environment, stdout=subprocess.DEVNULL
        )
        return json.loads(out.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--threads", type=positive, default=os.cpu_count())
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--reference", type=Path, help="Python to run reference_seed.py with")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    root = os.environ.get("NORMLAB_DATA") or sys.exit("set NORMLAB_DATA to the folder of CIFAR-10")
    machine = arguments.threads, arguments.precision
    goals = []
    with tempfile.TemporaryDirectory() as folder:
        data = extracted(root, folder)
        measure(GOALS[0][1], 0, *machine, data)  # fills the disk cache, builds the kernels
        for goal, settings in GOALS:
            name = " ".join(map(str, settings.values()))
            runs, references = [], []
            for seed in range(arguments.seeds):
                runs.append(measure(settings, seed, *machine, data))
                if arguments.reference and goal == 0.70:
                    references.append(measured_reference(arguments.reference, data))
            # A run that missed the goal counts as longer than any that reached it.
            times = [r["seconds"] if r["epochs"][-1] >= goal else math.inf for r in runs]
            median = statistics.median_low(times)
            if median == math.inf:
                sys.exit(f"{name} missed {goal:.0%} with most seeds")
            goals.append({"accuracy": goal, **settings, "median_seconds": median})
            goals[-1]["runs"] = runs
            accuracies = ", ".join(f"{run['epochs'][-1]:.2%}" for run in runs)
            print(f"{goal:.0%} with {name}: median {median:.1f} s; final accuracies {accuracies}")
            if references:
                seconds = [reference["median_seconds_to_70"] for reference in references]
                ratio = median_ratio(seconds, times)
                goals[-1] |= {"references": references, "median_ratio": ratio}
                print(
                    f"the reference: {statistics.median(seconds):.0f} s, extrapolated from a "
                    f"part of its training; median of the ratios {ratio:.0f}"
                )
    report(arguments.out, goals=goals, threads=arguments.threads, precision=arguments.precision)


if __name__ == "__main__":
    main()
