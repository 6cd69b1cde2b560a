"""Reads pictures in processes of their own, which are ended where one takes too long.

A decoder in C cannot be interrupted, and a crash of it would end the program.
"""

import json
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from normlab.errors import DataError, NormlabError
from normlab.inference.pictures import LoadedPicture, read

MAX_SECONDS = 20.0  # for one picture: the largest that Pillow opens take a few
# Nothing is imported from the folder in which the program runs, which may be a stranger's.
_START = f"import sys; sys.path.append(sys.argv[1]); from {__name__} import main; main()"


class NoProcessError(NormlabError):
    """No process can be started to read a picture: the machine has no more now."""


class PictureReader:
    """Reads pictures in processes. Several threads may use it; each has a process at a time."""

    def __init__(self) -> None:
        self._idle: deque[subprocess.Popen[bytes]] = deque()
        self._all: set[subprocess.Popen[bytes]] = set()

    def read(self, content: bytes, sizes: Sequence[int]) -> list[LoadedPicture]:
        """Reads a picture's file in several sizes; each as `read` does.

        Raises:
            DataError: The picture cannot be read, or takes longer than `MAX_SECONDS`.
            NoProcessError: No process can be started.
        """
        process = self._take()
        expired = threading.Event()
        try:
            with _timer(process, expired):
                answer, pixels = _ask(process, content, sizes)
        except (OSError, EOFError, ValueError):  # it was ended, or crashed
            self._end(process)
            reason = f"it takes longer than {MAX_SECONDS:g} seconds"
            reason = reason if expired.is_set() else "its decoder crashed"
            raise DataError(f"the picture cannot be read as an image ({reason})") from None
        if expired.is_set():  # at the last moment
            self._end(process)
        else:
            self._idle.append(process)
        if "problem" in answer:
            raise DataError(answer["problem"])
        return [
            LoadedPicture("", array, tuple(notes))
            for array, notes in zip(pixels, answer["notes"], strict=True)
        ]

    def close(self) -> None:
        """Ends all processes."""
        for process in [*self._all]:
            self._end(process)

    def _take(self) -> subprocess.Popen[bytes]:
        """A process that has nothing to do."""
        while self._idle:
            process = self._idle.pop()
            if process.poll() is None:
                return process
            self._end(process)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the server, which ends its readers
            )
        except OSError as error:  # too many processes or files, too little memory
            raise NoProcessError(
                f"no process can be started to read the picture ({error.strerror}): try again"
            ) from None
        self._all.add(process)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        self._all.discard(process)
        process.kill()
        with suppress(OSError), process:  # closes its pipes; one may hold half a picture
            pass


@contextmanager
def _timer(process: subprocess.Popen[bytes], expired: threading.Event) -> Iterator[None]:
    """Ends a process that works for more than `MAX_SECONDS`."""

    def end() -> None:
        expired.set()
        process.kill()

    timer = threading.Timer(MAX_SECONDS, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _ask(
    process: subprocess.Popen[bytes], content: bytes, sizes: Sequence[int]
) -> tuple[dict[str, Any], list[NDArray[np.uint8]]]:
    """Sends a picture to a process; returns its answer, and the pixels in each size."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps([len(content), *sizes]).encode() + b"\n")
    process.stdin.write(content)
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    if "problem" in answer:
        return answer, []
    return answer, [_pixels(process.stdout, size) for size in sizes]


def _pixels(file: IO[bytes], size: int) -> NDArray[np.uint8]:
    content = bytearray(file.read(3 * size * size))  # PyTorch wants to be able to write
    return np.frombuffer(content, np.uint8).reshape(3, size, size)


def main() -> None:
    """Reads pictures from the standard input until it ends."""
    pictures, answers = sys.stdin.buffer, sys.stdout.buffer
    while line := pictures.readline():
        length, *sizes = json.loads(line)
        content = pictures.read(length)
        try:
            loaded = [read(content, size) for size in sizes]
        except DataError as error:
            loaded = []
            answer: dict[str, Any] = {"problem": str(error)}
        else:
            answer = {"notes": [picture.notes for picture in loaded]}
        answers.write(json.dumps(answer).encode() + b"\n")
        for picture in loaded:
            answers.write(picture.pixels.tobytes())
        answers.flush()
