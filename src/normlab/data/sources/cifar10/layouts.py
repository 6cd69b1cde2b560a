"""The two published layouts: the names of their files, and how a file is decoded.

A decoder maps a file's bytes to pixels (uint8, RECORDS × PIXELS) and labels (int64, RECORDS). It
raises ValueError if they are malformed.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from normlab.data.sources.cifar10.pickles import Part, read_pickle

RECORDS = 10_000  # images in each of the six files
PIXELS = 3 * 32 * 32  # bytes of an image: 1024 red, 1024 green, 1024 blue, row by row
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


class Layout(NamedTuple):
    """A way in which CIFAR-10 is published."""

    archive: str
    folder: str  # in the archive, and where it is extracted
    batches: tuple[str, ...]  # five files of training images, then the test images
    decode: Callable[[bytes], tuple[NDArray[np.uint8], NDArray[np.int64]]]


def decode_binary(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A file of records, each a label's byte and an image's bytes."""
    if len(content) != RECORDS * (1 + PIXELS):
        raise ValueError(f"{RECORDS * (1 + PIXELS):,} bytes were expected, it has {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


def decode_python(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A pickled dictionary, as Python 2 wrote it."""
    batch = read_pickle(content)
    if not isinstance(batch, dict):
        raise ValueError("a pickled dictionary was expected")
    # An array's state: version, shape, dtype, whether in Fortran order, bytes.
    match getattr(batch.get(b"data"), "state", None):
        case (
            int(),
            (rows, columns),
            Part(arguments=(b"u1" | "u1", *_)),
            bool(fortran),
            bytes(raw),
        ) if (rows, columns) == (RECORDS, PIXELS) and len(raw) == RECORDS * PIXELS:
            pixels = np.frombuffer(raw, np.uint8).reshape(
                (RECORDS, PIXELS), order="F" if fortran else "C"
            )
        case _:
            raise ValueError(f"b'data' should be a uint8 array of {RECORDS:,} × {PIXELS:,}")
    labels = batch.get(b"labels")
    if (
        not isinstance(labels, list)
        or len(labels) != RECORDS
        or not all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise ValueError(f"b'labels' should be a list of {RECORDS:,} labels, 0 to 9")
    return pixels, np.array(labels, dtype=np.int64)


BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
BINARY = Layout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    batches=tuple(f"{name}.bin" for name in BATCHES),
    decode=decode_binary,
)
PYTHON = Layout(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    batches=BATCHES,
    decode=decode_python,
)
