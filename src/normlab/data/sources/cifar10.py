"""CIFAR-10 in either of its published layouts, archived or extracted, from a folder or downloaded.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009), which describes both layouts and publishes the archives' MD5.
Archives are read in memory, and pickles by a restricted unpickler: no file's content is written to
disk or executed.
"""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from normlab.data.dataset import Dataset, Split
from normlab.data.sources import Request
from normlab.errors import DataError

SPELLING = PUBLIC_NAME = "cifar10"
HUB_NAME = "uoft-cs/cifar10"
MIRRORABLE = True
HAS_IMAGE_FILES = False

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
TIMEOUT = 30.0  # seconds without a byte after which a download attempt fails
RECORDS = 10_000  # images in each of the six files
PIXELS = 3 * 32 * 32  # bytes of an image: 1024 red, 1024 green, 1024 blue, row by row
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
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


def load(request: Request) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes, in the files' order.

    The data root is the only folder that is searched. The default is $NORMLAB_DATA (likewise),
    else the user's cache folder, else a download into that. The user's own files are accepted if
    they are well-formed; if they are not the published ones, the notes say so.

    Raises:
        DataError: It is missing, malformed, or could not be downloaded.
    """
    setting = "--data-root" if request.data_root else "NORMLAB_DATA"
    own = request.data_root or os.environ.get("NORMLAB_DATA")
    root = Path(own).expanduser() if own else None
    try:
        if root is None:
            source = _from_cache()
        elif (found := _find(root)) is not None:
            source = found
        else:
            raise DataError(_not_in(root, setting))
        images, labels = _read(source)
    except OSError as error:
        name = error.filename or root or "CIFAR-10"
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    return Dataset(
        name="cifar10",
        classes=CLASSES,
        train=Split(images[: 5 * RECORDS], labels[: 5 * RECORDS]),
        test=Split(images[5 * RECORDS :], labels[5 * RECORDS :]),
        notes=source.notes,
    )


def needs_download() -> bool:
    """Whether neither $NORMLAB_DATA is set nor the cache folder holds it."""
    return not os.environ.get("NORMLAB_DATA") and _cached() is None


# --- The two layouts ----------------------------------------------------------------------------
# A decoder maps a file's bytes to pixels (uint8, RECORDS × PIXELS) and labels (RECORDS). It raises
# ValueError if they are malformed.


class _Layout(NamedTuple):
    archive: str
    folder: str  # in the archive, and where it is extracted
    batches: tuple[str, ...]  # five of training images, then the test images
    decode: Callable[[bytes], tuple[NDArray[np.uint8], NDArray[np.int64]]]


def _binary_batch(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    if len(content) != RECORDS * (1 + PIXELS):
        raise ValueError(f"{RECORDS * (1 + PIXELS):,} bytes were expected, it has {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(RECORDS, 1 + PIXELS)
    return records[:, 1:], records[:, 0].astype(np.int64)


class _Part:
    """A part of a pickled array: its arguments and its state. No code of NumPy runs."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


def _as_list(count: int) -> Callable[[Any], None]:
    """Loads a tuple of `count` values as a list."""

    def load(reader: Any) -> None:
        reader.stack[-count:] = [reader.stack[-count:]]

    return load


def _no_bytearray(_: object) -> None:
    raise pickle.UnpicklingError("it has a bytearray, which no array needs")


