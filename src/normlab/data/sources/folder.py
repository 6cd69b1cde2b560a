"""The user's own images: train/CLASS/*.png and, if there is one, test/CLASS/*.png."""

import os
import unicodedata
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from normlab.data.dataset import Dataset, Split
from normlab.data.images import read_picture
from normlab.data.left_out import by_kind, named
from normlab.data.sources import Request
from normlab.data.splitting import stratified
from normlab.errors import DataError, UsageError
from normlab.wording import counted, listed

SPELLING = "folder:PATH"
PUBLIC_NAME = HUB_NAME = None
MIRRORABLE = True  # not known: the user chooses the recipe
HAS_IMAGE_FILES = True
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")  # by content, whatever the suffix says: Pillow knows many more


@dataclass
class LeftOutImages:
    """What is in a folder of images and is not read. Hidden files and folders do not count.

    Attributes:
        files: Files in `train` and `test` that are not pictures of a kind that is read.
        classless: Pictures in no class's folder.
        deeper: Pictures in folders below a class's folder.
        locked: Folders below a class's folder that cannot be opened.
        folders: Folders beside `train` and `test`.
    """

    files: list[Path] = field(default_factory=list)
    classless: list[Path] = field(default_factory=list)
    deeper: list[Path] = field(default_factory=list)
    locked: list[OSError] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)

    def notes(self, *, has_test: bool) -> Iterator[str]:
        """One line, or none if nothing is left out."""
        parts = []
        if self.files:
            kinds = by_kind(self.files)
            parts.append(f"{kinds} (not read: only PNG, JPEG and WebP are)")
        if self.deeper:
            parts.append(f"{counted(len(self.deeper), 'picture')} in folders below a class")
        if self.classless:
            parts.append(f"{counted(len(self.classless), 'picture')} in no class's folder")
        if self.locked:
            parts.append(f"{counted(len(self.locked), 'folder')} that cannot be opened")
        line = [f"left out: {', '.join(parts)}"] if parts else []
        if self.folders:
            are = "is" if len(self.folders) == 1 else "are"
            why = "only train/ and test/ are" if has_test else "test images are drawn from train/"
            line.append(f"{named(self.folders)} {are} not used: {why}")
        if line:
            yield "; ".join(line)


def load(request: Request) -> Dataset:
    """A folder of images as a data set. `images.to_pixels` says how an image is converted.

    The classes are the sorted names of train's subfolders. Images are ordered by class, then by
    file name. Hidden files and folders are ignored. Other files, and pictures elsewhere, are left
    out, and a note counts them. If there is no `test` folder, a stratified fifth of the images (at
    least one per class) becomes the test split, and a note says so.

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
        left_out = LeftOutImages()
        train_files = _files_by_class(path / "train", left_out)
        has_test = (path / "test").exists()
        test_files = _files_by_class(path / "test", left_out) if has_test else {}
        others = [e for e in _visible(path) if e.name not in ("train", "test") and e.is_dir()]
        left_out.folders.extend(others)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    classes = tuple(train_files)
    if len(classes) < 2:
        raise DataError(f"{path / 'train'} needs a subfolder for each of two classes or more")
    if has_test:
        _refuse_other_classes(path, train_files.keys(), test_files.keys())

    notes = [*_look_alikes(classes)]
    train, skipped = _read(train_files, request.skip_unreadable)
    if has_test:
        test, skipped_test = _read(test_files, request.skip_unreadable)
        skipped += skipped_test
    else:
        train, test = _split_off_test(train, classes, request.split_seed, path)
        notes.append(f"there is no test folder: {len(test)} images were drawn for the test split")
    if skipped:
        notes.append(f"images that could not be read and were left out: {skipped}")
    notes.extend(left_out.notes(has_test=has_test))
    return Dataset(f"folder:{root}", classes, train, test, notes=tuple(notes))


def needs_download() -> bool:
    """Never: the images are the user's."""
    return False


def _files_by_class(part: Path, left_out: LeftOutImages) -> dict[str, list[Path]]:
    """The image files of each class; classes and files sorted by name. Notes what is left out."""
    entries = _visible(part)
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    files: dict[str, list[Path]] = {}
    for entry in entries:
        if not entry.is_dir():
            (left_out.classless if _is_picture(entry) else left_out.files).append(entry)
    for name in classes:
        if not name.isprintable():  # it is shown in tables, pages and error lines
            raise DataError(f"{part} has a class {name!r}: rename it, without control characters")
        images: list[Path] = []
        for entry in _visible(part / name):
            if entry.is_dir():
                for file in _below(entry, left_out.locked):
                    (left_out.deeper if _is_picture(file) else left_out.files).append(file)
            else:
                (images if _is_picture(entry) else left_out.files).append(entry)
        if not images:
            others = [entry for entry in _visible(part / name) if not entry.is_dir()]
            held = f", it holds {by_kind(others)}" if others else ""
            raise DataError(f"{part / name} has no image ({', '.join(SUFFIXES)}){held}")
        files[name] = sorted(images, key=lambda file: file.name)
    return files


def _refuse_other_classes(path: Path, train: Set[str], test: Set[str]) -> None:
    """Raises DataError if the two parts differ in their classes."""
    for name in sorted(train ^ test):
        present, absent = ("train", "test") if name in train else ("test", "train")
        line = f"{path / present} has a class {name!r} that {path / absent} lacks"
        others = (test if name in train else train) - (train & test)
        alike = [other for other in sorted(others) if _form(other) == _form(name)]
        if alike:
            line += f": its {alike[0]!r} is another ({alike[0]!a}, not {name!a}), rename one"
        raise DataError(line)


def _look_alikes(classes: Sequence[str]) -> Iterator[str]:
    """A note on classes whose names differ in case or in the form of their characters only."""
    by_form: dict[str, list[str]] = {}
    for name in classes:
        by_form.setdefault(_form(name), []).append(name)
    for names in by_form.values():
        if len(names) > 1:
            yield (
                f"{listed(names)} are {len(names)} classes, although their names differ in case or "
                "in the form of characters only"
            )


def _form(name: str) -> str:
    """A name without what eyes may not see: case, and the form of its characters."""
    return unicodedata.normalize("NFKC", name).casefold()


def _below(folder: Path, locked: list[OSError]) -> Iterator[Path]:
    """All files below a folder that are not hidden; notes folders that cannot be opened."""
    for place, folders, names in os.walk(folder, onerror=locked.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES


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
