"""What another activation costs: a training step of `nano` and `micro` with each, over ReLU's.

    python benchmarks/activations.py [--threads 1] [--repetitions 21] [--out OUT.json]

The steps are those of `normlab train` with the network's own recipe, on CIFAR-10 from
$NORMLAB_DATA. The activations alternate in blocks of a few steps, in one process for each network
and precision. The first block of each is discarded. A ratio is the median of the repetitions'
ratios.
"""

from functools import partial
from typing import get_args

from common import (
    Training,
    Worker,
    alternate,
    cifar10_part,
    computes_in_bfloat16,
    median_ratio,
    parser,
    report,
    seconds_a_step,
    show_ratios,
)

from normlab import recipes
from normlab.config import ActivationName

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
            name: partial(seconds_a_step, training, steps)
            for name, training in self.trainings.items()
        }
        return alternate(contenders, repetitions)


def main():
    arguments = parser(__doc__, repetitions=21, threads=1, steps=5)
    arguments.add_argument("--norm", default="bn", help="normalization; default bn")
    options = arguments.parse_args()
    dataset = cifar10_part(IMAGES)
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
    caption = f"A training step's time over ReLU's, {options.norm}, threads {options.threads}"
    show_ratios(caption, ACTIVATIONS, races)
    report(options.out, steps=options.steps, threads=options.threads, races=races)


if __name__ == "__main__":
    main()
