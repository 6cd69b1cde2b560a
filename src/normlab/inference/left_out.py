"""What the folders and patterns given to `predict` hold and normlab does not read."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from normlab.data.left_out import by_kind, named
from normlab.inference.pictures import SUFFIXES
from normlab.wording import counted

# Suffixes of pictures, whether they are read or not. A file with another is no picture.
PICTURES = (
    *SUFFIXES,
    *(".apng", ".arw", ".avif", ".cr2", ".cr3", ".dng", ".exr", ".gif", ".heic", ".heif", ".ico"),
    *(".jfif", ".jp2", ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".svg"),
    *(".tga", ".tif", ".tiff"),
)


@dataclass
class LeftOut:
    """What is not read. Hidden files and folders do not count, nor what an input names itself.

    Attributes:
        pictures: Pictures of kinds that are not read, and links to pictures that are missing.
        files: Files that are no pictures.
        folders: Folders that are links, or that a pattern names: they are not searched.
        locked: Folders that cannot be opened.
    """

    pictures: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    locked: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        """What is left out, on one line; empty if nothing is."""
        parts = []
        if self.pictures:
            parts.append(
                f"{counted(len(self.pictures), 'picture')} ({by_kind(self.pictures)}: "
                "PNG, JPEG, WebP and BMP are read)"
            )
        if self.files:
            parts.append(f"{counted(len(self.files), 'other file')} ({by_kind(self.files)})")
        if self.folders:
            parts.append(f"{named(self.folders)} (give folders by their own names)")
        if self.locked:
            parts.append(f"{named(self.locked)} (cannot be opened)")
        return f"left out: {', '.join(parts)}" if parts else ""


def find_left_out(inputs: Sequence[str]) -> LeftOut:
    """What the folders and patterns among these inputs hold and `find_pictures` leaves out."""
    left_out = LeftOut()
    for name in dict.fromkeys(inputs):
        path = Path(name)
        if os.path.isdir(name):  # noqa: PTH112 — False for what is no valid path
            _in_folder(path, left_out)
        elif name not in ("", "-"):
            _of_pattern(path, left_out)
    return left_out


def _of_pattern(pattern: Path, left_out: LeftOut) -> None:
    matches = list(_matches(pattern))
    searched = {parent for match in matches for parent in match.parents}
    for match in matches:
        if match.is_dir() and match not in searched:
            left_out.folders.append(match)
        elif match.is_symlink() and not match.exists():
            left_out.pictures.append(match)


def _in_folder(folder: Path, left_out: LeftOut) -> None:
    def locked(error: OSError) -> None:
        left_out.locked.append(Path(error.filename))

    for place, folders, names in os.walk(folder, onerror=locked):
        folders[:] = [name for name in folders if not name.startswith(".")]
        left_out.folders += [link for name in folders if (link := Path(place, name)).is_symlink()]
        for name in names:
            path = Path(place, name)
            suffix = path.suffix.lower()
            if name.startswith(".") or (suffix in SUFFIXES and path.is_file()):
                continue
            (left_out.pictures if suffix in PICTURES else left_out.files).append(path)


def _matches(pattern: Path) -> Iterator[Path]:
    """What a pattern names, but nothing hidden; none if it is no valid pattern."""
    anchor = Path(pattern.anchor)
    try:
        for match in anchor.glob(str(pattern.relative_to(anchor))):
            if not any(part.startswith(".") and part != ".." for part in match.parts):
                yield match
    except (OSError, ValueError, NotImplementedError):
        return