# Python's own implementation: the one in C allocates memory for as many values as a pickle claims.
class _Unpickler(pickle._Unpickler):
    """Reads plain values and arrays. Any other name in a pickle is refused, not imported."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.BYTEARRAY8[0]: _no_bytearray,  # it too allocates what the pickle claims
        # Lists cannot be keys: a tuple of twice a tuple of twice another takes forever to hash.
        pickle.TUPLE[0]: pickle._Unpickler.dispatch[pickle.LIST[0]],
        pickle.TUPLE1[0]: _as_list(1),
        pickle.TUPLE2[0]: _as_list(2),
        pickle.TUPLE3[0]: _as_list(3),
    }

    def find_class(self, module: str, name: str) -> type[_Part]:
        if (module.replace("numpy._core", "numpy.core"), name) in (
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
        ):
            return _Part
        raise pickle.UnpicklingError(f"it names {f'{module}.{name}'!r}, which no array needs")


def _unpickle(content: bytes) -> dict[object, Any]:
    try:
        value = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise anything
        reason = shorten(str(error), 200)
        raise ValueError(f"a pickle of plain values and arrays was expected: {reason}") from error
    if not isinstance(value, dict):
        raise ValueError("a pickled dictionary was expected")
    return value


def _python_batch(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batch = _unpickle(content)
    # An array's state: version, shape, dtype, whether in Fortran order, bytes.
    match getattr(batch.get(b"data"), "state", None):
        case (
            int(),
            (rows, columns),
            _Part(arguments=(b"u1" | "u1", *_)),
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


_BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
_BINARY = _Layout(
    archive="cifar-10-binary.tar.gz",
    folder="cifar-10-batches-bin",
    batches=tuple(f"{name}.bin" for name in _BATCHES),
    decode=_binary_batch,
)
_PYTHON = _Layout(
    archive="cifar-10-python.tar.gz",
    folder="cifar-10-batches-py",
    batches=_BATCHES,
    decode=_python_batch,
)


# --- Where it lies ------------------------------------------------------------------------------


class _Source(NamedTuple):
    path: Path  # an archive, or the folder that holds the extracted files
    layout: _Layout
    notes: tuple[str, ...] = ()


def _find(root: Path) -> _Source | None:
    # Archives first: both have a published checksum.
    for layout in (_BINARY, _PYTHON):
        archive = root / layout.archive
        if archive.is_file():
            return _Source(archive, layout, _unlike_published([archive]))
    for layout in (_BINARY, _PYTHON):
        for folder in (root / layout.folder, root):
            files = [folder / name for name in layout.batches]
            present = [file for file in files if file.exists()]
            if present:
                return _Source(folder, layout, _unlike_published(present))
    return None


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


def _not_in(root: Path, setting: str) -> str:
    return (
        f"no CIFAR-10 in {root}{'' if root.is_dir() else ', which is not a folder'}: "
        f"neither {_BINARY.archive} nor {_PYTHON.archive}, nor {_BINARY.folder} or "
        f"{_PYTHON.folder} extracted from them; get {URL} and put it there, leave out {setting} "
        "to have it downloaded, or use --dataset digits, which needs no download"
    )


# --- Reading ------------------------------------------------------------------------------------


def _read(source: _Source) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All 60,000 images and labels, test images last. One file at a time is in memory."""
    path, layout, _ = source
    images = np.empty((6 * RECORDS, 3, 32, 32), dtype=np.uint8)
    labels = np.empty(6 * RECORDS, dtype=np.int64)
    missing = set(layout.batches)
    for name, content in (_extracted if path.is_dir() else _archived)(path, layout):
        try:
            pixels, batch_labels = layout.decode(content)
            if batch_labels.max() >= len(CLASSES):
                raise ValueError(f"label {batch_labels.max()} is above 9")
        except ValueError as error:
            raise DataError(f"{name} in {path} is not CIFAR-10's: {error}") from error
        start = layout.batches.index(name) * RECORDS
        images[start : start + RECORDS] = pixels.reshape(RECORDS, 3, 32, 32)
        labels[start : start + RECORDS] = batch_labels
        missing.discard(name)
    if missing:
        raise DataError(f"{path} is incomplete: it lacks {', '.join(sorted(missing))}")
    return images, labels


def _archived(path: Path, layout: _Layout) -> Iterator[tuple[str, bytes]]:
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


def _extracted(path: Path, layout: _Layout) -> Iterator[tuple[str, bytes]]:
    for name in layout.batches:
        if (path / name).exists():
            with (path / name).open("rb") as file:
                yield name, _limited(file.read, str(path / name))


def _most() -> int:
    """Largest size of a file in bytes: a pickle adds file names, about 1%."""
    return 2 * RECORDS * (1 + PIXELS)


def _limited(read: Callable[[int], bytes], file: str) -> bytes:
    content = read(_most() + 1)
    if len(content) > _most():
        raise DataError(f"{file} is not CIFAR-10's: it is far longer than {RECORDS:,} images")
    return content


# --- The cache and the download -----------------------------------------------------------------


def _from_cache() -> _Source:
    return _cached() or _Source(_download(_cache()), _BINARY)


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("normlab"))


def _cached() -> _Source | None:
    source = _find(_cache())
    # Only normlab puts the archive there: if it is not the published file, it is damaged.
    return None if source and source.path.is_file() and source.notes else source


def _download(folder: Path) -> Path:
    """Downloads the binary archive: checked, written whole or not at all, with one retry."""
    import pooch

    pooch.get_logger().setLevel("WARNING")  # its own lines would break the progress bar
    console = Console(stderr=True)
    start = f"Downloading CIFAR-10 from {URL} into {folder}"
    console.print(start, soft_wrap=True, markup=False, highlight=False)
    store = pooch.create(
        path=folder,
        base_url="",
        urls={_BINARY.archive: URL},
        registry={_BINARY.archive: f"md5:{PUBLISHED[_BINARY.archive]}"},
        retry_if_failed=1,
    )
    try:
        with Progress(
            *(BarColumn(), DownloadColumn(), TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            downloader = pooch.HTTPDownloader(
                progressbar=_Bar(progress), chunk_size=1 << 16, timeout=TIMEOUT
            )
            return Path(store.fetch(_BINARY.archive, downloader=downloader))
    except (OSError, ValueError) as error:  # the network's or the disk's; the checksum
        raise DataError(
            f"CIFAR-10 could not be downloaded ({_reason(error)}): get {URL} by other means and "
            f"put it into {folder}, or name its folder with --data-root; "
            "--dataset digits needs no download"
        ) from error


def _reason(error: Exception) -> str:
    if not hasattr(error, "response"):  # not of the requests library
        checksum = "what came has not the published checksum"
        return checksum if isinstance(error, ValueError) else str(error)
    if error.response is not None:
        return f"the server answered {error.response.status_code}"
    return f"no full answer: {type(error).__name__}"


class _Bar:
    """A task of rich's with the names that pooch uses."""

    def __init__(self, progress: Progress) -> None:
        task = progress.add_task("", total=None)
        self.update = partial(progress.advance, task)
        self.reset = partial(progress.reset, task)
        self.close = partial(progress.stop_task, task)

    # Set once a try: what a failed one brought does not count.
    total = property(fset=lambda self, size: self.reset(total=size or None))
