"""Builds the compiled passes at first use, with GCC, and keeps the library in the user's cache.

The library's name holds two hashes: of what it is built from (the sources, the flags, the compiler,
the machine), so that machines can share a home folder, and of its content, so that a damaged
library is built again instead of loaded.

Where the cache cannot be used, or others can write to it, each process builds the library for
itself. It is never loaded from a folder in which others could have put it.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

from normlab import programs
from normlab.errors import NormlabError
from normlab.layers.activations import ACTIVATIONS, Activation, CompiledPass
from normlab.storage.files import locked, user_cache, write_atomically

FOLDER = Path(__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
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
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
    "--param=max-unswitch-insns=1000",  # a loop for maps with a residual, and one without
    f"-DACTIVATIONS(X, pass)={_CASES}",
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
)
CPUINFO = Path("/proc/cpuinfo")
KEYS = ("model name", "flags", "Features", "CPU ")  # lines of /proc/cpuinfo, on x86 and on ARM
TIME_LIMIT = 120.0  # seconds for the compiler, which takes about three
_BUILDING = "building-"  # temporary folders
_OUTSIDE = 65534  # who owns, within a container, what root and others own outside of it


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The compiled passes, and why they are not kept (empty if they are); or None, and why."""
    try:
        compiler = _compiler()
        name = f"kernels-{_origin(compiler)}"
        try:
            return _load_kept(compiler, name), ""
        except programs.TooSlowError:
            raise
        except (NormlabError, OSError) as error:
            return _load_unkept(compiler), _reason(error)
    except (NormlabError, OSError) as error:
        return None, _reason(error)


def _load_kept(compiler: str, name: str) -> ctypes.CDLL:
    """The library in the user's cache, built if it is not there yet."""
    cache = user_cache()
    if cache is None:
        raise NormlabError("there is no home folder: set XDG_CACHE_HOME")
    folder = cache / "normlab"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_writable_by_others(folder)
    if (library := _find(folder, name)) is not None:
        return library
    with locked(folder, patience=2 * TIME_LIMIT) as lock:
        if (library := _find(folder, name)) is not None:  # another process built it meanwhile
            return library
        if lock is not None:  # nobody else is building: a kill left these
            for leftover in folder.glob(f"{_BUILDING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=folder) as building:
            content = _build(compiler, building).read_bytes()
        path = folder / f"{name}-{_hash(content)}.so"
        write_atomically(path, content)
        with suppress(OSError):  # not on every file system
            path.chmod(0o644)  # whatever the umask
        return ctypes.CDLL(str(path))


def _load_unkept(compiler: str) -> ctypes.CDLL:
    """The library of this process alone. Once it is loaded, its file is not needed."""
    with tempfile.TemporaryDirectory(prefix="normlab-", ignore_cleanup_errors=True) as building:
        _refuse_writable_by_others(Path(building))
        return ctypes.CDLL(str(_build(compiler, building)))


def _reason(error: NormlabError | OSError) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return str(error)


def _find(folder: Path, name: str) -> ctypes.CDLL | None:
    """The library that was built before, if it is intact."""
    for path in folder.glob(f"{name}-*.so"):
        if not _is_ours(path.lstat()):  # from a time when others could write to the folder
            continue
        if path.stem == f"{name}-{_hash(path.read_bytes())}":
            return ctypes.CDLL(str(path))
    return None


def _build(compiler: str, folder: str) -> Path:
    """Compiles the library into a folder, where the compiler's temporary files are, too."""
    built = Path(folder) / "kernels.so"
    _output(compiler, *FLAGS, "-o", str(built), *map(str, SOURCES), temporary=folder)
    return built


def _compiler() -> str:
    """GCC. On macOS `gcc` is Clang, and Homebrew's GCC has its version in its name."""
    versions = [f"gcc-{version}" for version in range(20, 8, -1)]
    names = versions if sys.platform == "darwin" else ["gcc", *versions]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None or os.name != "posix":
        raise NormlabError("there is no gcc")
    return compiler


def _output(*command: str, temporary: str | None = None) -> str:
    """What a command prints."""
    environment = os.environ | {"LC_ALL": "C"} | ({"TMPDIR": temporary} if temporary else {})
    code, output = programs.run(command, seconds=TIME_LIMIT, environment=environment)
    if code:
        lines = output.strip().splitlines()
        said = next((line for line in lines if "error: " in line), lines[-1] if lines else "")
        raise NormlabError(f"{Path(command[0]).name} fails" + (f": {said}" if said else ""))
    return output


def _refuse_writable_by_others(folder: Path) -> None:
    """Refuses a folder in which others could put a library, which is code.

    Who can write to a folder above it can put another in its place.
    """
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        status = place.stat()
        above = place != folder
        if status.st_uid not in (0, os.geteuid(), *([_OUTSIDE] if above else [])):
            raise NormlabError(f"{place} belongs to another user: set XDG_CACHE_HOME")
        sticky = above and status.st_mode & stat.S_ISVTX  # only owners rename there
        if _others_can_write(status) and not sticky:
            raise NormlabError(f"other users can write to {place}: set XDG_CACHE_HOME")


def _is_ours(status: os.stat_result) -> bool:
    """Whether a file is one that this user, or root, has written and nobody else can."""
    ours = stat.S_ISREG(status.st_mode) and status.st_uid in (0, os.geteuid())
    return ours and not _others_can_write(status)


def _others_can_write(status: os.stat_result) -> bool:
    """A group counts as others unless it has its owner's number, as private groups do."""
    group = stat.S_IWGRP if status.st_gid != status.st_uid else 0
    return bool(status.st_mode & (stat.S_IWOTH | group))


def _origin(compiler: str) -> str:
    """The hash of what a library is built from."""
    texts = [path.read_text(encoding="utf-8") for path in (*SOURCES, FOLDER / "common.h")]
    return _hash("\n".join((*texts, *FLAGS, _machine(), _output(compiler, "-v"))).encode())


def _machine() -> str:
    """What -march=native and the system's libraries depend on."""
    if sys.platform == "darwin":
        processor = _output("sysctl", "-n", "machdep.cpu.brand_string")
    elif CPUINFO.exists():
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        processor = "\n".join(sorted({line for line in lines if line.startswith(KEYS)}))
    else:
        processor = platform.processor()
    return "\n".join((platform.system(), platform.machine(), *platform.libc_ver(), processor))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]
