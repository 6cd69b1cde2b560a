"""Compiles a program and runs it on images."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from normlab.errors import NormlabError, printable
from normlab.export.firmware.emit import filled
from normlab.export.firmware.program import Firmware

STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off")
SANITIZED = ("-fsanitize=undefined,address", "-fno-sanitize-recover=all")

_MAIN = """#include "@name@.h"

#include <stdio.h>

int main(void)
{
    static uint8_t pixels[@size@];
    static struct @name@_arena arena;
    @score@ scores[@classes@];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        int32_t best = @name@(pixels, scores, &arena);
        fwrite(&best, sizeof best, 1, stdout);
        fwrite(arena.logits, sizeof arena.logits, 1, stdout);
        fwrite(scores, sizeof scores, 1, stdout);
    }
    return 0;
}
"""


def compiler() -> str | None:
    """The machine's C compiler: $CC, else `cc`, `gcc` or `clang`; None if there is none."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    return None


class Results(NamedTuple):
    """What a program computed.

    Attributes:
        best: The best classes, N.
        logits: int32 (in a float program float32), N × classes.
        scores: int8 (likewise), N × classes.
    """

    best: NDArray[np.int32]
    logits: NDArray[Any]
    scores: NDArray[Any]


def run(
    name: str,
    firmware: Firmware,
    pixels: NDArray[np.uint8],
    *,
    compile_with: str,
    flags: Sequence[str] = SANITIZED,
) -> Results:
    """Compiles a program without warnings, and runs it on images.

    Args:
        name: The program's name.
        firmware: The program.
        pixels: uint8, N × C × H × W.
        compile_with: The compiler.
        flags: Its flags beside the strict ones.

    Raises:
        NormlabError: It does not compile, or a sanitizer stops it.
    """
    classes = firmware.memory.steps[-1].target[0]
    fill = {
        "name": name,
        "size": str(pixels[0].size),
        "classes": str(classes),
        "score": firmware.score,
    }
    files = {
        f"{name}.h": firmware.source.header,
        f"{name}.c": firmware.source.program,
        "main.c": filled(_MAIN, fill),
    }
    with tempfile.TemporaryDirectory() as folder:
        for file, text in files.items():
            Path(folder, file).write_text(text, encoding="utf-8")
        command = [compile_with, *STRICT, *flags, f"{name}.c", "main.c", "-o", "program", "-lm"]
        _run(command, folder, b"", "does not compile")
        content = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).tobytes()
        output = _run([str(Path(folder, "program"))], folder, content, "fails")
    real = firmware.score == "float"
    record = np.dtype(
        [
            ("best", "i4"),
            ("logits", "f4" if real else "i4", classes),
            ("scores", "f4" if real else "i1", classes),
        ]
    )
    results = np.frombuffer(output, record)
    if len(results) != len(pixels):
        raise NormlabError(f"the C program read {len(results)} of {len(pixels)} images")
    return Results(results["best"], results["logits"], results["scores"])


def _run(command: Sequence[str], folder: str, content: bytes, problem: str) -> bytes:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=folder, input=content, capture_output=True, check=False, env=environment
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        wrong = [line for line in lines if re.search("error:|ERROR:", line)] or lines
        wrong = wrong or [f"exit {done.returncode}"]
        raise NormlabError(f"the C program {problem}: {printable(wrong[0])}")
    return done.stdout
