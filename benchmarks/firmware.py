"""Exported C programs on emulated Cortex-M boards: results, instructions, flash, RAM.

    python benchmarks/firmware.py RUN [RUN ...] [--float] [--pictures 3] [--out OUT.json]

Each run's program is built with arm-none-eabi-gcc (-O2) and run by QEMU on the boards MPS2 AN386
(Cortex-M4) and AN385 (Cortex-M3). On drawn pictures its results must equal those of the NumPy
reference, to the last bit. The table says what one picture takes:

    instructions    counted by QEMU (-icount shift=0), between two readings of the board's timer
    flash           bytes of code, with what is taken from the compiler's libraries, and of weights
                    and tables: from the linker's map
    arena, stack    bytes of RAM; the stack's are those that a call overwrote

and the accuracy on the run's whole test split (of float programs, on 1,000 of its images). It needs
Debian's qemu-system-arm, gcc-arm-none-eabi and libnewlib-arm-none-eabi.
"""

from pathlib import Path

from boards.emulate import BOARDS, emulate, missing
from common import parser, positive, report, show

import normlab
from normlab.export.exporter import CHECK_IMAGES, sample_of
from normlab.export.firmware import emit
from normlab.export.firmware.project import pictures
from normlab.export.firmware.write import firmware_of, memory_of
from normlab.wording import percent


def measure(run, float32, count, data_root):
    """What a run's program takes on each board: records for the file."""
    name = emit.identifier(run.name)
    memory = memory_of(run, float32=float32)
    dataset = run.dataset(data_root)
    firmware = firmware_of(run, name, memory, dataset)
    test = sample_of(dataset.test, CHECK_IMAGES) if float32 else dataset.test
    correct = int((firmware.logits(test.images).argmax(1) == test.labels).sum())
    pixels = pictures(memory.steps[0].source)[:count]
    expected = firmware.logits(pixels)
    files = {f"{name}.h": firmware.source.header, f"{name}.c": firmware.source.program}
    for board in BOARDS:
        found = emulate(name, files, pixels, board)
        equal = (found.logits == expected).all() and (
            found.scores == firmware.scores(expected)
        ).all()
        if not equal or (found.best != expected.argmax(1)).any():
            raise SystemExit(f"{run.path} on {board}: results differ from the reference")
        if (found.arena, found.constants) != (memory.arena, firmware.source.constants):
            raise SystemExit(
                f"{run.path} on {board}: {found.arena} bytes of arena and {found.constants} of "
                f"constants, not {memory.arena} and {firmware.source.constants} as planned"
            )
        yield {
            "run": run.name,
            "layout": run.layout,
            "norm": run.config.norm,
            "numbers": "float32" if float32 else "int8",
            "board": board,
            "instructions": round(found.instructions),
            "code": found.flash - found.constants,
            "constants": found.constants,
            "arena": found.arena,
            "stack": found.stack,
            "test_images": len(test),
            "correct": correct,
        }


def main():
    options = parser(__doc__, repetitions=1)
    options.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="runs' folders")
    options.add_argument("--float", action="store_true", help="programs in single floats")
    options.add_argument("--pictures", type=positive, default=3, metavar="N")
    options.add_argument("--data-root", type=Path, metavar="FOLDER", help="the folder of the data")
    options = options.parse_args()
    if missing():
        raise SystemExit(f"{missing()} is not installed: see the first lines of {__file__}")

    measured = [
        record
        for path in options.runs
        for record in measure(
            normlab.Run.open(path), options.float, options.pictures, options.data_root
        )
    ]
    show(
        "One picture",
        ("", "board", "instructions", "flash", "arena", "stack", "accuracy"),
        [
            (
                f"{m['run']} {m['numbers']}",
                m["board"],
                f"{m['instructions']:,}",
                f"{m['code'] + m['constants']:,}",
                f"{m['arena']:,}",
                f"{m['stack']:,}",
                percent(m["correct"] / m["test_images"], m["test_images"]),
            )
            for m in measured
        ],
    )
    report(options.out, measured=measured)


if __name__ == "__main__":
    main()
