"""Builds the compiled passes at first use, and keeps the library in the user's cache.

The library's name holds two hashes: of what it is built from (the sources, the flags, the compiler,
the machine), so that machines can share a home folder, and of its content, so that a damaged
library is built again instead of loaded.

Where the cache cannot be used, or others can write to it, each process builds the library for
itself. It is never loaded from a folder in which others could have put it. The compilers are tried
in turn. Where none builds it, the package may have one that was built elsewhere.
"""

import ctypes
import os
import platform
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from normlab import programs
from normlab.errors import NormlabError
from normlab.layers.kernels import compilers, prebuilt
from normlab.layers.kernels.compilers import Compiler, output
from normlab.storage.files import locked, user_cache, write_atomically

KEYS = ("model name", "flags", "Features", "CPU ")  # lines of /proc/cpuinfo, on x86 and on ARM
_BUILDING = "building-"  # temporary folders
_OUTSIDE = 65534  # who owns, within a container, what root and others own outside of it


class Passes(NamedTuple):
    """The compiled passes of this process.

    Attributes:
        library: The loaded library; None if there is none.
        reason: Why it is not kept, or not built here, or not there; empty if it is kept.
        origin: The compiler that built it here, or what it was built for elsewhere; `torch`:
            PyTorch's layers are used instead.
        threaded: Whether it can use more than one thread.
    """

    library: ctypes.CDLL | None
    reason: str
    origin: Literal["gcc", "clang", "torch"] | prebuilt.Origin
    threaded: bool

    @property
    def description(self) -> str:
        """What a run records."""
        one_thread = self.library is not None and not self.threaded
        return self.origin + (", one thread" if one_thread else "")


NONE = Passes(None, "", "torch", threaded=False)


@cache
def load() -> Passes:
    """The compiled passes: built here, or else those of the package, or else none."""
    reasons = []
    for program in compilers.find():
        try:
            compiler = compilers.ask(program)
            library, reason = _load_built(compiler)
            return Passes(library, reason, compiler.kind, give_threads(library))
        except (NormlabError, OSError) as error:
            reasons.append(_reason(error))
            if isinstance(error, programs.TooSlowError):
                break
    reason = "; ".join(dict.fromkeys(reasons)) or "there is no gcc or clang"
    for origin, path in prebuilt.find():
        with suppress(OSError):  # for another system
            library = ctypes.CDLL(str(path))
            return Passes(library, reason, origin, give_threads(library))
    return NONE._replace(reason=reason)


def _load_built(compiler: Compiler) -> tuple[ctypes.CDLL, str]:
    """The library that this compiler builds, and why it is not kept (empty if it is)."""
    try:
        return _load_kept(compiler), ""
    except programs.TooSlowError:
        raise
    except (NormlabError, OSError) as error:
        return _load_unkept(compiler), _reason(error)


def give_threads(library: ctypes.CDLL) -> bool:
    """Gives the passes the threads of torch's OpenMP library. False if torch has none.

    It is found among what torch has loaded, because each of torch's builds names its file
    differently.
    """
    loaded = ctypes.CDLL(torch._C.__file__)
    functions = {
        "normlab_parallel": "GOMP_parallel",
        "normlab_thread_number": "omp_get_thread_num",
        "normlab_thread_count": "omp_get_num_threads",
    }
    try:
        found = {place: getattr(loaded, name) for place, name in functions.items()}
    except AttributeError:
        return False
    for place, function in found.items():
        ctypes.c_void_p.in_dll(library, place).value = ctypes.cast(function, ctypes.c_void_p).value
    return True


def _load_kept(compiler: Compiler) -> ctypes.CDLL:
    """The library in the user's cache, built if it is not there yet."""
    cache = user_cache()
    if cache is None:
        raise NormlabError("there is no home folder: set XDG_CACHE_HOME")
    folder = cache / "normlab"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_writable_by_others(folder)
    name = f"kernels-{_origin(compiler)}"
    if (library := _find(folder, name)) is not None:
        return library
    with locked(folder, patience=2 * compilers.TIME_LIMIT) as lock:
        if (library := _find(folder, name)) is not None:  # another process built it meanwhile
            return library
        if lock is not None:  # nobody else is building: a kill left these
            for leftover in folder.glob(f"{_BUILDING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_BUILDING, dir=folder) as building:
            content = compiler.build(building).read_bytes()
        path = folder / compilers.library_name(name, content)
        write_atomically(path, content)
        with suppress(OSError):  # not on every file system
            path.chmod(0o644)  # whatever the umask
        return ctypes.CDLL(str(path))


def _load_unkept(compiler: Compiler) -> ctypes.CDLL:
    """The library of this process alone. Once it is loaded, its file is not needed."""
    with tempfile.TemporaryDirectory(prefix="normlab-", ignore_cleanup_errors=True) as building:
        _refuse_writable_by_others(Path(building))
        return ctypes.CDLL(str(compiler.build(building)))


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
        if path.name == compilers.library_name(name, path.read_bytes()):
            return ctypes.CDLL(str(path))
    return None


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


def _origin(compiler: Compiler) -> str:
    """The hash of what a library is built from."""
    return compilers.hash_sources(*compiler.flags(), _machine(), compiler.version)


def _machine() -> str:
    """What -march=native and the system's libraries depend on."""
    if sys.platform == "darwin":
        processor = output("sysctl", "-n", "machdep.cpu.brand_string")
    elif lines := prebuilt.cpuinfo():
        processor = "\n".join(sorted({line for line in lines if line.startswith(KEYS)}))
    else:
        processor = platform.processor()
    return "\n".join((platform.system(), platform.machine(), *platform.libc_ver(), processor))
