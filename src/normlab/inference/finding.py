"""The pictures that inputs of `predict` name: files, folders, patterns; and what is left out."""

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from normlab.data.left_out import LeftOut, files_below, pictures_of
from normlab.errors import UsageError


def find_pictures(inputs: Sequence[str]) -> tuple[list[str], LeftOut]:
    """The picture files that inputs name, and what their folders and patterns leave out.

    Args:
        inputs: Files, folders (with their subfolders), patterns, or `-` for the standard input.

    Raises:
        UsageError: An input names no picture.
    """
    left_out = LeftOut()
    found = {name: _find(name, left_out) for name in dict.fromkeys(inputs)}
    for name, files in found.items():
        if not files:
            held = f"; {left_out}" if str(left_out) else ""
            raise UsageError(
                f"{name or repr(name)}: there is no such picture, nor a folder with pictures{held}"
            )
    return [file for name in inputs for file in found[name]], left_out


def _find(name: str, left_out: LeftOut) -> list[str]:
    """The files that one input names, sorted."""
    if name == "-" or os.path.isfile(name):  # noqa: PTH113 — False for what is no valid path
        return [name]
    if os.path.isdir(name):  # noqa: PTH112
        files = _in_folder(Path(name), left_out)
    else:
        files = _of_pattern(Path(name), left_out) if name else []
    return [str(file) for file in sorted(files)]


def _in_folder(folder: Path, left_out: LeftOut) -> list[Path]:
    """The pictures in a folder. Hidden ones are not: macOS puts a `._NAME` beside each file."""
    pictures: list[Path] = []
    for picture in pictures_of(files_below(folder, left_out), left_out):
        is_file = os.path.isfile(picture)  # noqa: PTH113 — it may be locked
        (pictures if is_file else left_out.pictures).append(picture)
    return pictures


def _of_pattern(pattern: Path, left_out: LeftOut) -> list[Path]:
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
