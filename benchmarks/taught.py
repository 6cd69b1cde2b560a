"""What learning from a teacher costs: a taught run's time over an untaught one's.

    python benchmarks/taught.py [--teacher micro] [--threads 1] [--repetitions 21] [--out OUT.json]

The steps are those of `normlab train` with the network's own recipe, on CIFAR-10 from
$NORMLAB_DATA; taught and untaught ones alternate in blocks of a few steps, in one process for each
network and precision. The first block of each is discarded. A ratio of steps is the median of the
repetitions' ratios. The teacher computes its outputs once, before training, and a study only once
for all its runs: the seconds of that, for 50,000 images and their mirror images, are measured
apart, with a last column for a single run that pays them all.
"""

from functools import partial
from time import perf_counter

import torch
from common import (
    Training,
    Worker,
    alternate,
    cifar10_part,
    computes_in_bfloat16,
    median_ratio,
    medians,
    parser,
    report,
    seconds_a_step,
    show,
)

from normlab import recipes
from normlab.training import teachers

NETWORKS = ("line-5k", "nano", "line", "micro")
IMAGES = 2_560  # from the training split
WHOLE = 50_000  # its images


class Race:
    """One network, taught and untaught; a call gives the seconds per step of every block."""

    def __init__(self, network, dataset, teacher, threads, precision):
        recipe = recipes.find(network)
        torch.set_num_threads(threads)
        start = perf_counter()
        taught = teachers.find(teacher).teach(
            dataset, held_out=0, split_seed=0, mirror=recipe.mirror, device=torch.device("cpu")
        )
        self.seconds_of_teacher = (perf_counter() - start) * WHOLE / len(dataset.train)
        self.trainings = {
            name: Training(network, each, recipe, threads, precision)
            for name, each in (("untaught", dataset), ("taught", taught))
        }

    def __call__(self, repetitions, steps):
        contenders = {
            name: partial(seconds_a_step, training, steps)
            for name, training in self.trainings.items()
        }
        return alternate(contenders, repetitions), self.seconds_of_teacher


def main():
    arguments = parser(__doc__, repetitions=21, threads=1, steps=5)
    arguments.add_argument("--teacher", default="micro", help="as in normlab train; default micro")
    options = arguments.parse_args()
    dataset = cifar10_part(IMAGES)
    races, rows = [], []
    for network in NETWORKS:
        recipe = recipes.find(network)
        run = recipe.epochs * (WHOLE // recipe.batch_size)  # steps
        for precision in ("float32", *(["bfloat16"] if computes_in_bfloat16() else [])):
            race = (network, dataset, options.teacher, options.threads, precision)
            worker = Worker(Race, *race, cores=options.threads)
            seconds, of_teacher = worker(options.repetitions, options.steps)
            worker.close()
            step = median_ratio(seconds["taught"], seconds["untaught"])
            whole = step + of_teacher / (run * medians(seconds)["untaught"])
            races.append(
                {"network": network, "precision": precision, "seconds": seconds, "step": step}
                | {"seconds_of_teacher": of_teacher, "run": whole}
            )
            rows.append(
                (f"{network}, {precision}", f"{step:.2f}", f"{of_teacher:.0f} s", f"{whole:.2f}")
            )
    show(
        f"A taught run's time over an untaught one's, teacher {options.teacher}, threads "
        f"{options.threads}",
        ("", "steps", "the teacher's outputs", "a single run"),
        rows,
    )
    report(options.out, steps=options.steps, threads=options.threads, races=races)


if __name__ == "__main__":
    main()
