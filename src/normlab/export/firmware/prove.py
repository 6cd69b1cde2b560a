"""Compiles a program and runs it on images."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from normlab.errors import NormlabError, printable

STRICT = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off")
SANITIZED = ("-g", "-fsanitize=undefined,address", "-fno-sanitize-recover=all")

_MAIN = """#include "@name@.h"

#include <stdio.h>

int main(void)
{
    static uint8_t pixels[@size@];
    static struct @name@_arena arena;
    int8_t scores[@classes@];
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


def run(
    name: str,
    files: Mapping[str, str],
    pixels: NDArray[np.uint8],
    *,
    classes: int,
    compile_with: str,
    flags: Sequence[str] = SANITIZED,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int8]]:
    """Compiles a program without warnings, and runs it on images.

    Args:
        name: The program's name.
        files: NAME.h and NAME.c.
        pixels: uint8, N × C × H × W.
        classes: Number of classes.
        compile_with: The compiler.
        flags: Its flags beside the strict ones.

    Returns:
        The best classes, N; the logits, N × classes; the scores, N × classes.

    Raises:
        NormlabError: It does not compile, or a sanitizer stops it.
    """
    size = pixels[0].size
    main = _MAIN.replace("@name@", name).replace("@size@", str(size))
    with tempfile.TemporaryDirectory() as folder:
        for file, text in {**files, "main.c": main.replace("@classes@", str(classes))}.items():
            Path(folder, file).write_text(text, encoding="utf-8")
        command = [compile_with, *STRICT, *flags, f"{name}.c", "main.c", "-o", "program", "-lm"]
        _run(command, folder, b"", "does not compile")
        content = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).tobytes()
        output = _run([str(Path(folder, "program"))], folder, content, "fails")
    record = np.dtype([("best", "i4"), ("logits", "i4", classes), ("scores", "i1", classes)])
    results = np.frombuffer(output, record)
    if len(results) != len(pixels):
        raise NormlabError(f"the C program read {len(results)} of {len(pixels)} images")
    return results["best"], results["logits"], results["scores"]


def _run(command: Sequence[str], folder: str, content: bytes, problem: str) -> bytes:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0", "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=folder, input=content, capture_output=True, check=False, env=environment
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        wrong = [line for line in lines if "rror" in line] or lines or [f"exit {done.returncode}"]
        raise NormlabError(f"the C program {problem}: {printable(wrong[0])}")
    return done.stdout
