"""The pictures in a folder, and what it holds besides: counted and named, so none is missed."""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from normlab.errors import printable
from normlab.wording import counted, listed

KINDS = 5  # are named
NAMES = 3
_OF_SYSTEMS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")


@dataclass
class LeftOut:
    """What is in folders and is not read, apart from what an input names itself.

    Attributes:
        pictures: Pictures of kinds that are not read, and what is named like a picture and is none
            that can be opened: broken links, pipes.
        files: Files that are no pictures.
        hidden: Hidden files and folders, and folders that operating systems make.
        folders: Folders that are links, or that a pattern names: they are not searched.
        locked: Folders that cannot be opened.
    """

    pictures: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)

    def add(self, other: "LeftOut") -> None:
        """Adds what was left out elsewhere."""
        for kind in fields(other):
            getattr(self, kind.name).extend(getattr(other, kind.name))

    def parts(self) -> Iterator[str]:
        """What is left out, one kind of it at a time."""
        if self.pictures:
            from normlab.data.formats import HEIC_SUFFIXES  # Pillow takes time to import

            kinds = by_kind(self.pictures)
            what = counted(len(self.pictures), "picture")
            heic = any(file.suffix.lower() in HEIC_SUFFIXES for file in self.pictures)
            hint = "; pip install pillow-heif for HEIC" if heic else ""
            yield f"{what} that cannot be read ({kinds}: {examples(self.pictures)}{hint})"
        if self.files:
            what = counted(len(self.files), "other file")
            yield f"{what} ({by_kind(self.files)}: {examples(self.files)})"
        if self.hidden:
            yield f"{len(self.hidden):,} hidden ({examples(self.hidden)})"
        if self.folders:
            yield f"{named(self.folders)} (give folders by their own names)"
        if self.locked:
            yield f"{named(self.locked)} (cannot be opened)"

    def __str__(self) -> str:
        """What is left out, on one line; empty if nothing is."""
        parts = [*self.parts()]
        return f"left out: {', '.join(parts)}" if parts else ""


def visible(folder: Path, left_out: LeftOut) -> list[Path]:
    """What is in a folder and is not hidden, sorted by name. Raises OSError if it is locked."""
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    left_out.hidden += [entry for entry in entries if _is_hidden(entry.name)]
    return [entry for entry in entries if not _is_hidden(entry.name)]


def files_below(folder: Path, left_out: LeftOut) -> Iterator[Path]:
    """All files in a folder and in those below it, except hidden ones and linked folders."""

    def locked(error: OSError) -> None:
        left_out.locked.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=locked):
        hidden = [name for name in (*folders, *names) if _is_hidden(name)]
        left_out.hidden += [Path(place, name) for name in hidden]
        folders[:] = [name for name in folders if not _is_hidden(name)]
        left_out.folders += [link for name in folders if (link := Path(place, name)).is_symlink()]
        yield from (Path(place, name) for name in names if not _is_hidden(name))


def pictures_of(files: Iterable[Path], left_out: LeftOut) -> list[Path]:
    """The pictures of formats that are read. What else there is, is added to what is left out."""
    from normlab.data.formats import is_picture, is_unread_picture  # Pillow takes time to import

    pictures = []
    for file in files:
        if is_picture(file):
            pictures.append(file)
        else:
            (left_out.pictures if is_unread_picture(file) else left_out.files).append(file)
    return pictures


def by_kind(files: Collection[Path]) -> str:
    """How many files there are of each kind, the most frequent first: `120 .xml, 80 .txt`."""
    kinds = Counter(printable(file.suffix.lower()) or "without a suffix" for file in files)
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{number:,} {kind}" for kind, number in most[:KINDS]]
    if others := sum(number for _, number in most[KINDS:]):
        parts.append(f"{others:,} of other kinds")
    return ", ".join(parts)


def examples(files: Sequence[Path], name: Callable[[Path], str] = lambda file: file.name) -> str:
    """The first three files by name: `a.txt, b.txt, c.txt …`."""
    first = sorted(map(name, files))[:NAMES]
    return ", ".join(map(printable, first)) + (" …" if len(files) > NAMES else "")


def named(folders: Sequence[Path]) -> str:
    """Folders by their names, sorted: `val/`, or `a/, b/, c/ and 4 more folders`."""
    names = [f"{printable(folder.name)}/" for folder in sorted(folders)]
    if more := names[NAMES:]:
        return f"{', '.join(names[:NAMES])} and {counted(len(more), 'more folder')}"
    return listed(names)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _OF_SYSTEMS
