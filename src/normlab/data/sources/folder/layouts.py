"""How pictures lie in a folder: in which splits, and with which labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from normlab.data.class_names import class_name, refuse_other_classes
from normlab.data.dataset import SplitName
from normlab.data.left_out import (
    LeftOut,
    by_kind,
    examples,
    files_below,
    named,
    pictures_of,
    visible,
)
from normlab.data.sources.folder import labels
from normlab.data.splits import SPLITS, role_of
from normlab.errors import DataError
from normlab.wording import counted, listed


class Labeled(NamedTuple):
    """A picture's file and its class."""

    file: Path
    label: str


@dataclass
class LeftOutOfFolder(LeftOut):
    """What is in a folder of pictures and is not read.

    Attributes:
        unreadable: Pictures that could not be read, by their paths in the folder.
        classless: Pictures in no class's folder.
        unlabeled: Pictures to which the table of labels gives none.
        unused: Folders beside those that are used.
    """

    unreadable: list[Path] = field(default_factory=list)
    classless: list[Path] = field(default_factory=list)
    unlabeled: list[Path] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)

    def parts(self) -> Iterator[str]:
        """What is left out, one kind of it at a time."""
        if self.unreadable:
            paths = examples(self.unreadable, Path.as_posix)  # names may be the same in all classes
            yield f"{counted(len(self.unreadable), 'picture')} that could not be read ({paths})"
        for files, why in (
            (self.classless, "in no class's folder"),
            (self.unlabeled, f"without a label in {labels.NAME}"),
        ):
            if files:
                yield f"{counted(len(files), 'picture')} {why} ({examples(files)})"
        yield from super().parts()
        if self.unused:
            yield f"{named(self.unused)} (not used)"


@dataclass
class Layout:
    """How the pictures in a folder lie.

    Attributes:
        splits: The pictures of each split.
        folders: The folder of each split; the whole folder if there is one split.
        notes: What a reader of the results should know of it.
        left_out: What is not read.
    """

    splits: dict[SplitName, list[Labeled]] = field(default_factory=dict)
    folders: dict[SplitName, Path] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left_out: LeftOutOfFolder = field(default_factory=LeftOutOfFolder)


def find(root: Path) -> Layout:
    """Finds the pictures in a folder.

    Splits: `train/` (or `training/`), with or without `test/` (`testing/`) and `val/` (`valid/`,
    `validation/`). Without `train/`, the folder itself holds all pictures.

    Labels: each split holds a folder for each class, with pictures at any depth, or `labels.csv`.
    That may also lie in the folder itself and name files in the splits' folders.

    Raises:
        DataError: There are no pictures of two classes, the splits differ in their classes, or the
            table of labels is malformed.
        OSError: A folder cannot be opened.
    """
    if not root.is_dir():
        raise DataError(
            f"{root} is not a folder: it should hold a folder of pictures for each class, or "
            "train/CLASS/*.png; if it was moved, give its new place with --data-root"
        )
    layout = Layout()
    if (table := labels.read(root)) is not None:
        _by_table(root, table, layout)
    else:
        entries = visible(root, layout.left_out)
        folders = [entry for entry in entries if entry.is_dir()]
        if any(_is_split(folder, "train") for folder in folders):
            _by_splits(folders, layout)
        else:
            _without_splits(root, folders, layout)
        _sort_out(set(entries) - set(folders), layout)
    _check_classes(root, layout)
    return layout


def _by_table(root: Path, table: dict[str, str], layout: Layout) -> None:
    """Finds the pictures that a table names, in the splits in whose folders they lie."""
    pictures = _labeled_by(table, root, layout)
    roles = {picture: role_of(picture.file.relative_to(root).parts[0]) for picture in pictures}
    if not {"train"} <= set(roles.values()) <= set(SPLITS):
        layout.splits["train"], layout.folders["train"] = pictures, root
        return
    for picture, role in roles.items():
        assert role is not None
        layout.splits.setdefault(role, []).append(picture)
        layout.folders[role] = root / picture.file.relative_to(root).parts[0]


def _by_splits(folders: Sequence[Path], layout: Layout) -> None:
    """Finds the pictures in `train/`, `val/` and `test/`."""
    for role, names in SPLITS.items():
        found = [folder for folder in folders if role_of(folder.name) == role]
        if found:
            folder = min(found, key=lambda folder: names.index(folder.name.casefold()))
            layout.folders[role], layout.splits[role] = folder, _labeled_in(folder, layout)
    taken = layout.folders.values()
    layout.left_out.unused += [folder for folder in folders if folder not in taken]


