"""What a folder holds and normlab does not read: counted and named, so that nothing is missed."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from normlab.errors import printable
from normlab.wording import counted, listed

KINDS = 5  # are named
FOLDERS = 3


def by_kind(files: Iterable[Path]) -> str:
    """How many files there are of each kind, the most frequent first: `120 .bmp, 80 .tif`."""
    kinds = Counter(printable(file.suffix.lower()) or "without a suffix" for file in files)
    most = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
    parts = [f"{number:,} {kind}" for kind, number in most[:KINDS]]
    if others := sum(number for _, number in most[KINDS:]):
        parts.append(f"{others:,} of other kinds")
    return ", ".join(parts)


def named(folders: Sequence[Path]) -> str:
    """Folders by their names, sorted: `val/`, or `a/, b/, c/ and 4 more folders`."""
    names = [f"{printable(folder.name)}/" for folder in sorted(folders)]
    if more := names[FOLDERS:]:
        return f"{', '.join(names[:FOLDERS])} and {counted(len(more), 'more folder')}"
    return listed(names)
