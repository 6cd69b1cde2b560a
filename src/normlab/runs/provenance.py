"""What a run's numbers come from: its data, its machines, its teacher, its first weights."""

import re
import reprlib
from dataclasses import dataclass
from typing import Annotated, Any

from normlab.config import TrainingConfig
from normlab.ranges import Count, Positive, Range, Share
from normlab.storage.records import MalformedError, build

KERNELS = re.compile(r"torch|(gcc|clang|compiled|prebuilt-[a-z0-9-]+)(, one thread)?")


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """What a run records of its data.

    Attributes:
        fingerprint: SHA-256 of the pixels and labels, before any hold-out.
        classes: The classes' names.
        train: Number of training images, after any hold-out.
        holdout: Number of images held out of the training split.
        test: Number of test images.
        mean: Mean of each channel of the training images, on the 0–1 scale. The network normalizes
            its input with it.
        std: Standard deviation of each channel, likewise.
        notes: The data set's notes.
        in_order: Whether it is a copy of a published data set with the images in their order.
    """

    fingerprint: str
    classes: tuple[str, ...]
    train: Positive
    holdout: Count
    test: Count
    mean: tuple[Share, ...]
    std: Annotated[tuple[float, ...], Range(above=0, at_most=1)]
    notes: tuple[str, ...] = ()
    in_order: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that computed a part of a run. Numbers differ in the last bits between machines.

    Attributes:
        from_epoch: The first epoch that it computed, from 1.
        processor: Name of the CPU.
        capability: The instruction set that torch uses: `AVX2`, `AVX512`, …
        device: `cpu`, `cuda (NVIDIA H100)`, `mps`.
        threads: torch's CPU threads.
        kernels: `gcc` or `clang` if normlab's compiled passes ran, built there by that compiler;
            `prebuilt-…` if they were a wheel's, for that kind of processor; `, one thread` follows
            where torch had no OpenMP library. `torch` if PyTorch's layers ran instead. Older runs
            have `compiled` for passes that GCC built.
        python: Version of Python.
        torch: Version of torch.
        normlab: Version of normlab.
        processes: Number of processes that shared each batch. A normalization over the batch takes
            its statistics over the shard of its process.
    """

    from_epoch: Positive
    processor: str
    capability: str
    device: str
    threads: Positive
    kernels: str
    python: str
    torch: str
    normlab: str
    processes: Positive = 1


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The network that a run learned from.

    Attributes:
        name: Network, normalization and seed: `micro-bn-0`. For a function, its `module:function`.
        weights: SHA-256 (hex) of its model.safetensors; empty for a function.
        outputs: SHA-256 (hex) of its logits for the training images, as the run used them.
    """

    name: str
    weights: str
    outputs: str


def taught_by(teacher: Teacher, config: TrainingConfig) -> str:
    """A teacher and how it taught, in words."""
    weights = f", SHA-256 of its weights {teacher.weights}" if teacher.weights else ""
    return (
        f"{teacher.name} (--teacher {config.teacher}), weight {config.teacher_weight:g}, "
        f"temperature {config.teacher_temperature:g}{weights}"
    )


@dataclass(frozen=True, kw_only=True)
class Start:
    """The trained network that a run started from.

    Attributes:
        name: Network, normalization and seed: `micro-bn-0`.
        weights: SHA-256 (hex) of its model.safetensors.
        kept: How many parameters the run took from it. A study does not record it: its runs do.
        note: What the run did not take, in words. A study does not record it, either.
    """

    name: str
    weights: str
    kept: Count = 0
    note: str = ""


def started_from(start: Start, config: TrainingConfig) -> str:
    """A start and what was kept of it, in words."""
    kept = f", {start.kept:,} parameters ({start.note})" if start.kept else ""
    return (
        f"{start.name} (--start-from {config.start_from}){kept}, SHA-256 of its weights "
        f"{start.weights}"
    )


def read_machine(content: Any) -> Machine:
    """One of the machines in config.json.

    Raises:
        MalformedError: It is none.
    """
    machine = build(Machine, content)
    if KERNELS.fullmatch(machine.kernels) is None:
        raise MalformedError(f"no kernels are called {reprlib.repr(machine.kernels)}")
    return machine
