"""How training time and memory scale with images, batch size, width and processes.

    python benchmarks/scaling.py [--threads 2] [--repetitions 3] [--out OUT.json]

Training of `seed-bn` (batch 64, recipe `seed` without augmentation) on CIFAR-10 images from
$NORMLAB_DATA. One thing changes at a time:

    training images   12,500 to 50,000
    batch size        16 to 1,024
    budget            5,000 to 100,000 parameters, from which the layout's widths are solved
    processes         one or two at the same time, with one thread each, like a study's workers

Seconds per 1,000 images are the median over turns of 2,048 images. The points of a series
alternate, and the first turn of each is discarded. Seconds per epoch are extrapolated from that,
without evaluation. Memory is the peak of a process that reads only these images and trains, and the
peak after it has also evaluated a batch of 500. Reading CIFAR-10's archive is excluded
(footprint.py measures a whole `normlab train`).
"""

import dataclasses
import re
import resource
import statistics
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from common import Training, Worker, alternate, parser, report, show

from normlab import data, recipes
from normlab.data import Dataset, Split
from normlab.inference.evaluate import BATCH, evaluate
from normlab.network import zoo

NETWORK = "seed-bn"
RECIPE = dataclasses.replace(recipes.find("seed"), augment=())
OPEN = re.sub(r":\d+", "", zoo.find(NETWORK))  # all widths open, solved from the budget
IMAGES = 2_048  # per turn
SERIES = {
    "images": (12_500, 25_000, 50_000),
    "batch_size": (16, 32, 64, 128, 256, 512, 1_024),
    "budget": (5_000, 12_500, 25_000, 50_000, 100_000),
    "processes": (1, 2),
}


class Point:
    """A point of a series. A call trains a turn, or evaluates a batch; it returns the peak in MB.

    Args:
        folder: Has the files `images` and `labels`. A process reads only the images that it trains
            on, so that its peak memory does not include the others.
        threads: torch's CPU threads.
        images: The number of training images.
        batch_size: The recipe's.
        budget: Parameters for the layout with open widths; None: the network unchanged.
    """

    def __init__(self, folder, threads, images=50_000, batch_size=RECIPE.batch_size, budget=None):
        pixels = np.fromfile(folder / "images", np.uint8, images * 3 * 32 * 32)
        labels = np.fromfile(folder / "labels", np.int64, images)
        train = Split(pixels.reshape(images, 3, 32, 32), labels)
        self.dataset = Dataset(
            name="cifar10",
            classes=tuple(map(str, range(10))),
            train=train,
            test=train.take(np.arange(BATCH)),
        )
        line = NETWORK if budget is None else OPEN
        recipe = dataclasses.replace(RECIPE, batch_size=batch_size)
        self.training = Training(line, self.dataset, recipe, threads, budget=budget)
        self.steps = IMAGES // batch_size

    def __call__(self, evaluation=False):
        if evaluation:
            evaluate(self.training.network, self.dataset)
        else:
            self.training(self.steps)
        return peak_memory()


def peak_memory():
    """The peak memory of this process, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # there, getrusage includes the parent's memory at the fork
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def together(workers):
    """A turn of all workers at the same time: seconds per 1,000 images, and the largest peak."""
    start = perf_counter()
    peaks = [turn.result() for turn in [worker.submit() for worker in workers]]
    return (perf_counter() - start) / (len(workers) * IMAGES) * 1_000, max(peaks)


def measure(name, values, folder, threads, repetitions):
    """The points of one series."""
    if name == "processes":
        pool = [Worker(Point, folder, 1) for _ in range(max(values))]
        workers = {value: pool[:value] for value in values}
    else:
        workers = {
            value: [Worker(partial(Point, **{name: value}), folder, threads)] for value in values
        }
    turns = alternate({v: partial(together, group) for v, group in workers.items()}, repetitions)
    points = []
    for value, group in workers.items():
        seconds, peaks = zip(*turns[value], strict=True)
        images = value if name == "images" else 50_000
        points.append(
            {
                name: value,
                "seconds_per_1000_images": seconds,
                "median_seconds_per_1000_images": statistics.median(seconds),
                "epoch_seconds": statistics.median(seconds) * images / 1_000,
                "peak_mb": peaks[-1],
                "peak_mb_with_evaluation": max(worker(True) for worker in group),
            }
        )
    for worker in {worker for group in workers.values() for worker in group}:
        worker.close()
    return points


def main():
    arguments = parser(__doc__, repetitions=3, threads=2)
    arguments.add_argument(
        "--only",
        choices=SERIES,
        nargs="+",
        default=SERIES,
        metavar="SERIES",
        help=f"some of {', '.join(SERIES)}",
    )
    options = arguments.parse_args()
    train = data.load("cifar10").train
    series = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train.images.tofile(folder / "images")
        train.labels.tofile(folder / "labels")
        for row in options.only:
            series[row] = measure(row, SERIES[row], folder, options.threads, options.repetitions)
            threads = 1 if row == "processes" else options.threads
            show(
                f"{NETWORK}, {threads} thread{'s' * (threads > 1)} per process",
                (
                    row.replace("_", " "),
                    "s/1,000 images",
                    "s/50,000 images in all",
                    "peak MB",
                    "with evaluation",
                ),
                [
                    (
                        f"{point[row]:,}",
                        f"{point['median_seconds_per_1000_images']:.2f}",
                        f"{point['epoch_seconds']:.1f}",
                        f"{point['peak_mb']:,.0f}",
                        f"{point['peak_mb_with_evaluation']:,.0f}",
                    )
                    for point in series[row]
                ],
            )
    report(
        options.out,
        network=NETWORK,
        threads=options.threads,
        images_a_turn=IMAGES,
        series=series,
    )


if __name__ == "__main__":
    main()
