"""The names of classes: one for each class, however its characters are encoded."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

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
        by_form.setdefault(unicodedata.normalize("NFKC", name).casefold(), []).append(name)
    for names in by_form.values():
        if len(names) > 1:
            yield (
                f"{listed(names)} are {len(names)} classes, although their names differ in case or "
                "in the form of characters only"
            )


def refuse_other_classes(
    classes: Iterable[str], trained: Iterable[str], split: object, train: object
) -> None:
    """Raises DataError if a split has not the classes of the training split."""
    for name in sorted(set(classes) ^ set(trained)):
        present, absent = (split, train) if name in classes else (train, split)
        raise DataError(f"{present} has a class {name!r} that {absent} lacks")
