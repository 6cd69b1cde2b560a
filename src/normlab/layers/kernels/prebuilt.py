"""The compiled passes of a wheel, for machines where no compiler is.

`make wheel` builds a library for each kind of processor; a process loads the one that suits it. A
library's name holds the hashes of its sources and of its content: one of other sources, or a
damaged one, is never loaded.
"""

import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from normlab.layers.kernels import compilers

FOLDER = compilers.FOLDER
CPUINFO = Path("/proc/cpuinfo")
Origin = Literal["prebuilt-x86-64-v4", "prebuilt-x86-64-v3", "prebuilt-arm64"]


class Target(NamedTuple):
    """A kind of processor.

    Attributes:
        machine: What Linux calls its architecture.
        flags: What it must have of the `flags` in /proc/cpuinfo (x86-64 psABI, section 3.1.1).
        compiler: The GCC that compiles for it.
        options: That GCC's flags for it.
    """

    machine: str
    flags: frozenset[str]
    compiler: str
    options: tuple[str, ...]


_V3 = frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"])
TARGETS: dict[Origin, Target] = {  # the best first
    "prebuilt-x86-64-v4": Target(
        "x86_64", _V4, "x86_64-linux-gnu-gcc", ("-march=x86-64-v4", compilers.WIDE)
    ),
    "prebuilt-x86-64-v3": Target("x86_64", _V3, "x86_64-linux-gnu-gcc", ("-march=x86-64-v3",)),
    "prebuilt-arm64": Target("aarch64", frozenset(), "aarch64-linux-gnu-gcc", ("-march=armv8-a",)),
}


def find() -> Iterator[tuple[Origin, Path]]:
    """The intact libraries in this package that this machine can run, the best first."""
    if sys.platform != "linux" or not any(FOLDER.glob("prebuilt-*.so")):
        return
    flags = processor_flags()
    for origin, target in TARGETS.items():
        if target.machine == platform.machine() and target.flags <= flags:
            for path in FOLDER.glob(f"{origin}-*.so"):
                with suppress(OSError):  # it cannot be read
                    if path.name == file_name(origin, path.read_bytes()):
                        yield origin, path


def cpuinfo() -> list[str]:
    """What Linux says of the processors, line by line; nothing where it does not say."""
    with suppress(OSError):
        return CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    return []


def processor_flags() -> set[str]:
    """What Linux says that the processor and the system can do."""
    return {*next((line.split() for line in cpuinfo() if line.startswith("flags")), [])}


def file_name(origin: Origin, content: bytes) -> str:
    """What a library for a kind of processor is called in this package."""
    sources = compilers.hash_sources(*_flags(TARGETS[origin]))
    return compilers.library_name(f"{origin}-{sources}", content)


def build(origin: Origin, folder: Path) -> Path:
    """Compiles the library for a kind of processor into a folder.

    Raises:
        OSError: There is no GCC for it.
        NormlabError: It fails.
    """
    target = TARGETS[origin]
    path = compilers.build(target.compiler, _flags(target), folder / "kernels.so")
    return path.rename(folder / file_name(origin, path.read_bytes()))


def build_all(folder: str) -> None:
    """Compiles the libraries for all kinds of processor into a folder: for `make wheel`."""
    for origin in TARGETS:
        build(origin, Path(folder))


def _flags(target: Target) -> tuple[str, ...]:
    return (*compilers.FLAGS, *compilers.GCC_FLAGS, *target.options)
