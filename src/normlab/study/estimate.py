"""Estimates of a study's time, from a few measured steps."""

from collections.abc import Sequence
from time import perf_counter

import torch

from normlab.data import Dataset
from normlab.inference.evaluate import BATCH, to_input
from normlab.network.model import Network
from normlab.runs import machine
from normlab.runs.isolation import repeatable
from normlab.study.plan import Arm
from normlab.training.batches import Batches
from normlab.training.step import TrainStep

WARM_UP, STEPS = 2, 4
START = 6.0  # seconds to start a process, import torch, and write the run's files


def seconds_of(arm: Arm, dataset: Dataset, device: torch.device) -> float:
    """Estimated time of a run on one thread of this machine.

    Args:
        arm: The run's arm.
        dataset: Its data set, with the splits applied.
        device: The device of the run.
    """
    recipe = arm.recipe
    network = Network(
        arm.config.network,
        norm=arm.norm,
        activation=arm.config.activation,
        classes=len(dataset.classes),
        dropout=recipe.dropout,
        shape=dataset.shape,
    )
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = Batches(dataset, recipe, 0, device)
    train_step = TrainStep(network, recipe, arm.config.precision)
    with repeatable(device):
        for step in range(WARM_UP + STEPS):
            if step == WARM_UP:
                start = perf_counter()
            train_step.step(1e-6, *batches(0, step % batches.steps))
    step_seconds = (perf_counter() - start) / STEPS
    split = dataset.test if dataset.holdout is None else dataset.holdout
    images = to_input(torch.from_numpy(split.images[:BATCH]).to(device))
    with torch.inference_mode():
        network.eval()(images)
        start = perf_counter()
        network(images).sum().item()  # waits for a GPU
    evaluation = (perf_counter() - start) * len(split) / len(images)
    return START + recipe.epochs * (step_seconds * batches.steps + evaluation)


def part(seconds: float, epochs: int, of: int) -> float:
    """Estimated time of a shorter run, from that of a whole run of `of` epochs."""
    return START + (seconds - START) * epochs / of


def workers_for(asked: int | None, device: torch.device) -> int:
    """Number of runs at a time: as asked; else one on a GPU, or one per core if memory allows."""
    if asked is not None:
        return asked
    if device.type != "cpu":
        return 1
    cores, free = machine.cores(), machine.available_memory()
    fit = cores if free is None else free // max(1, machine.peak_memory())
    return max(1, min(cores, fit))


def total(seconds: Sequence[float], workers: int) -> float:
    """Time of all runs, `workers` at a time, each started when another ends."""
    ends = [0.0] * workers
    for each in seconds:
        ends[ends.index(min(ends))] += each
    return max(ends)
