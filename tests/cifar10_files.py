"""An invented CIFAR-10 with a few images per file, in the published layouts."""

import io
import pickle
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

NAMES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 did for the published files: byte strings, NumPy's old names."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=2)

    def save_bytes(self, value):
        self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_str(self, value):
        self.save_bytes(value.encode("latin1"))

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{name or value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = save_bytes
    dispatch[str] = save_str
    dispatch[type] = save_global


def python2_pickle(value: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer).dump(value)
    return buffer.getvalue()


def tar(files: dict[str, bytes], folder: str) -> bytes:
    """The files as a .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@dataclass
class MadeUp:
    pixels: NDArray[np.uint8]  # 6 × records × 3072, the test file last
    labels: NDArray[np.int64]  # 6 × records

    def binary(self) -> dict[str, bytes]:
        return {
            f"{name}.bin": np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()
            for name, pixels, labels in zip(NAMES, self.pixels, self.labels, strict=True)
        }

    def batch(self, k: int) -> dict[bytes, object]:
        return {
            b"batch_label": b"made up",
            b"labels": self.labels[k].tolist(),
            b"data": self.pixels[k],
            b"filenames": [b"x.png"] * len(self.labels[k]),
        }

    def python(self) -> dict[str, bytes]:
        return {name: python2_pickle(self.batch(k)) for k, name in enumerate(NAMES)}


def write_all(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