def _without_splits(root: Path, folders: Sequence[Path], layout: Layout) -> None:
    """Finds the pictures in the classes' folders. A folder without pictures is none."""
    splits = [folder for folder in folders if role_of(folder.name)]
    for folder in splits:
        if _is_split(folder, "test") or _is_split(folder, "holdout"):
            raise DataError(f"{root} has {folder.name}/ but no train/ with folders of classes")
    if splits and len(splits) == len(folders):
        names = listed([f"{folder.name}/" for folder in splits])
        raise DataError(
            f"{root} has {names} without classes: each needs a subfolder for each of two classes "
            f"or more, or {labels.NAME} with the lines file,label"
        )
    layout.folders["train"] = root
    layout.splits["train"] = _in_classes(root, folders, layout, empty_allowed=True)


def _labeled_in(split: Path, layout: Layout) -> list[Labeled]:
    """The pictures in a split's folder."""
    if (table := labels.read(split)) is not None:
        return _labeled_by(table, split, layout)
    entries = visible(split, layout.left_out)
    folders = [entry for entry in entries if entry.is_dir()]
    _sort_out(set(entries) - set(folders), layout)
    return _in_classes(split, folders, layout)


def _in_classes(
    split: Path, folders: Sequence[Path], layout: Layout, *, empty_allowed: bool = False
) -> list[Labeled]:
    """The pictures in the classes' folders, by class, then by path.

    Raises:
        DataError: A class's folder has no picture and must have one.
        OSError: A class's folder cannot be opened.
    """
    found: dict[str, list[Path]] = {}
    for folder in folders:
        visible(folder, LeftOut())  # is locked, or is not
        left_out = LeftOut()
        files = pictures_of(files_below(folder, left_out), left_out)
        if not files and empty_allowed:
            layout.left_out.unused.append(folder)
            continue
        if not files:
            others = [*left_out.files, *left_out.pictures]
            held = f", it holds {by_kind(others)}" if others else ""
            raise DataError(f"{folder} has no picture in a format that normlab reads{held}")
        layout.left_out.add(left_out)
        name = class_name(folder.name, split)
        if name in found:
            layout.notes.append(f"{name!r} is one class in two folders: its name is encoded twice")
        files.sort(key=lambda file: file.relative_to(folder).parts)
        found.setdefault(name, []).extend(files)
    return [Labeled(file, name) for name in sorted(found) for file in found[name]]


def _labeled_by(table: dict[str, str], folder: Path, layout: Layout) -> list[Labeled]:
    """The pictures that a table labels, by class, then by path.

    Raises:
        DataError: The table names files that are not there.
    """
    left_out = layout.left_out
    files = {labels.relative_name(file, folder): file for file in files_below(folder, left_out)}
    files.pop(labels.NAME, None)  # on a disk that ignores case it may be Labels.csv
    if missing := [Path(name) for name in table if name not in files]:
        raise DataError(
            f"{folder / labels.NAME} has labels without pictures: {len(missing):,} of its "
            f"{len(table):,} files are not there ({examples(missing, Path.as_posix)})"
        )
    pictures = [Labeled(files[name], label) for name, label in table.items() if label]
    labeled = {picture.file for picture in pictures}
    rest = [file for file in files.values() if file not in labeled]
    left_out.unlabeled += pictures_of(rest, left_out)
    return sorted(pictures, key=lambda picture: (picture.label, picture.file.parts))


def _sort_out(files: set[Path], layout: Layout) -> None:
    """Adds files beside folders of classes to what is left out."""
    layout.left_out.classless += pictures_of(sorted(files), layout.left_out)


def _check_classes(root: Path, layout: Layout) -> None:
    """Raises DataError if there are fewer than two classes, or the splits differ in them."""
    folder = layout.folders["train"]
    classes = {role: {p.label for p in pictures} for role, pictures in layout.splits.items()}
    if len(classes["train"]) < 2:
        one = "".join(f": it has one class, {name!r}" for name in classes["train"])
        inside = "".join(
            f"; if the classes are folders in it, give {root / name}"
            for name in classes["train"]
            if folder == root and any(entry.is_dir() for entry in (root / name).glob("*"))
        )
        table = folder / labels.NAME in layout.left_out.files
        headless = f"; the first line of its {labels.NAME} is not file,label" if table else ""
        left_out = f"; {layout.left_out}" if str(layout.left_out) else ""
        raise DataError(
            f"{folder} needs a subfolder for each of two classes or more, or "
            f"{labels.NAME} with the lines file,label{one}{inside}{headless}{left_out}"
        )
    for role, names in classes.items():
        if not names:
            raise DataError(
                f"{layout.folders[role]} has no picture with a label: give it folders of classes, "
                f"or {labels.NAME}; pictures to predict belong elsewhere"
            )
        refuse_other_classes(names, classes["train"], layout.folders[role], folder)


def _is_split(folder: Path, role: SplitName) -> bool:
    """Whether a folder is for a split and has classes. One with pictures alone may be a class."""
    return role_of(folder.name) == role and (
        (folder / labels.NAME).is_file() or any(entry.is_dir() for entry in folder.iterdir())
    )
