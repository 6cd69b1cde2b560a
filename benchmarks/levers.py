"""What each lever of accuracy is worth for a named network: held-out accuracy, over seeds.

    python benchmarks/levers.py {line,line-5k,micro,nano} --runs FOLDER --out OUT.json
        [--norms bn ln] [--only TEXT] [--epochs 19] [--seeds 3] [--teacher RUN]

Each lever changes one thing of the network and the settings that were found for the normalization.
Accuracy is on 5,000 images held out of the training split; the test split is not read. Each run
uses one thread, in a separate process, in bfloat16. Runs that OUT.json has are not repeated, and a
run that was stopped is resumed in FOLDER. CIFAR-10 comes from $NORMLAB_DATA.
"""

import argparse
import dataclasses
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest import mock

import torch.nn.functional as F
from common import each_once, mixed_pool, over_seeds, positive, show

import normlab
from normlab import RunConfig, recipes
from normlab.config import Execution
from normlab.errors import DivergedError
from normlab.layers.pooling import MaxPool
from normlab.network import zoo
from normlab.network.summary import summarize

BASE = "as it is"


def gated_pool(x):
    """Maximum or average, as the average says: Lee et al. 2016, section 3.2, with no weights."""
    average = F.avg_pool2d(x, 2)
    return average.lerp(F.max_pool2d(x, 2), average.sigmoid())


POOLING = {"mixed pooling": mixed_pool, "pooling gated by its average": gated_pool}


def levers(network, norm, teacher=None):
    """The configuration with each lever, by name. A lever that changes nothing is left out."""
    found = recipes.resolve(RunConfig(network=network, norm=norm))
    base = RunConfig(
        network=network,
        norm=norm,
        recipe=network,
        untuned=True,  # other normalizations have the same settings
        holdout=5000,
        precision="bfloat16",
        **{setting: getattr(found, setting) for setting in recipes.SETTINGS},
    )
    layout = zoo.find(network)
    changes = {
        BASE: {},
        "hard swish": {"activation": "hard-swish"},
        "SiLU": {"activation": "silu"},
        "GELU": {"activation": "gelu"},
        "PReLU": {"activation": "prelu"},
        "leaky ReLU": {"activation": "leaky"},
        "shift": {"augment": ("shift",)},
        "no shift": {"augment": ()},
        "weight decay 5e-4": {"weight_decay": 5e-4},
        "no weight decay": {"weight_decay": 0.0},
        "label smoothing 0.1": {"label_smoothing": 0.1},
        "no label smoothing": {"label_smoothing": 0.0},
        "RepVGG's branches": {"branches": "repvgg"},
        "ExpandNets": {"branches": "expand"},
    }
    changes["average pooling"] = {"network": re.sub(r"\bP\b", "A", layout)}
    changes.update({pooling: {} for pooling in POOLING})
    if "D" in layout:
        halves = {"network": re.sub(r"(D:\d+)", r"\1a", layout)}
        changes["an activation between the halves of D"] = halves
    if norm in ("gn", "ln"):
        changes["weight standardization"] = {"norm": {"gn": "gn-ws", "ln": "gn-ws=1"}[norm]}
        changes["proxy normalization"] = {"norm": f"proxy-{norm}"}
    if teacher:
        changes["a teacher"] = {"teacher": teacher}
    configs = {name: dataclasses.replace(base, **change) for name, change in changes.items()}
    return {
        name: config
        for name, config in configs.items()
        if name == BASE or name in POOLING or config != base
    }


def run(network, norm, lever, epochs, seed, *, folder, teacher):
    """One run's record: accuracy in percent, None if its loss was not finite; and parameters."""
    config = dataclasses.replace(levers(network, norm, teacher)[lever], epochs=epochs, seed=seed)
    execution = Execution(threads=1, device="cpu")
    key = {"network": network, "norm": norm, "lever": lever, "epochs": epochs, "seed": seed}
    out = folder / re.sub(r"\W+", "-", " ".join(map(str, key.values())))
    pool = POOLING.get(lever)
    try:
        replaced = mock.patch.object(MaxPool, "forward", lambda _, x: pool(x))
        with replaced if pool else nullcontext():
            if not (out / "config.json").exists():
                done = normlab.train(config, out, execution, quiet=True)
            elif not (done := normlab.Run.open(out)).finished:
                done = normlab.resume(out, execution, quiet=True)
    except DivergedError:
        return {**key, "accuracy": None}
    parameters = summarize(done.layout, **done.network_settings).parameters
    return {**key, "accuracy": 100 * done.last.accuracy, "parameters": parameters}


def summary(runs, network, norm, epochs):
    """One row per lever: parameters, mean and spread, and the mean difference from the base."""
    by_lever = {}
    for each in runs:
        if (each["network"], each["norm"], each["epochs"]) == (network, norm, epochs):
            by_lever.setdefault(each["lever"], []).append(each)
    accuracies = {
        lever: {r["seed"]: r["accuracy"] for r in found if r["accuracy"] is not None}
        for lever, found in by_lever.items()
    }
    rows = []
    for lever, found in by_lever.items():
        lost = len(found) - len(accuracies[lever])
        if lost == len(found):
            rows.append((lever, "", "diverged", "", ""))
            continue
        mean, spread, gain = over_seeds(accuracies[lever], accuracies.get(BASE, {}))
        parameters = next(r["parameters"] for r in found if "parameters" in r)
        lost_too = f", {lost} diverged" if lost else ""
        rows.append((lever, f"{parameters:,}", mean, spread + lost_too, gain))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", choices=("line", "line-5k", "micro", "nano"))
    parser.add_argument("--norms", nargs="+", default=["bn", "ln"])
    parser.add_argument("--only", default="", metavar="TEXT", help="levers with this in their name")
    parser.add_argument("--epochs", type=positive, default=19)
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument(
        "--teacher", metavar="RUN", help="a finished run, for the lever `a teacher`"
    )
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="of the runs")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; resumed if it exists")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    wanted = [
        {
            "network": options.network,
            "norm": norm,
            "lever": lever,
            "epochs": options.epochs,
            "seed": seed,
        }
        for seed in range(options.seeds)
        for norm in options.norms
        for lever in levers(options.network, norm, options.teacher)
        if options.only in lever or lever == BASE
    ]
    train = partial(run, folder=options.runs, teacher=options.teacher)
    runs = each_once(train, wanted, options.out, options.workers, teacher=options.teacher)
    for norm in options.norms:
        show(
            f"{options.network} with {norm}: held-out accuracy in percent after "
            f"{options.epochs} epochs",
            ("lever", "parameters", "mean", "spread", "over the base"),
            summary(runs, options.network, norm, options.epochs),
        )


if __name__ == "__main__":
    main()
