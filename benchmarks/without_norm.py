"""With which first weights networks without normalization train: held-out accuracy, over seeds.

    python benchmarks/without_norm.py --out OUT.json [--networks line-5k nano] [--epochs 4]
        [--rates 0.01 0.02 0.04 0.08] [--seeds 3] [--workers 2]

`none` in four ways, each with the same learning rates, in the network's own recipe otherwise:

    skip-init   as normlab has it: w starts at √6, which keeps the features' scale (He et al. 2015,
                arXiv:1502.01852, section 2.2), and each residual branch is multiplied by a learned
                scale that starts at 0 (De & Smith 2020, arXiv:2002.10444)
    he          without these scales
    shared      without them; w starts at √6 / L at the end of each of the L residual branches
    small       without them; w starts at √6 / 100 there: of s > 0, ReLU(s · x) is s · ReLU(x)

Fixup (Zhang et al. 2019, arXiv:1901.09321) of a branch of one convolution would begin with zeros as
skip-init does, but before the ReLU, where they would stay.

5,000 images of the training split are held out to judge by; the test split is not read. A run is on
one thread, in a process of its own, and ends where its loss is not finite. What OUT.json holds
already is not run again, so that what was interrupted goes on. CIFAR-10 comes from $NORMLAB_DATA.
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
from torch import nn

from normlab import recipes
from normlab.data import load
from normlab.errors import DivergedError
from normlab.inference.evaluate import evaluate
from normlab.layers.norms.none import Affine
from normlab.network import zoo
from normlab.training.step import TrainStep

KEY = ("network", "initialization", "rate", "epochs", "seed")


def as_it_is(network):
    """Leaves the registry's first weights."""


def unscaled(network, w):
    """Takes the branches' scales away. w: of L, the first weights at the end of each branch."""
    branches = [block for block in network.blocks if getattr(block, "residual", False)]
    ends = [m for block in branches for m in block.norms.modules() if isinstance(m, Affine)]
    for block in branches:
        block.branch_scales = None
    for end in ends:
        nn.init.constant_(end.weight, w(len(ends)))


INITIALIZATIONS = {
    "skip-init": as_it_is,
    "he": partial(unscaled, w=lambda _: 6**0.5),
    "shared": partial(unscaled, w=lambda branches: 6**0.5 / branches),
    "small": partial(unscaled, w=lambda _: 6**0.5 / 100),
}


class Watched(TrainStep):
    """Ends with the first loss that is not finite."""

    def step(self, rate, inputs, labels):
        loss, correct = super().step(rate, inputs, labels)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss}")
        return loss, correct


class Trial(Training):
    """A training from first weights of its own."""

    def __init__(self, network, initialization, recipe, seed):
        dataset = load("cifar10").hold_out(5000, 0)
        super().__init__(network, dataset, recipe, 1, norm="none", seed=seed)
        INITIALIZATIONS[initialization](self.network)
        self.network.to(memory_format=torch.channels_last)
        self.descent = Watched(self.network, recipe, self.precision)


def run(network, initialization, rate, epochs, seed):
    """One run: accuracy in percent; None where the loss was not finite."""
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
    """A row for each network, rate and first weights: mean, spread, how many diverged."""
    found = {}
    for r in sorted(runs, key=lambda r: [r[name] for name in KEY]):
        if r["network"] in networks and r["epochs"] == epochs:
            key = r["network"], r["rate"], r["initialization"]
            found.setdefault(key, []).append(r["accuracy"])
    rows = []
    for (network, rate, initialization), accuracies in sorted(found.items()):
        known = [accuracy for accuracy in accuracies if accuracy is not None]
        rows.append(
            (
                f"{network}, {initialization}",
                f"{rate:g}",
                f"{statistics.mean(known):.2f}" if known else "–",
                f"{statistics.stdev(known):.2f}" if len(known) > 1 else "–",
                f"{len(accuracies) - len(known)} of {len(accuracies)}",
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
    parser.add_argument("--out", type=Path, required=True, help="JSON file, gone on with")
    options = parser.parse_args()
    wanted = [
        dict(zip(KEY, (*key, options.epochs, seed), strict=True))
        for seed in range(options.seeds)
        for key in product(options.networks, INITIALIZATIONS, options.rates)
    ]
    runs = each_once(run, wanted, options.out, options.workers)
    show(
        f"none: held-out accuracy in percent after {options.epochs} epochs",
        ("network, first weights", "rate", "mean", "spread", "diverged"),
        summary(runs, options.networks, options.epochs),
    )


if __name__ == "__main__":
    main()
