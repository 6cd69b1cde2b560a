"""How long a study will take, from a few measured steps."""

from collections.abc import Sequence
from time import perf_counter

import torch

from normlab.data import Dataset
from normlab.inference.evaluate import BATCH, to_input
from normlab.network.model import Network
from normlab.runs import machine
from normlab.study.plan import Arm
from normlab.training.step import Batches, TrainStep

WARM_UP, STEPS = 2, 4
START = 6.0  # seconds to start a process, import torch, and write what is kept of a run


def seconds_of(arm: Arm, dataset: Dataset, device: torch.device) -> float:
    """How long a run of an arm takes on one thread of this machine.

    Args:
        arm: What is run.
        dataset: Its data set, divided.
        device: Where.
    """
    recipe = arm.recipe
    network = Network(
        arm.config.network,
        norm=arm.norm,
        classes=len(dataset.classes),
        dropout=recipe.dropout,
    )
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(dataset, recipe, 0, device)
    descent = TrainStep(network, recipe, arm.config.precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                start = perf_counter()
            descent.step(1e-6, *batches(0, step % batches.steps))
    step_seconds = (perf_counter() - start) / STEPS
    asked = dataset.test if dataset.holdout is None else dataset.holdout
    images = to_input(torch.from_numpy(asked.images[:BATCH]).to(device))
    with torch.inference_mode():
        network.eval()(images)
        start = perf_counter()
        network(images).sum().item()  # which waits for a GPU
    evaluation = (perf_counter() - start) * len(asked) / len(images)
    return START + recipe.epochs * (step_seconds * batches.steps + evaluation)


def part(seconds: float, epochs: int, of: int) -> float:
    """How long a shorter run takes, from what a whole one of so many epochs does."""
    return START + (seconds - START) * epochs / of


def workers_for(asked: int | None, device: torch.device) -> int:
    """How many runs at a time: as asked, else one on a GPU, or one a core, as memory allows."""
    if asked is not None:
        return asked
    if device.type != "cpu":
        return 1
    cores, free = machine.cores(), machine.available_memory()
    fit = cores if free is None else free // max(1, machine.peak_memory())
    return max(1, min(cores, fit))


def total(seconds: Sequence[float], workers: int) -> float:
    """How long runs take, some at a time, each started when another has ended."""
    ends = [0.0] * workers
    for each in seconds:
        ends[ends.index(min(ends))] += each
    return max(ends)
