"""The table of the final runs: test accuracy per network and normalization, mean and spread.

    python benchmarks/accuracy.py results/line-5k results/nano … --out results/accuracy.json

Reads studies (`normlab compare`) and evaluates every network on the test split with flip averaging,
which the studies do not contain. Prints a table in Markdown. CIFAR-10 comes from $NORMLAB_DATA.
"""

import argparse
import json
import statistics
from pathlib import Path

from normlab import evaluate
from normlab.network import zoo
from normlab.runs.run import Run
from normlab.storage.files import write_atomically
from normlab.study.record import Study


def measure(study, arm, datasets):
    """An arm's accuracies per seed, in percent: plain, and with flip averaging."""
    plain, flipped = [], []
    for result in study.of(arm):
        run = Run.open(study.folder(result))
        if run.data.fingerprint not in datasets:
            datasets[run.data.fingerprint] = run.dataset()
        evaluation = evaluate(run.network(), datasets[run.data.fingerprint], tta="flip")
        plain.append(100 * result.accuracies[-1])
        flipped.append(100 * evaluation.accuracy)
    return {
        "network": zoo.short_name(arm.setting.network),
        "norm": arm.norm,
        "parameters": result.parameters,
        "layout": run.layout,
        "accuracies": plain,
        "accuracies_flip": flipped,
    }


def text(values):
    """Mean and standard deviation over the seeds."""
    if len(values) == 1:
        return f"{values[0]:.2f}, one run"
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    datasets, rows = {}, []
    for path in options.studies:
        study = Study.open(path)
        rows += [measure(study, arm, datasets) for arm in study.arms]
    print("| network | norm | parameters | accuracy, % | with flip averaging, % | seeds |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| `{row['network']}` | {row['norm']} | {row['parameters']:,} | "
            f"{text(row['accuracies'])} | {text(row['accuracies_flip'])} | "
            f"{len(row['accuracies'])} |"
        )
    if options.out:
        write_atomically(options.out, json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
