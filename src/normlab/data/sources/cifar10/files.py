"""Finds the files of CIFAR-10 in a folder, compares them with the published ones, reads them."""

import gzip
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from normlab.data.dataset import Split
from normlab.data.sources.cifar10 import layouts
from normlab.data.sources.cifar10.layouts import BINARY, CLASSES, PIXELS, PYTHON, Layout
from normlab.errors import DataError

# Published MD5 of the files. For extracted binary files none is published.
PUBLISHED = {
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}


class Files(NamedTuple):
    """The files that were found, with what a reader of the results should know about them."""

    path: Path  # an archive, or the folder that holds the extracted files
    layout: Layout
    notes: tuple[str, ...] = ()


def find(root: Path) -> Files | None:
    """The files in a folder; None if there are none. Archives first: they have a published MD5."""
    for layout in (BINARY, PYTHON):
        archive = root / layout.archive
        if archive.is_file():
            return Files(archive, layout, _unlike_published([archive]))
    for layout in (BINARY, PYTHON):
        for folder in (root / layout.folder, root):
            files = [folder / name for name in layout.batches]
            present = [file for file in files if file.exists()]
            if present:
                return Files(folder, layout, _unlike_published(present))
    return None


def read(files: Files) -> tuple[Split, Split]:
    """The training and the test images. One file at a time is in memory.

    Raises:
        DataError: A file is missing, damaged or malformed.
        OSError: A file cannot be read.
    """
    path, layout, _ = files
    records = layouts.RECORDS
    images = np.empty((6 * records, 3, 32, 32), dtype=np.uint8)
    labels = np.empty(6 * records, dtype=np.int64)
    missing = set(layout.batches)
    for name, content in (_extracted if path.is_dir() else _archived)(path, layout):
        try:
            pixels, batch_labels = layout.decode(content)
            if batch_labels.max() >= len(CLASSES):
                raise ValueError(f"label {batch_labels.max()} is above 9")
        except ValueError as error:
            raise DataError(f"{name} in {path} is not CIFAR-10's: {error}") from error
        start = layout.batches.index(name) * records
        images[start : start + records] = pixels.reshape(records, 3, 32, 32)
        labels[start : start + records] = batch_labels
        missing.discard(name)
    if missing:
        raise DataError(f"{path} is incomplete: it lacks {', '.join(sorted(missing))}")
    count = 5 * records
    return Split(images[:count], labels[:count]), Split(images[count:], labels[count:])


def _unlike_published(files: list[Path]) -> tuple[str, ...]:
    unknown = [file.name for file in files if file.name not in PUBLISHED]
    if unknown:
        return (f"not checked, since no checksums of them are published: {', '.join(unknown)}",)
    other = [file.name for file in files if _md5(file) != PUBLISHED[file.name]]
    if other:
        return (f"not the published CIFAR-10 files, by their MD5: {', '.join(other)}",)
    return ()


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _extracted(path: Path, layout: Layout) -> Iterator[tuple[str, bytes]]:
    for name in layout.batches:
        if (path / name).exists():
            with (path / name).open("rb") as file:
                yield name, _limited(file.read, str(path / name))


def _archived(path: Path, layout: Layout) -> Iterator[tuple[str, bytes]]:
    wanted = {PurePosixPath(layout.folder, name): name for name in layout.batches}
    try:
        with _Unpacked(path) as stream:
            stream.left = len(layout.batches) * _most()
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = wanted.get(PurePosixPath(member.name))  # without a leading ./
                    if name and member.isreg() and (file := archive.extractfile(member)):
                        yield name, _limited(file.read, f"{name} in {path}")
            while stream.read(1 << 20):  # to the end, where gzip's checksum is
                pass
    except DataError:
        raise
    except Exception as error:  # damaged headers can raise anything
        reason = shorten(str(error), 200)
        raise DataError(f"{path} is damaged, or is no .tar.gz archive: {reason}") from error


class _Unpacked(gzip.GzipFile):
    """A .gz file that raises after `left` bytes: a small file can unpack to a huge one."""

    left: int

    def read(self, size: int | None = -1) -> bytes:
        """As in GzipFile."""
        content = super().read(size)
        self.left -= len(content)
        if self.left < 0:
            raise OSError("it unpacks to far more than CIFAR-10")
        return content


def _limited(read: Callable[[int], bytes], file: str) -> bytes:
    content = read(_most() + 1)
    if len(content) > _most():
        raise DataError(
            f"{file} is not CIFAR-10's: it is far longer than {layouts.RECORDS:,} images"
        )
    return content


def _most() -> int:
    """Largest size of a file in bytes: a pickle adds file names, about 1%."""
    return 2 * layouts.RECORDS * (1 + PIXELS)
