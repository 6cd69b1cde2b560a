"""Exported C programs on emulated Cortex-M boards: results, instructions, flash, RAM.

    python benchmarks/firmware.py RUN [RUN ...] [--float] [--norms NORM ...] [--peers]
        [--pictures 3] [--out OUT.json]

Each run's program is built with arm-none-eabi-gcc (-O2) and run by QEMU on the boards MPS2 AN386
(Cortex-M4) and AN385 (Cortex-M3). On drawn pictures its results must equal those of the NumPy
reference, to the last bit. The table says what one picture takes:

    instructions    counted by QEMU (-icount shift=0), between two readings of the board's timer
    flash           bytes of code, with what is taken from the compiler's libraries, and of weights
                    and tables: from the linker's map
    arena, stack    bytes of RAM; the stack's are those that a call overwrote

and the accuracy on the run's whole test split (with `--float`, on 1,000 of its images).

`--norms` adds the first run's layout with other normalizations, untrained: what they cost, which
hardly depends on the weights. `--peers` adds what emx-onnx-cgen and bakenn make of the first run:
`boards/peers.py`. The boards need Debian's qemu-system-arm, gcc-arm-none-eabi and
libnewlib-arm-none-eabi.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from boards.emulate import BOARDS, emulate, missing
from boards.peers import PEERS, NotAvailableError, classify
from common import positive, report, show

import normlab
from normlab.errors import NormlabError
from normlab.export.exporter import CHECK_IMAGES, sample_of
from normlab.export.firmware import emit
from normlab.export.firmware.parameters import parameters_of
from normlab.export.firmware.program import in_floats, in_integers
from normlab.export.firmware.project import pictures
from normlab.export.firmware.write import firmware_of, memory_of
from normlab.network.memory import plan
from normlab.network.model import Network
from normlab.network.steps import network_steps
from normlab.wording import percent


def trained(run, float32, data_root):
    """A run's program, and how many images of how many it classifies correctly."""
    memory = memory_of(run, float32=float32)
    dataset = run.dataset(data_root)
    firmware = firmware_of(run, emit.identifier(run.name), memory, dataset)
    test = sample_of(dataset.test, CHECK_IMAGES) if float32 else dataset.test
    correct = int((firmware.logits(test.images).argmax(1) == test.labels).sum())
    return firmware, {"test_images": len(test), "correct": correct}


def untrained(run, norm, float32):
    """The program of a run's layout with another normalization and the first weights."""
    about = {
        "classes": len(run.data.classes),
        "activation": run.summary.activation,
        "shape": run.config.shape,
    }
    steps = network_steps(run.layout, norm=norm, **about)
    network = Network(run.layout, norm=norm, seed=0, **about).eval()
    origin = emit.Origin(
        name=emit.identifier(run.name), classes=run.data.classes, about={"norm": norm}
    )
    parameters = parameters_of(network, steps)
    if float32:
        return in_floats(origin, plan(steps, item=4), parameters)
    return in_integers(origin, plan(steps), parameters, pictures(steps[0].source))


def measure(name, firmware, count, about):
    """What a program takes on each board: records for the file."""
    memory = firmware.memory
    pixels = pictures(memory.steps[0].source)[:count]
    expected = firmware.logits(pixels)
    files = {f"{name}.h": firmware.source.header, f"{name}.c": firmware.source.program}
    for board in BOARDS:
        found = emulate(name, files, pixels, board)
        equal = (found.logits == expected).all() and (
            found.scores == firmware.scores(expected)
        ).all()
        if not equal or (found.best != expected.argmax(1)).any():
            raise SystemExit(f"{about} on {board}: results differ from the reference")
        if (found.arena, found.constants) != (memory.arena, firmware.source.constants):
            raise SystemExit(
                f"{about} on {board}: {found.arena} bytes of arena and {found.constants} of "
                f"constants, not {memory.arena} and {firmware.source.constants} as planned"
            )
        yield {**about, **_taken(board, found), "arena": found.arena}


def measure_peer(peer, run, count, data_root, folder):
    """What a run's program by another compiler takes on each board that it is for."""
    made = peer(run, folder, data_root)
    shape = run.config.shape
    pixels = pictures(shape)[:count]
    test = run.dataset(data_root).test
    about = {"run": run.name, "layout": run.layout, "norm": run.config.norm, "by": made.title}
    if made.portable:
        best = classify(made, test.images)
        about |= {"test_images": len(test), "correct": int((best == test.labels).sum())}
    expected = made.scores(pixels)
    for board in made.boards:
        found = emulate(
            "peer", made.files, pixels, board,
            sources=made.sources, flags=made.flags, stack=made.stack,
        )  # fmt: skip
        if not np.allclose(found.scores, expected, rtol=0, atol=made.tolerance):
            raise SystemExit(f"{made.title} on {board}: results differ from its own reference")
        yield {
            **about,
            "numbers": made.numbers,
            **_taken(board, found),
            "arena": made.arena,
        }


def _taken(board, found):
    return {
        "board": board,
        "instructions": round(found.instructions),
        "code": found.flash - found.constants,
        "constants": found.constants,
        "stack": found.stack,
    }


def row(record):
    """A record as a row of the table."""
    name = [record["by"]] if "by" in record else [record["run"], record["norm"]]
    accuracy = "–"
    if "correct" in record:
        accuracy = percent(record["correct"] / record["test_images"], record["test_images"])
    return (
        " ".join([*name, record["numbers"]]),
        record["board"],
        f"{record['instructions']:,}",
        f"{record['code'] + record['constants']:,}",
        f"{record['arena']:,}",
        f"{record['stack']:,}",
        accuracy,
    )


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs' folders")
    options.add_argument("--float", action="store_true", help="programs in single floats")
    options.add_argument("--norms", nargs="+", default=[], metavar="NORM", help="untrained, too")
    options.add_argument("--peers", action="store_true", help="other compilers, too")
    options.add_argument("--pictures", type=positive, default=3, metavar="N")
    options.add_argument("--data-root", type=Path, metavar="FOLDER", help="the folder of the data")
    options = options.parse_args()
    if missing():
        raise SystemExit(f"{missing()} is not installed: see the first lines of {__file__}")

    numbers = "float32" if options.float else "int8"
    runs = [normlab.Run.open(path) for path in options.runs]
    measured = []
    for run in runs:
        firmware, accuracy = trained(run, options.float, options.data_root)
        about = {"run": run.name, "layout": run.layout, "norm": run.config.norm}
        about |= {"numbers": numbers, **accuracy}
        measured += measure(emit.identifier(run.name), firmware, options.pictures, about)
    first = runs[0]
    for norm in options.norms:
        about = {"run": first.name, "layout": first.layout, "norm": norm, "numbers": numbers}
        firmware = untrained(first, norm, options.float)
        measured += measure(emit.identifier(first.name), firmware, options.pictures, about)
    for peer in PEERS if options.peers else ():
        try:
            with tempfile.TemporaryDirectory() as folder:
                measured += measure_peer(
                    peer, first, options.pictures, options.data_root, Path(folder)
                )
        except NotAvailableError as error:
            print(f"not available: {error}")
    show(
        "One picture",
        ("", "board", "instructions", "flash", "arena", "stack", "accuracy"),
        [row(record) for record in measured],
    )
    report(options.out, measured=measured)


if __name__ == "__main__":
    try:
        main()
    except NormlabError as error:
        raise SystemExit(str(error)) from None
