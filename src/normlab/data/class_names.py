"""The names of classes: one for each class, however its characters are encoded."""

import unicodedata
from collections.abc import Iterator, Sequence, Set

from normlab.errors import DataError
from normlab.wording import listed


def class_name(name: str, where: object) -> str:
    """A class's name in Unicode's normal form C: macOS and Linux write one name differently.

    Args:
        name: The name as a folder or a file has it.
        where: What has it, for the error.

    Raises:
        DataError: The name has control characters: it is shown in tables, pages and error lines.
    """
    if not name.isprintable():
        raise DataError(f"{where} has a class {name!r}: rename it, without control characters")
    return unicodedata.normalize("NFC", name)


def look_alikes(classes: Sequence[str]) -> Iterator[str]:
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


def refuse_other_classes(
    classes: Set[str], trained: Set[str], split: object, train: object
) -> None:
    """Raises DataError if a split has not the classes of the training split."""
    for name in sorted(classes ^ trained):
        present, absent = (split, train) if name in classes else (train, split)
        line = f"{present} has a class {name!r} that {absent} lacks"
        others = (trained if name in classes else classes) - (classes & trained)
        alike = [other for other in sorted(others) if _form(other) == _form(name)]
        if alike:
            line += f": its {alike[0]!r} is another ({alike[0]!a}, not {name!a}), rename one"
        raise DataError(line)


def _form(name: str) -> str:
    """A name without what eyes may not see: case, and the form of its characters."""
    return unicodedata.normalize("NFKC", name).casefold()
