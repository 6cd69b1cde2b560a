"""`labels.csv`, a table beside pictures: a line `file,label`, then one for each picture."""

import csv
import unicodedata
from pathlib import Path, PurePosixPath

from normlab.data.class_names import class_name
from normlab.errors import DataError
from normlab.storage.reading import read_text

NAME = "labels.csv"
COLUMNS = ("file", "label")
_DELIMITERS = ",;\t"  # some spreadsheets write the latter two


def read(folder: Path) -> dict[str, str] | None:
    """The labels of a folder's pictures; None if it has no table with a `file` and a `label`.

    Returns:
        The label of each file, which is named as `relative_name` does; empty if it has none.

    Raises:
        DataError: The table cannot be read, names a file outside of the folder, or gives a file two
            labels.
    """
    table = folder / NAME
    if not table.is_file():
        return None
    try:
        lines = read_text(table).splitlines()
        if (head := _head(lines)) is None:
            return None
        delimiter, file_column, label_column = head
        rows = [*csv.reader(lines[1:], delimiter=delimiter)]
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table} is not text in UTF-8: save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{table} is malformed: {error}") from error
    labels: dict[str, str] = {}
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        cells = row + [""] * (1 + max(file_column, label_column))
        name = _inside(table, cells[file_column].strip())
        label = class_name(cells[label_column].strip(), table)
        if labels.setdefault(name, label) != label:
            raise DataError(f"{table} gives {name} two labels, {labels[name]!r} and {label!r}")
    return labels


def relative_name(file: Path, folder: Path) -> str:
    """A file's path below a folder, with slashes, in Unicode's normal form C."""
    return unicodedata.normalize("NFC", file.relative_to(folder).as_posix())


def _head(lines: list[str]) -> tuple[str, int, int] | None:
    """The delimiter and the columns of file and label, by the table's first line."""
    for delimiter in _DELIMITERS if lines else ():
        names = [
            cell.strip().casefold() for cell in next(csv.reader([lines[0]], delimiter=delimiter))
        ]
        if set(COLUMNS) <= set(names):
            file_column, label_column = map(names.index, COLUMNS)
            return delimiter, file_column, label_column
    return None


def _inside(table: Path, name: str) -> str:
    path = PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/")))
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise DataError(f"{table} names {name!r}: name files by their path below its folder")
    return path.as_posix()
