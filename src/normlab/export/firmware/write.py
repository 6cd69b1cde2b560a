"""Exports a run to a folder with a C program, after its proof."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import softmax

from normlab.data import Dataset, Split
from normlab.errors import NormlabError, printable
from normlab.export.exporter import (
    CHECK_IMAGES,
    count_correct,
    eager,
    largest_difference,
    metadata_of,
    predict_in_batches,
    sample_of,
)
from normlab.export.firmware import emit, prove
from normlab.export.firmware.parameters import parameters_of
from normlab.export.firmware.program import Firmware, in_floats, in_integers
from normlab.export.firmware.project import BESIDE, project
from normlab.export.firmware.quantize import CALIBRATION_IMAGES
from normlab.network.memory import Memory, plan, refuse_wide_rows
from normlab.network.steps import network_steps
from normlab.runs.run import Run
from normlab.storage.files import refuse_foreign, refuse_link, write_atomically
from normlab.wording import counted, percent

LOSS = 0.005  # of accuracy, at most
FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Program:
    """A C program that was written, and how it was proved.

    Attributes:
        path: Its folder.
        name: The name of its function and of its files.
        arena: Bytes of its working memory, where a pointer has 4.
        constants: Bytes of its weights and tables.
        proved: Number of images on which the compiled program gave the reference's results, to the
            last bit; 0 if it was written unproved.
        images: Number of test images.
        float_correct: How many of them the trained network classifies correctly.
        correct: How many the program does.
    """

    path: Path
    name: str
    arena: int
    constants: int
    proved: int
    images: int
    float_correct: int
    correct: int

    def __str__(self) -> str:
        proof = (
            f"proved: compiled without warnings, and equal to the reference to the last bit on "
            f"{counted(self.proved, 'image')}"
            if self.proved
            else "not proved: it was not compiled"
        )
        exact, own = (
            percent(n / self.images, self.images) for n in (self.float_correct, self.correct)
        )
        return (
            f"{printable(str(self.path))}: {self.name}.c, {self.name}.h, test.c, Makefile, "
            f"README.md\n"
            f"{self.arena:,} bytes of RAM; {self.constants:,} bytes of flash beside a few kB of "
            "code\n"
            f"{proof}\n"
            f"accuracy on {self.images:,} test images: {exact} in PyTorch, {own} in C"
        )


def export_program(
    run: Run, folder: Path, *, float32: bool, unproved: bool, data_root: Path | None
) -> Program:
    """Writes a run's network as a C program, if its proof succeeds.

    The program is compiled with the machine's compiler, with all warnings as errors and with the
    sanitizers for addresses and undefined behaviour. On 1,000 images (all, where there are fewer)
    its results must equal those of the NumPy reference in every bit. On the test split it must lose
    at most 0.5 points of accuracy, or one image. In floats it must predict the same classes as
    the trained network on those 1,000 images, with probabilities within 1e-5.

    Raises:
        UsageError: The network has a part that has no C, or a file in the folder is not normlab's.
        NormlabError: There is no compiler, or the proof fails: nothing was written.
    """
    refuse_link(folder)
    name = emit.identifier(run.name)
    files = (f"{name}.h", f"{name}.c", *BESIDE)
    for file in files:
        refuse_foreign(folder / file, b"normlab")
    compiler = None if unproved else prove.compiler()
    if compiler is None and not unproved:
        raise NormlabError(
            "there is no C compiler, so the program cannot be proved: install one (cc), or write "
            "it with --unproved"
        )
    memory = memory_of(run, float32=float32)
    network = run.network()
    dataset = run.dataset(data_root, any_copy=True)
    test = dataset.test if len(dataset.test) else dataset.train
    sample = sample_of(test, CHECK_IMAGES)
    firmware = firmware_of(run, name, memory, dataset)
    if float32:
        test = sample  # the reference takes sums one after another, which is slow
        found = softmax(torch.from_numpy(firmware.logits(test.images)), 1).numpy()
        largest_difference(predict_in_batches(eager(network), test.images), found)
    if compiler is not None:
        _prove(name, firmware, sample.images, compiler)
    correct = int((firmware.logits(test.images).argmax(1) == test.labels).sum())
    float_correct = count_correct(eager(network), test)
    _refuse_loss(test, float_correct, correct)
    content = project(name, firmware, run.data.classes)
    for file, body in content.items():
        write_atomically(folder / file, body)
    return Program(
        path=folder,
        name=name,
        arena=memory.arena,
        constants=firmware.source.constants,
        proved=len(sample) if compiler else 0,
        images=len(test),
        float_correct=float_correct,
        correct=correct,
    )


def memory_of(run: Run, *, float32: bool) -> Memory:
    """The memory of a run's program. Raises UsageError where there is none."""
    steps = network_steps(
        run.layout,
        norm=run.config.norm,
        classes=len(run.data.classes),
        activation=run.summary.activation,
        shape=run.config.shape,
    )
    memory = plan(steps, item=FLOAT if float32 else 1)
    refuse_wide_rows(memory)
    return memory


def firmware_of(run: Run, name: str, memory: Memory, dataset: Dataset) -> Firmware:
    """A run's program; its memory says whether it is in floats. Raises what `quantize` raises."""
    parameters = parameters_of(run.network(), memory.steps)
    origin = emit.Origin(name=name, classes=run.data.classes, about=_about(run))
    if memory.item == FLOAT:
        return in_floats(origin, memory, parameters)
    calibration = sample_of(dataset.train, CALIBRATION_IMAGES).images
    return in_integers(origin, memory, parameters, calibration)


def _about(run: Run) -> dict[str, str]:
    """What the program's files say about its origin."""
    metadata = metadata_of(run)
    kept = ("layout", "norm", "activation", "seed", "weights", "fingerprint", "normlab")
    return {key: metadata[key] for key in kept}


def _prove(name: str, firmware: Firmware, pixels: NDArray[np.uint8], compiler: str) -> None:
    """NormlabError if the compiled program gives other results than the reference."""
    expected = firmware.logits(pixels)
    found = prove.run(name, firmware, pixels, compile_with=compiler)
    wrong = (found.logits != expected).any(1)
    wrong |= (found.scores != firmware.scores(expected)).any(1)
    wrong |= found.best != expected.argmax(1)
    if wrong.any():
        raise NormlabError(
            f"the C program differs from its reference on {wrong.sum():,} of {len(wrong):,} "
            "images: nothing was written. Please report this"
        )


def _refuse_loss(test: Split, float_correct: int, correct: int) -> None:
    lost = float_correct - correct
    if lost > max(1, LOSS * len(test)):
        raise NormlabError(
            f"the program loses {counted(lost, 'image')} of {len(test):,} test images "
            f"({percent(float_correct / len(test), len(test))} in PyTorch, "
            f"{percent(correct / len(test), len(test))} in C), more than 0.5 points: nothing was "
            "written. Try --float"
        )
