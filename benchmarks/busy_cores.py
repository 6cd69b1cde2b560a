"""Training on busy cores: one thread or two, and how long a thread that waits keeps its core.

    python benchmarks/busy_cores.py [--networks nano micro] [--busy 2] [--spins 0 5000]
        [--repetitions 5] [--out OUT.json]

A training step has hundreds of parallel loops, and between them OpenMP's threads wait. By default
libgomp's wait by spinning (for milliseconds, unless there are more threads than cores), which keeps
a core busy that another process needs. GOMP_SPINCOUNT says how often a thread looks before it
sleeps; it then has to be woken, which takes microseconds. The command `normlab` sets 5000.

Contenders are one thread, two threads with libgomp's default, and two threads with each of the
counts, on the quiet machine and beside `--busy` processes that only compute, each in a session of
its own, like programs in other terminals. Each contender trains the network with its recipe on
CIFAR-10 images from $NORMLAB_DATA in a separate process, in alternating turns of some steps; the
first turn of each is discarded. Ratios are the median over turns.
"""

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial

from common import (
    Training,
    Worker,
    alternate,
    cifar10_part,
    median_ratio,
    medians,
    parser,
    positive,
    report,
    show,
)

from normlab import recipes
from normlab.network import zoo

IMAGES = 12_800  # from the training split
STEPS = 8
BUSY = (sys.executable, "-c", "while True: pass")
SPINS = "GOMP_SPINCOUNT"


def build(network, threads):
    dataset = cifar10_part(IMAGES)
    return Training(zoo.find(network), dataset, recipes.find(network), threads)


def worker(network, threads, spins):
    """A contender's process. libgomp reads the variable when it is loaded."""
    before = os.environ.pop(SPINS, None)
    if spins is not None:
        os.environ[SPINS] = str(spins)
    try:
        return Worker(build, network, threads)
    finally:
        os.environ.pop(SPINS, None)
        if before is not None:
            os.environ[SPINS] = before


@contextmanager
def load(processes):
    """Processes that compute, as long as the context lasts."""
    with ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(subprocess.Popen(BUSY, start_new_session=True))
            stack.callback(process.kill)
        yield


def measure(network, busy, spins, repetitions):
    """Images per second of each contender, without load and with it."""
    contenders = {"one thread": (1, None), "two, default": (2, None)}
    contenders |= {f"two, {count} spins": (2, count) for count in spins}
    workers = {name: worker(network, *of) for name, of in contenders.items()}
    turns = {name: partial(contender, STEPS) for name, contender in workers.items()}
    series = {}
    for processes in (0, busy):
        with load(processes):
            series[processes] = alternate(turns, repetitions)
    for contender in workers.values():
        contender.close()
    return series


def main():
    arguments = parser(__doc__, repetitions=5)
    arguments.add_argument("--networks", nargs="+", default=["nano", "micro"], metavar="NAME")
    arguments.add_argument("--busy", type=positive, default=2, metavar="N", help="busy processes")
    arguments.add_argument("--spins", type=int, nargs="*", default=[0, 5_000])
    options = arguments.parse_args()
    measured = {}
    for network in options.networks:
        series = measure(network, options.busy, options.spins, options.repetitions)
        measured[network] = {str(processes): turns for processes, turns in series.items()}
        rows = []
        for name in series[0]:
            row = [name]
            for turns in series.values():
                row += [
                    f"{medians(turns)[name]:,.0f}",
                    f"{median_ratio(turns[name], turns['two, default']):.2f}",
                    f"{median_ratio(turns[name], turns['one thread']):.2f}",
                ]
            rows.append(tuple(row))
        head = ("images/s", "of two, default", "of one thread")
        show(
            f"{network}: quiet, and beside {options.busy} busy processes",
            ("threads", *head, *head),
            rows,
        )
    report(options.out, images_per_second=measured)


if __name__ == "__main__":
    main()
