"""Finds the files of a data set in a folder, compares them with the published ones, reads them."""

import gzip
import hashlib
import tarfile
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import NamedTuple

import numpy as np

from normlab.data.cifar import layouts
from normlab.data.cifar.layouts import PIXELS, Layout, Published
from normlab.data.dataset import Split
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
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
}


class Files(NamedTuple):
    """The files that were found, with what a reader of the results should know about them."""

    path: Path  # an archive, or the folder that holds the extracted files
    layout: Layout
    notes: tuple[str, ...] = ()


def find(root: Path, data: Published) -> Files | None:
    """The files in a folder; None if there are none. Archives first: they have a published MD5."""
    for layout in (data.binary, data.python):
        archive = root / layout.archive
        if archive.is_file():
            return Files(archive, layout, _unlike_published([archive], data))
    for layout in (data.binary, data.python):
        for folder in (root / layout.folder, root):
            files = [folder / name for name in layout.batches]
            present = [file for file in files if file.exists()]
            if any(file.is_file() for file in present):  # train/ and test/ may be other data
                return Files(folder, layout, _unlike_published(present, data))
    return None


def read(files: Files, data: Published) -> tuple[Split, Split]:
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
    ends = dict(zip(layout.batches, accumulate(layout.batches.values()), strict=True))
    for name, content in (_extracted if path.is_dir() else _archived)(path, layout, data.title):
        count = layout.batches[name] * records
        try:
            pixels, batch_labels = layout.decode(content, count)
            if batch_labels.max() >= (classes := len(data.classes)):
                raise ValueError(f"label {batch_labels.max()} is above {classes - 1}")
        except ValueError as error:
            raise DataError(f"{name} in {path} is not {data.title}'s: {error}") from error
        place = slice(ends[name] * records - count, ends[name] * records)
        images[place] = pixels.reshape(count, 3, 32, 32)
        labels[place] = batch_labels
        missing.discard(name)
    if missing:
        raise DataError(f"{path} is incomplete: it lacks {', '.join(sorted(missing))}")
    count = 5 * records
    return Split(images[:count], labels[:count]), Split(images[count:], labels[count:])


def _unlike_published(files: list[Path], data: Published) -> tuple[str, ...]:
    unknown = [file.name for file in files if file.name not in PUBLISHED]
    if unknown:
        return (f"not checked, since no checksums of them are published: {', '.join(unknown)}",)
    other = [file.name for file in files if _md5(file) != PUBLISHED[file.name]]
    if other:
        return (f"not the published {data.title} files, by their MD5: {', '.join(other)}",)
    return ()


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _extracted(path: Path, layout: Layout, title: str) -> Iterator[tuple[str, bytes]]:
    for name, records in layout.batches.items():
        if (path / name).exists():
            with (path / name).open("rb") as file:
                yield name, _limited(file.read, records, str(path / name), title)


def _archived(path: Path, layout: Layout, title: str) -> Iterator[tuple[str, bytes]]:
    wanted = {PurePosixPath(layout.folder, name): name for name in layout.batches}
    try:
        with _Unpacked(path) as stream:
            stream.left, stream.title = _most(sum(layout.batches.values())), title
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = wanted.get(PurePosixPath(member.name))  # without a leading ./
                    if name and member.isreg() and (file := archive.extractfile(member)):
                        file_name = f"{name} in {path}"
                        yield name, _limited(file.read, layout.batches[name], file_name, title)
            while stream.read(1 << 20):  # to the end, where gzip's checksum is
                pass
    except DataError:
        raise
    except Exception as error:  # damaged headers can raise anything
        reason = shorten(str(error), 200)
        raise DataError(f"{path} is damaged, or is not a .tar.gz archive: {reason}") from error


class _Unpacked(gzip.GzipFile):
    """A .gz file that raises after `left` bytes: a small file can unpack to a huge one."""

    left: int
    title: str

    def read(self, size: int | None = -1) -> bytes:
        """As in GzipFile."""
        content = super().read(size)
        self.left -= len(content)
        if self.left < 0:
            raise OSError(f"it unpacks to far more than {self.title}")
        return content


def _limited(read: Callable[[int], bytes], records: int, file: str, title: str) -> bytes:
    most = _most(records)
    content = read(most + 1)
    if len(content) > most:
        images = records * layouts.RECORDS
        raise DataError(f"{file} is not {title}'s: it is far longer than {images:,} images")
    return content


def _most(records: int) -> int:
    """Largest size in bytes of files of so many images: a pickle adds file names, about 1%."""
    return 2 * records * layouts.RECORDS * (1 + PIXELS)
