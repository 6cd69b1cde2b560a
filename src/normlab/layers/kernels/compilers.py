"""The compilers that build the passes: GCC and Clang, and the flags of each.

No flag turns on OpenMP: threads.c uses the OpenMP library that torch has loaded.
"""

import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from normlab import programs
from normlab.errors import NormlabError
from normlab.layers.activations import ACTIVATIONS, Activation, CompiledPass

FOLDER = Path(__file__).parent
SOURCES, HEADERS = (tuple(sorted(FOLDER.glob(kind))) for kind in ("*.c", "*.h"))
_PASSES = {a: a.compiled for a in ACTIVATIONS.values() if a.compiled is not None}
ACTIVATION_NUMBERS: dict[Activation | None, int] = {
    activation: number for number, activation in enumerate([None, *_PASSES])
}
"""The activations that the passes know, by their numbers in C; None is no activation."""
_CASES = " ".join(
    f"X(pass, {number}, ({value}), ({gradient}))"
    for number, (value, gradient) in enumerate([CompiledPass("z", "g"), *_PASSES.values()])
)
FLAGS = (
    *("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"),
    f"-DACTIVATIONS(X, pass)={_CASES}",
)
GCC_FLAGS = ("--param=max-unswitch-insns=1000",)  # a loop for maps with a residual, one without
WIDE = "-mprefer-vector-width=512"  # the compilers are shy of them, even where there are some
TIME_LIMIT = 120.0  # seconds for the compiler, which takes a few


class Compiler(NamedTuple):
    """A compiler on this machine.

    Attributes:
        path: The program.
        version: What it says of itself.
    """

    path: str
    version: str

    @property
    def kind(self) -> Literal["gcc", "clang"]:
        """Whose flags it takes. Apple's Clang and Debian's call themselves so, too."""
        return "clang" if "clang version" in self.version else "gcc"

    def flags(self) -> tuple[str, ...]:
        """The flags for this machine's own processor."""
        x86 = platform.machine() == "x86_64"
        native = "-mcpu=native" if self.kind == "clang" and not x86 else "-march=native"
        own = GCC_FLAGS if self.kind == "gcc" else ()
        return (*FLAGS, *own, native, *([WIDE] if x86 else []))

    def build(self, folder: str) -> Path:
        """Compiles the library into a folder, where the compiler's temporary files are, too."""
        return build(self.path, self.flags(), Path(folder) / "kernels.so")


def find() -> Iterator[str]:
    """The paths of the compilers that are here, each once: GCC first, then Clang."""
    found = set()
    for path in filter(None, map(shutil.which, _names())):
        program = os.path.realpath(path)  # `cc` may be `gcc`
        if os.name == "posix" and program not in found:
            found.add(program)
            yield path


def ask(path: str) -> Compiler:
    """The compiler at a path.

    Raises:
        OSError: It cannot be started.
        NormlabError: It does not say its version.
    """
    if sys.platform == "darwin" and Path(path).parent == Path("/usr/bin"):
        output("xcode-select", "-p")  # fails without Apple's tools; clang would ask for them
    return Compiler(path, output(path, "-v"))


def _names() -> Iterator[str]:
    """On macOS `gcc` is Clang, and Homebrew's GCC has its version in its name."""
    if sys.platform != "darwin":
        yield "gcc"
    yield from (f"gcc-{version}" for version in range(20, 8, -1))
    yield "clang"
    yield from (f"clang-{version}" for version in range(25, 10, -1))
    yield "cc"


def build(compiler: str, flags: tuple[str, ...], path: Path) -> Path:
    """Compiles the library."""
    sources = map(str, SOURCES)
    output(compiler, *flags, "-o", str(path), *sources, temporary=str(path.parent))
    return path


def output(*command: str, temporary: str | None = None) -> str:
    """What a command prints.

    Args:
        command: The program and its arguments.
        temporary: The folder for its temporary files.

    Raises:
        OSError: It cannot be started.
        NormlabError: It fails; the message has what it says.
    """
    environment = os.environ | {"LC_ALL": "C"} | ({"TMPDIR": temporary} if temporary else {})
    code, printed = programs.run(command, seconds=TIME_LIMIT, environment=environment)
    if code:
        lines = printed.strip().splitlines()
        said = next((line for line in lines if "error: " in line), lines[-1] if lines else "")
        raise NormlabError(f"{Path(command[0]).name} fails" + (f": {said}" if said else ""))
    return printed


def hash_sources(*others: str) -> str:
    """The hash of the sources and of what else a library depends on."""
    texts = [path.read_text(encoding="utf-8") for path in (*SOURCES, *HEADERS)]
    return short_hash("\n".join((*texts, *others)).encode())


def library_name(name: str, content: bytes) -> str:
    """The file name of a library, which shows whether it is intact."""
    return f"{name}-{short_hash(content)}.so"


def short_hash(content: bytes) -> str:
    """The first 80 bits of the SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()[:20]
