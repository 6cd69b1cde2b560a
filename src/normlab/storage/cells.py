"""Cells of CSV files that spreadsheets open: no text from outside may become a formula there."""

import re

from normlab.errors import printable

_FORMULA = tuple("=+-@＝＋－＠")  # a spreadsheet takes the wide forms too
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def cell(value: object) -> object:
    """A cell's value: a text that begins as a formula does gets an apostrophe before it.

    Numbers, also those in a text, stay as they are. Control characters are replaced.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text
