"""Files written whole or not at all, and folders locked by one process."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from normlab.errors import NormlabError, RunError


def write_atomically(path: Path, content: bytes | str, *, previous: Path | None = None) -> None:
    """Writes a file so that a reader finds the old content or the new one, never a part.

    Args:
        path: The file. Its folder is created if it is missing.
        content: Bytes, or text, which is written as UTF-8.
        previous: New name for the old file; None deletes it.

    Raises:
        NormlabError: The file cannot be written (no space, no permission); the old one is intact.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
        temporary = Path(name)
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private to its owner
        if previous is not None and path.exists():
            path.replace(previous)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise NormlabError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Syncs a folder, so that its new names survive a crash. Windows cannot open folders."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def exists(path: Path) -> bool:
    """Whether a file exists; NormlabError if its folder may not be read."""
    try:
        return path.exists()
    except OSError as error:
        raise NormlabError(f"{path.parent} cannot be read: {error.strerror}") from None


def leftovers(path: Path) -> Iterator[Path]:
    """Temporary files of `write_atomically`: left by a kill, or being written now."""
    return path.parent.glob(f".{path.stem}-????????{path.suffix}")  # mkstemp's eight


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
        system has no such locks, or if this thread holds the lock already.

    Raises:
        NormlabError: The folder cannot be created or read.
        RunError: Another process or thread holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NormlabError(f"{folder} cannot be written: {error.strerror}") from error
    key = folder.resolve(), threading.get_ident()
    try:
        import fcntl
    except ImportError:  # Windows
        yield None
        return
    if key in _held:
        yield None
        return
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise NormlabError(f"{folder} cannot be read: {error.strerror}") from None
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise RunError(f"another process works on {folder}: wait for its end") from None
                time.sleep(0.2)
        _held.add(key)
        yield file
    finally:
        _held.discard(key)
        os.close(file)
