"""What another activation costs: a training step of `nano` and `micro` with each, over ReLU's.

    python benchmarks/activations.py [--threads 1] [--repetitions 21] [--out OUT.json]

The steps are those of `normlab train` with the network's own recipe, on CIFAR-10 from
$NORMLAB_DATA. The activations alternate in blocks of a few steps, in one process for each network
and precision. The first block of each is discarded. A ratio is the median of the repetitions'
ratios.
"""

import dataclasses
from functools import partial
from time import perf_counter
from typing import get_args

import numpy as np
import torch
from common import Training, Worker, alternate, median_ratio, parser, positive, report, show

from normlab import data, recipes
from normlab.config import ActivationName
from normlab.data import Split

NETWORKS = ("nano", "micro")
ACTIVATIONS = get_args(ActivationName)
IMAGES = 2_560  # from the training split


class Race:
    """One network with every activation; a call gives the seconds per step of every block."""

    def __init__(self, network, dataset, threads, precision, norm):
        recipe = recipes.find(network)
        self.trainings = {
            name: Training(network, dataset, recipe, threads, precision, norm=norm, activation=name)
            for name in ACTIVATIONS
        }

    def __call__(self, repetitions, steps):
        contenders = {
            name: partial(_seconds, training, steps) for name, training in self.trainings.items()
        }
        return alternate(contenders, repetitions)


def _seconds(training, steps):
    start = perf_counter()
    training(steps)
    return (perf_counter() - start) / steps


def computes_in_bfloat16():
    """Whether the processor has instructions for bfloat16 products."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def main():
    arguments = parser(__doc__, repetitions=21)
    arguments.add_argument(
        "--threads", type=positive, default=1, metavar="N", help="torch's threads; default 1"
    )
    arguments.add_argument(
        "--steps", type=positive, default=5, metavar="N", help="steps per block; default 5"
    )
    arguments.add_argument("--norm", default="bn", help="normalization; default bn")
    options = arguments.parse_args()
    dataset = data.load("cifar10")
    train = Split(dataset.train.images[:IMAGES], dataset.train.labels[:IMAGES])
    dataset = dataclasses.replace(dataset, train=train, test=train.take(np.arange(1)))
    races = []
    for network in NETWORKS:
        for precision in ("float32", *(["bfloat16"] if computes_in_bfloat16() else [])):
            race = (network, dataset, options.threads, precision, options.norm)
            worker = Worker(Race, *race, cores=options.threads)
            seconds = worker(options.repetitions, options.steps)
            worker.close()
            ratios = {name: median_ratio(each, seconds["relu"]) for name, each in seconds.items()}
            races.append(
                {"network": network, "precision": precision, "seconds": seconds, "ratios": ratios}
            )
    show(
        f"A training step's time over ReLU's, {options.norm}, threads {options.threads}",
        ("", *ACTIVATIONS),
        [
            (
                f"{race['network']}, {race['precision']}",
                *(f"{race['ratios'][name]:.2f}" for name in ACTIVATIONS),
            )
            for race in races
        ],
    )
    report(options.out, steps=options.steps, threads=options.threads, races=races)


if __name__ == "__main__":
    main()
