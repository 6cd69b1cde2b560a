"""Files written whole or not at all, and folders locked by one process.

Some file systems, such as those of networks and virtual machines, sync no folders or have no locks.
normlab works there too; a note says which guarantee is missing.
"""

import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from normlab.errors import NormlabError, RunError, UsageError
from normlab.notes import note_once
from normlab.storage.reading import open_regular

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NEAR = 2**15  # bytes
# What file systems answer to what they do not offer. A failing disk answers otherwise (EIO).
_NOT_OFFERED = {
    *(errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK),
    *(errno.EBADF, errno.EPERM, errno.EACCES),  # EBADF: a lock of NFS on a folder
}


def write_atomically(path: Path, content: bytes | str, *, previous: Path | None = None) -> None:
    """Writes a file so that a reader finds the old content or the new one, never a part.

    Args:
        path: The file. Its folder is created if it is missing.
        content: Bytes, or text, which is written as UTF-8.
        previous: New name for the old file; None deletes it. With one, a kill between the two
            renames leaves the old content under this name alone.

    Raises:
        NormlabError: The file cannot be written (no space, no permission); the old one is intact.
    """
    temporary = path.with_name(f".{path.stem}-{os.urandom(4).hex()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            _sync(file.fileno())
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise NormlabError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # it has its final name, or was never made
            temporary.unlink()


def append(path: Path, text: str) -> None:
    """Appends text to a file, as UTF-8. It is on disk when this returns.

    Raises:
        NormlabError: It cannot be written. A part of the text may be in the file then.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            _sync(file.fileno())
    except OSError as error:
        raise NormlabError(f"{path} cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, so that its new names survive a crash. Windows cannot open folders."""
    if os.name != "posix":
        return
    with _best_effort("it may lose the newest files in a power failure"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            _sync(handle)
        finally:
            os.close(handle)


def _sync(handle: int) -> None:
    """Has the disk store a file or folder."""
    with _best_effort("it may lose the newest files in a power failure"):
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is not None:  # macOS: fsync alone leaves the data in the disk's cache
            with suppress(OSError):  # not on every file system
                fcntl.fcntl(handle, full)
                return
        os.fsync(handle)


@contextmanager
def _best_effort(consequence: str) -> Iterator[None]:
    """Notes the consequence if the file system does not offer what is asked of it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_OFFERED:
            raise
        note_once(f"this file system lacks a guarantee ({error.strerror}): {consequence}")


def user_cache() -> Path | None:
    """The user's folder for caches; None if there is no home folder.

    A relative $XDG_CACHE_HOME is ignored, as its specification says.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        with suppress(RuntimeError):  # there is no home folder
            base = Path.home() / ".cache"
    return base if base.is_absolute() else None


def refuse_link(folder: Path) -> None:
    """Refuses a symbolic link in place of a folder whose files normlab overwrites or deletes.

    Raises:
        NormlabError: It is one. Where it points to, files are not normlab's.
    """
    if os.path.islink(folder):  # noqa: PTH114 — the folder that holds it may not be readable
        raise NormlabError(f"{folder} is a symbolic link, and normlab would write there: delete it")


def refuse_foreign(path: Path, mark: bytes, problem: str = "normlab did not write it") -> None:
    """Refuses to overwrite a file that normlab did not write.

    Args:
        path: The file; there may be none.
        mark: What the files of this kind that normlab writes have near their begin or end.
        problem: What is wrong with a file that lacks it.

    Raises:
        UsageError: There is another file, or something that is no file.
    """
    if not os.path.lexists(path):
        return
    with suppress(OSError), open_regular(path) as file:  # it may be a folder, a device, unreadable
        size = os.fstat(file.fileno()).st_size
        ends = file.read(_NEAR)
        file.seek(max(0, size - _NEAR))
        ends += file.read(_NEAR)
        if mark in ends:
            return
    raise UsageError(f"{path} already exists, and {problem}: delete it, or choose another --out")


def exists(path: Path) -> bool:
    """Whether a file exists; NormlabError if its folder may not be read."""
    try:
        return path.exists()
    except OSError as error:
        raise NormlabError(f"{path.parent} cannot be read: {error.strerror}") from None


def leftovers(path: Path) -> Iterator[Path]:
    """Temporary files of `write_atomically`: left by a kill, or being written now."""
    return path.parent.glob(f".{path.stem}-{8 * '[0-9a-f]'}{path.suffix}")


def remove_leftovers(path: Path) -> None:
    """Deletes the temporary files of `write_atomically` that a kill left.

    No other process may be writing the file: the caller holds the folder's lock.
    """
    for temporary in leftovers(path):
        temporary.unlink(missing_ok=True)


_held: set[tuple[Path, int]] = set()  # locks of this process: folder and thread


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[int | None]:
    """Locks a folder for this process. The folder is created if it is missing.

    Args:
        folder: The folder.
        patience: Seconds to wait for another process to release it.

    Yields:
        The lock's file descriptor: a process that inherits it holds the lock too. None if the
        file system has no locks, which a note says, or if this thread holds the lock already.

    Raises:
        UsageError: This is Windows.
        NormlabError: The folder cannot be created or read.
        RunError: Another process or thread holds the lock.
    """
    if fcntl is None:
        raise UsageError(
            "normlab does not train on Windows, which lacks the locks and signals that keep runs "
            "safe: use WSL, where it does"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NormlabError(f"{folder} cannot be written: {error.strerror}") from error
    key = folder.resolve(), threading.get_ident()
    if key in _held:
        yield None
        return
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise NormlabError(f"{folder} cannot be read: {error.strerror}") from None
    try:
        offered = False
        with _best_effort("a second process that works in the same folder is not noticed"):
            _lock(file, folder, patience)
            offered = True
        _held.add(key)
        yield file if offered else None
    finally:
        _held.discard(key)
        os.close(file)


def _lock(file: int, folder: Path, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise RunError(
                    f"another process is working in {folder}: wait until it ends"
                ) from None
            time.sleep(0.2)
        else:
            return
