"""The user's own images: train/CLASS/*.png and, if there is one, test/CLASS/*.png."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from normlab.data.dataset import Dataset, Split
from normlab.data.images import read_picture
from normlab.data.sources import Request
from normlab.data.splitting import stratified
from normlab.errors import DataError, UsageError

SPELLING = "folder:PATH"
PUBLIC_NAME = HUB_NAME = None
MIRRORABLE = True  # not known: the user chooses the recipe
HAS_IMAGE_FILES = True
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")  # by content, whatever the suffix says: Pillow knows many more


def load(request: Request) -> Dataset:
    """A folder of images as a data set. `images.to_pixels` says how an image is converted.

    The classes are the sorted names of train's subfolders. Images are ordered by class, then by
    file name. Hidden files and folders, and files with other suffixes, are ignored. If there is no
    `test` folder, a stratified fifth of the images (at least one per class) becomes the test split,
    and the data set's notes say so.

    Raises:
        UsageError: A data root is given beside the path.
        DataError: A folder is missing or empty, there are fewer than two classes, the two parts
            differ in their classes, or an image cannot be read.
    """
    if request.data_root is not None:
        raise UsageError(f"{request.name} says where the pictures are: leave out --data-root")
    root = Path(request.path)
    path = root.expanduser()
    if not (path / "train").is_dir():
        raise DataError(
            f"{path / 'train'} is no folder: a folder of images holds train/CLASS/*.png "
            "and, optionally, test/CLASS/*.png; if it was moved, name its place with --data-root"
        )
    try:
        train_files = _files_by_class(path / "train")
        has_test = (path / "test").exists()
        test_files = _files_by_class(path / "test") if has_test else {}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    classes = tuple(train_files)
    if len(classes) < 2:
        raise DataError(f"{path / 'train'} needs a subfolder for each of two classes or more")
    if has_test:
        for name in test_files.keys() ^ train_files.keys():
            present, absent = ("test", "train") if name in test_files else ("train", "test")
            raise DataError(f"{path / present} has a class {name!r} that {path / absent} lacks")

    notes = []
    train, skipped = _read(train_files, request.skip_unreadable)
    if has_test:
        test, skipped_test = _read(test_files, request.skip_unreadable)
        skipped += skipped_test
    else:
        train, test = _split_off_test(train, classes, request.split_seed, path)
        notes.append(f"there is no test folder: {len(test)} images were drawn for the test split")
    if skipped:
        notes.append(f"images that could not be read and were left out: {skipped}")
    return Dataset(f"folder:{root}", classes, train, test, notes=tuple(notes))


def needs_download() -> bool:
    """Never: the images are the user's."""
    return False


def _files_by_class(part: Path) -> dict[str, list[Path]]:
    """The image files of each class; classes and files sorted by name."""
    classes = sorted(entry.name for entry in _visible(part) if entry.is_dir())
    files: dict[str, list[Path]] = {}
    for name in classes:
        if not name.isprintable():  # it is shown in tables, pages and error lines
            raise DataError(f"{part} has a class {name!r}: rename it, without control characters")
        images = [
            e for e in _visible(part / name) if e.suffix.lower() in SUFFIXES and not e.is_dir()
        ]
        if not images:
            raise DataError(f"{part / name} has no image ({', '.join(SUFFIXES)})")
        files[name] = sorted(images, key=lambda file: file.name)
    return files


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _read(files: dict[str, list[Path]], skip_unreadable: bool) -> tuple[Split, int]:
    """The images of all classes, and how many could not be read."""
    images, labels, skipped = [], [], 0
    console = Console(stderr=True)
    labeled = [(label, file) for label, of_class in enumerate(files.values()) for file in of_class]
    for label, file in track(
        labeled,
        "Reading images",
        console=console,
        transient=True,
        disable=len(labeled) <= 1000 or not console.is_terminal,
    ):
        try:
            images.append(_pixels_of(file))
            labels.append(label)
        except DataError:
            if not skip_unreadable:
                raise
            skipped += 1
    readable = set(labels)
    for label, of_class in enumerate(files.values()):
        if label not in readable:
            raise DataError(f"{of_class[0].parent} has no image that can be read")
    return Split(np.stack(images), np.array(labels, dtype=np.int64)), skipped


def _pixels_of(file: Path) -> NDArray[np.uint8]:
    try:
        return read_picture(file, FORMATS)[0]
    except DataError as error:
        raise DataError(f"{error}; --skip-unreadable leaves such images out") from error


def _split_off_test(
    whole: Split, classes: tuple[str, ...], seed: int, path: Path
) -> tuple[Split, Split]:
    count = max(round(len(whole) / 5), len(classes))
    try:
        test, train = stratified(whole.labels, count, seed)
    except DataError as error:
        sizes = np.bincount(whole.labels)
        smallest = int(sizes.argmin())
        raise DataError(
            f"{path} has no test folder, and its images cannot be split: the smallest class, "
            f"{classes[smallest]!r}, has {sizes[smallest]}; add images to it or add a test folder"
        ) from error
    return whole.take(train), whole.take(test)
