"""Initializations of networks without normalization: held-out accuracy, over seeds.

    python benchmarks/without_norm.py --out OUT.json [--networks line-5k nano] [--epochs 4]
        [--rates 0.01 0.02 0.04 0.08] [--seeds 3] [--workers 2]

Four initializations of `none`, each with the same learning rates and otherwise the network's own
recipe:

    skip-init   normlab's: w starts where it preserves the features' scale (He et al. 2015,
                arXiv:1502.01852, section 2.2), and each residual branch is multiplied by a learned
                scale that starts at 0 (De & Smith 2020, arXiv:2002.10444)
    he          without these scales
    shared      without them; w starts L times lower at the end of each of the L residual branches
    small       without them; w starts 100 times lower there: for s > 0, ReLU(s · x) is s · ReLU(x)

Fixup (Zhang et al. 2019, arXiv:1901.09321) is not compared: for a branch of one convolution it
would start with zeros like skip-init, but before the ReLU, where they would stay.

Accuracy is on 5,000 images held out of the training split; the test split is not read. Each run
uses one thread, in a separate process, and stops if its loss is not finite. Runs that OUT.json has
already are not repeated, so the same command resumes an interrupted series. CIFAR-10 comes from
$NORMLAB_DATA.
"""

import argparse
import dataclasses
import math
import statistics
from functools import partial
from itertools import product
from pathlib import Path

import torch
from common import Training, each_once, positive, show

from normlab import recipes
from normlab.data import load
from normlab.errors import DivergedError
from normlab.inference.evaluate import evaluate
from normlab.layers.norms.none import Affine
from normlab.network import zoo
from normlab.training.step import TrainStep

KEY = ("network", "initialization", "rate", "epochs", "seed")


def unchanged(network):
    """Keeps the registry's initialization."""


def unscaled(network, divisor):
    """Removes the branches' scales and divides w at the end of each of the L by divisor(L)."""
    branches = [block for block in network.blocks if getattr(block, "residual", False)]
    ends = [m for block in branches for m in block.norms.modules() if isinstance(m, Affine)]
    for block in branches:
        block.branch_scales = None
    for end in ends:
        end.weight.data /= divisor(len(ends))


INITIALIZATIONS = {
    "skip-init": unchanged,
    "he": partial(unscaled, divisor=lambda _: 1),
    "shared": partial(unscaled, divisor=lambda branches: branches),
    "small": partial(unscaled, divisor=lambda _: 100),
}


class Watched(TrainStep):
    """Raises DivergedError at the first loss that is not finite."""

    def step(self, *batch):
        loss, correct = super().step(*batch)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss}")
        return loss, correct


class Trial(Training):
    """A training with one of the initializations."""

    def __init__(self, network, initialization, recipe, seed):
        dataset = load("cifar10").hold_out(5000, 0)
        super().__init__(network, dataset, recipe, 1, norm="none", seed=seed)
        INITIALIZATIONS[initialization](self.network)
        self.network.to(memory_format=torch.channels_last)
        self.train_step = Watched(self.network, recipe, self.precision)


def run(network, initialization, rate, epochs, seed):
    """Does one run; its record has accuracy in percent, None if the loss was not finite."""
    recipe = dataclasses.replace(recipes.find(network), epochs=epochs, learning_rate=rate)
    trial = Trial(network, initialization, recipe, seed)
    accuracy = None
    try:
        trial(epochs * trial.batches.steps)
        accuracy = 100 * evaluate(trial.network, trial.dataset, "holdout").accuracy
    except DivergedError:
        pass
    key = dict(zip(KEY, (network, initialization, rate, epochs, seed), strict=True))
    return key | {"accuracy": accuracy}


def summary(runs, networks, epochs):
    """One row per network, rate and initialization: mean, spread, how many diverged."""
    results = {}
    for r in sorted(runs, key=lambda r: [r[name] for name in KEY]):
        if r["network"] in networks and r["epochs"] == epochs:
            key = r["network"], r["rate"], r["initialization"]
            results.setdefault(key, []).append(r["accuracy"])
    rows = []
    for (network, rate, initialization), accuracies in sorted(results.items()):
        finite = [accuracy for accuracy in accuracies if accuracy is not None]
        rows.append(
            (
                f"{network}, {initialization}",
                f"{rate:g}",
                f"{statistics.mean(finite):.2f}" if finite else "–",
                f"{statistics.stdev(finite):.2f}" if len(finite) > 1 else "–",
                f"{len(accuracies) - len(finite)} of {len(accuracies)}",
            )
        )
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--networks",
        nargs="+",
        choices=[name for name in zoo.ZOO if name in recipes.RECIPES],
        default=["line-5k", "nano"],
        metavar="NETWORK",
    )
    parser.add_argument("--epochs", type=positive, default=4)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.01, 0.02, 0.04, 0.08])
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; resumed if it exists")
    options = parser.parse_args()
    wanted = [
        dict(zip(KEY, (*key, options.epochs, seed), strict=True))
        for seed in range(options.seeds)
        for key in product(options.networks, INITIALIZATIONS, options.rates)
    ]
    runs = each_once(run, wanted, options.out, options.workers)
    show(
        f"none: held-out accuracy in percent after {options.epochs} epochs",
        ("network, initialization", "learning rate", "mean", "spread", "diverged"),
        summary(runs, options.networks, options.epochs),
    )


if __name__ == "__main__":
    main()
