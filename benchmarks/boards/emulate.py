"""Builds an exported C program for an emulated Cortex-M board, and runs it there.

It needs Debian's qemu-system-arm, gcc-arm-none-eabi and libnewlib-arm-none-eabi.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TOOLS = ("arm-none-eabi-gcc", "qemu-system-arm")
BOARDS = {  # by their processor: Cortex-M4, Cortex-M3
    "M4": (
        "mps2-an386",
        ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    ),
    "M3": ("mps2-an385", ("-mcpu=cortex-m3",)),
}
FLAGS = (
    "-std=c99", "-mthumb", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-fno-math-errno",
    "-ffunction-sections", "-fdata-sections",
)  # fmt: skip


@dataclass(frozen=True)
class Measured:
    """What the board computed and what it took.

    Attributes:
        best: The best classes, N.
        logits: int32, N × classes; float32 for a float program.
        scores: int8, N × classes; likewise.
        instructions: Of one call: the mean over the pictures.
        stack: Bytes of stack that a call used, at most.
        flash: Bytes of the program's code and constants, with what it takes from libraries: from
            the linker's map.
        constants: Those of them that are the program's own constants.
        arena: Bytes of its working memory.
    """

    best: np.ndarray
    logits: np.ndarray
    scores: np.ndarray
    instructions: float
    stack: int
    flash: int
    constants: int
    arena: int


def missing() -> str | None:
    """The first tool that is not installed."""
    return next((tool for tool in TOOLS if shutil.which(tool) is None), None)


def emulate(
    name: str,
    files: dict[str, str],
    pixels: np.ndarray,
    board: str,
    optimize: str = "-O2",
    *,
    sources: Sequence[Path] = (),
    flags: Sequence[str] = (),
    stack: int = 2**16,
) -> Measured:
    """Runs a program on pictures, uint8 N × C × H × W.

    Args:
        name: Of its function, as `normlab export --to c` writes it, and of its header.
        files: The names and contents of its header and its C file.
        pixels: The pictures.
        board: One of `BOARDS`.
        optimize: The compiler's level of optimization.
        sources: Another program, which that function calls. Then the C file does not count.
        flags: The compiler's further flags.
        stack: Bytes of the board's stack.

    Raises:
        RuntimeError: It does not compile or run, or takes more instructions than the board counts.
    """
    machine, processor = BOARDS[board]
    header = files[f"{name}.h"]
    classes = int(re.search(r"_CLASSES (\d+)", header)[1])
    real = "float *scores" in header
    with tempfile.TemporaryDirectory() as build:
        common = [*processor, *FLAGS, optimize]
        define = [
            f'-DHEADER="{name}.h"', f"-DARENA={name}_arena", f"-DNAME={name}",
            f"-DCLASSES={classes}", f"-DPIXELS={pixels[0].size}",
            f"-DLOGIT={'float' if real else 'int32_t'}",
            f"-DSCORE={'float' if real else 'int8_t'}",
        ]  # fmt: skip
        for file, text in files.items():
            Path(build, file).write_text(text, encoding="utf-8")
        objects = [f"{Path(file).stem}.o" for file in (f"{name}.c", *sources)]
        gcc(build, *common, *flags, "-c", f"{name}.c", *sources)
        gcc(build, *common, *define, "-I.", "-c", HERE / "board.c", "-o", "board.o")
        gcc(
            build, *common, "-nostartfiles", "-T", HERE / "mps2.ld", "-Wl,--gc-sections",
            "-Wl,-Map=map", f"-Wl,--defsym=stack_size={stack}", "board.o", *objects,
            "-o", "firmware", "-lm",
        )  # fmt: skip
        Path(build, "pictures").write_bytes(pixels.transpose(0, 2, 3, 1).tobytes())
        run(
            build, "qemu-system-arm", "-M", machine, "-nographic", "-monitor", "none",
            "-serial", "none", "-icount", "shift=0", "-kernel", "firmware",
            "-semihosting-config", "enable=on,target=native",
        )  # fmt: skip
        number = "f4" if real else "i4"
        record = np.dtype(
            [
                ("best", "i4"),
                ("logits", number, classes),
                ("scores", "f4" if real else "i1", classes),
                ("instructions", "u4"),
                ("stack", "u4"),
            ]
        )
        results = np.frombuffer(Path(build, "results").read_bytes(), record)
        own = objects[1:] if sources else objects
        flash, constants = _flash(Path(build, "map").read_text(), own, objects)
        symbols = run(build, "arm-none-eabi-nm", "-S", "firmware")
    if len(results) != len(pixels):
        raise RuntimeError(f"{board} classified {len(results)} of {len(pixels)} pictures")
    if not results["instructions"].all():
        raise RuntimeError(f"{board} takes more instructions than its timer counts")
    arena = int(re.search(r"^\w+ (\w+) b arena$", symbols, re.MULTILINE)[1], 16)
    return Measured(
        best=results["best"],
        logits=results["logits"],
        scores=results["scores"],
        instructions=float(results["instructions"].mean()),
        stack=int(results["stack"].max()),
        flash=flash,
        constants=constants,
        arena=arena,
    )


def _flash(text: str, own: list[str], objects: list[str]) -> tuple[int, int]:
    """Bytes in flash of a program's own objects and of libraries, and of its own constants."""
    memory = text.partition("Linker script and memory map")[2]
    found = re.findall(
        r"^ \.(text|rodata|data)(?:\.\S+)?\s+0x\w+\s+0x(\w+) (\S+)$", memory, re.MULTILINE
    )
    others = {"board.o", *objects} - {*own}
    sizes = [(kind, int(size, 16), file) for kind, size, file in found if file not in others]
    constants = sum(size for kind, size, file in sizes if kind != "text" and file in own)
    return sum(size for _, size, _ in sizes), constants


def gcc(build, *arguments) -> None:
    run(build, "arm-none-eabi-gcc", *arguments)


def run(build, *command) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=build, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
