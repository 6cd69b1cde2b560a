"""Files that others wrote: regular ones only, up to a size, as text in any Unicode encoding."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import BinaryIO

LARGEST_TEXT = 2**28  # bytes: the metrics of a million epochs


def in_home(path: Path) -> Path:
    """A path with a home folder for its `~`; as it is if there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read its bytes.

    Raises:
        OSError: It cannot be opened, or it is a folder, a pipe, a device: something that may never
            end, or never begin.
    """
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_bytes(path: Path, largest: int) -> bytes:
    """The content of a regular file.

    Raises:
        OSError: It cannot be read, is not a regular file, or has more than `largest` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, at most {largest:,} are expected")
        return file.read(largest)


def read_text(path: Path) -> str:
    """The text of a regular file, as `decode` reads it.

    Raises:
        OSError: As in `read_bytes`.
        UnicodeDecodeError: It is not text.
    """
    return decode(read_bytes(path, LARGEST_TEXT))


def decode(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 or UTF-32 as some programs save it, without its mark."""
    return content.decode(json.detect_encoding(content))
