"""The published layouts of CIFAR-10 and CIFAR-100: the files' names, and how a file is decoded.

A decoder maps a file's bytes to pixels (uint8, count × PIXELS) and labels (int64, count). It raises
ValueError if they are malformed.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from normlab.data.cifar.pickles import Part, read_pickle

RECORDS = 10_000  # images for testing; a file has as many, or five times as many
PIXELS = 3 * 32 * 32  # bytes of an image: 1024 red, 1024 green, 1024 blue, row by row
Decoder = Callable[[bytes, int], tuple[NDArray[np.uint8], NDArray[np.int64]]]


@dataclass(frozen=True)
class Layout:
    """A way in which a data set is published.

    Attributes:
        archive: The archive's name.
        folder: The folder in the archive, and where it is extracted.
        batches: The files, those for training first, with their numbers of images in `RECORDS`.
        decode: Decodes a file that has so many images.
    """

    archive: str
    folder: str
    batches: Mapping[str, int]
    decode: Decoder


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it.

    Attributes:
        title: Its name in sentences.
        name: normlab's name of it.
        classes: The classes' names.
        binary: Its layout in binary files.
        python: Its layout in pickles.
        labels: SHA-256 of the training labels in the files' order, as `labels_digest` has it; empty
            if it is not known.
    """

    title: str
    name: str
    classes: tuple[str, ...]
    binary: Layout
    python: Layout
    labels: str = ""


def labels_digest(labels: NDArray[np.int64]) -> str:
    """SHA-256 (hex) of labels, as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").data).hexdigest()


def decode_binary(
    content: bytes, count: int, *, labels: int, label: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A file of records, each some labels' bytes, of which one is taken, and an image's bytes."""
    size = labels + PIXELS
    if len(content) != count * size:
        raise ValueError(f"{count * size:,} bytes were expected, it has {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(count, size)
    return records[:, labels:], records[:, label].astype(np.int64)


def decode_python(
    content: bytes, count: int, *, key: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A pickled dictionary, as Python 2 wrote it, with the labels under a key."""
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
        ) if (rows, columns) == (count, PIXELS) and len(raw) == count * PIXELS:
            pixels = np.frombuffer(raw, np.uint8).reshape(
                (count, PIXELS), order="F" if fortran else "C"
            )
        case _:
            raise ValueError(f"b'data' should be a uint8 array of {count:,} × {PIXELS:,}")
    labels = batch.get(key)
    if (
        not isinstance(labels, list)
        or len(labels) != count
        or not all(type(label) is int and 0 <= label < 256 for label in labels)
    ):
        raise ValueError(f"{key!r} should be a list of {count:,} labels, 0 or above")
    return pixels, np.array(labels, dtype=np.int64)


_TEN = {**{f"data_batch_{k}": 1 for k in range(1, 6)}, "test_batch": 1}
_HUNDRED = {"train": 5, "test": 1}


def _layouts(
    number: int, folders: tuple[str, str], batches: Mapping[str, int], *decoders: Decoder
) -> tuple[Layout, Layout]:
    """The binary and the Python layout."""
    binary, python = decoders
    return (
        Layout(
            f"cifar-{number}-binary.tar.gz",
            folders[0],
            {f"{name}.bin": records for name, records in batches.items()},
            binary,
        ),
        Layout(f"cifar-{number}-python.tar.gz", folders[1], batches, python),
    )


CIFAR10 = Published(
    "CIFAR-10",
    "cifar10",
    (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    *_layouts(
        10,
        ("cifar-10-batches-bin", "cifar-10-batches-py"),
        _TEN,
        partial(decode_binary, labels=1, label=0),
        partial(decode_python, key=b"labels"),
    ),
    labels="f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
)


def cifar100(name: str, kind: str, classes: tuple[str, ...]) -> Published:
    """CIFAR-100 with its `coarse` or `fine` labels. In a binary record, the coarse one is first."""
    return Published(
        "CIFAR-100",
        name,
        classes,
        *_layouts(
            100,
            ("cifar-100-binary", "cifar-100-python"),
            _HUNDRED,
            partial(decode_binary, labels=2, label=("coarse", "fine").index(kind)),
            partial(decode_python, key=f"{kind}_labels".encode()),
        ),
    )
