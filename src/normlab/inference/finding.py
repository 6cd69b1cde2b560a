"""The pictures that inputs of `predict` name: files, folders, patterns; and what is left out."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from normlab.data.left_out import by_kind, named
from normlab.errors import UsageError
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
class LeftOutPictures:
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


def find_pictures(inputs: Sequence[str]) -> tuple[list[str], LeftOutPictures]:
    """The picture files that inputs name, and what their folders and patterns leave out.

    Args:
        inputs: Files, folders (with their subfolders), patterns, or `-` for the standard input.

    Raises:
        UsageError: An input names no picture.
    """
    left_out = LeftOutPictures()
    found = {name: _find(name, left_out) for name in dict.fromkeys(inputs)}
    for name, files in found.items():
        if not files:
            held = f"; {left_out}" if str(left_out) else ""
            raise UsageError(
                f"{name or repr(name)}: there is no such picture, nor a folder with pictures{held}"
            )
    return [file for name in inputs for file in found[name]], left_out


def _find(name: str, left_out: LeftOutPictures) -> list[str]:
    """The files that one input names, sorted."""
    if name == "-" or os.path.isfile(name):  # noqa: PTH113 — False for what is no valid path
        return [name]
    if os.path.isdir(name):  # noqa: PTH112
        files = _in_folder(Path(name), left_out)
    else:
        files = _of_pattern(Path(name), left_out) if name else []
    return [str(file) for file in sorted(files)]


def _in_folder(folder: Path, left_out: LeftOutPictures) -> list[Path]:
    """The pictures in a folder. Hidden ones are not: macOS puts a `._NAME` beside each file."""

    def locked(error: OSError) -> None:
        left_out.locked.append(Path(error.filename))

    pictures = []
    for place, folders, names in os.walk(folder, onerror=locked):
        folders[:] = [name for name in folders if not name.startswith(".")]
        left_out.folders += [link for name in folders if (link := Path(place, name)).is_symlink()]
        for name in names:
            path = Path(place, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SUFFIXES and os.path.isfile(path):  # noqa: PTH113 — it may be locked
                pictures.append(path)
            else:
                (left_out.pictures if suffix in PICTURES else left_out.files).append(path)
    return pictures


def _of_pattern(pattern: Path, left_out: LeftOutPictures) -> list[Path]:
    """The files that match a pattern; none if it is no valid one."""
    anchor = Path(pattern.anchor)
    try:
        matches = [
            match
            for match in anchor.glob(str(pattern.relative_to(anchor)))
            if _names_hidden(pattern, match)
        ]
        searched = {parent for match in matches for parent in match.parents}
        for match in matches:
            if match.is_dir() and match not in searched:
                left_out.folders.append(match)
            elif match.is_symlink() and not match.exists():
                left_out.pictures.append(match)
        return [match for match in matches if match.is_file()]
    except (OSError, ValueError, NotImplementedError):
        return []


def _names_hidden(pattern: Path, path: Path) -> bool:
    """Whether a pattern names every hidden part of a path, as a shell requires."""
    named = [part for part in pattern.parts if part.startswith(".")]
    hidden = (part for part in path.parts if part.startswith("."))
    return all(any(fnmatch(part, name) for name in named) for part in hidden)
