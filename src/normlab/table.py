"""Tables of text, for the terminal, notebooks and pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import rich.table
from rich import box
from rich.console import Group
from rich.text import Text

from normlab.errors import printable


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text. Prints with rich; shows as HTML in a notebook.

    It may be wider than the terminal: print it with `crop=False`.

    Attributes:
        caption: The table's caption.
        head: The columns' headings.
        kinds: The columns' kinds: `name` (may be long), `plain` or `number` (right-aligned).
        rows: The cells, row by row.
        foot: A last row with totals; empty if there is none.
    """

    caption: str
    head: Sequence[str]
    kinds: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: Sequence[str] = ()

    def __rich__(self) -> Group:
        table = rich.table.Table(box=box.SIMPLE_HEAD)
        for k, (heading, kind) in enumerate(zip(self.head, self.kinds, strict=True)):
            # A number in two parts is read as two: only headings wrap, between words.
            cells = [row[k] for row in (*self.rows, self.foot) if row]
            unbroken = [*map(_line, (*cells, *heading.split()))]
            table.add_column(
                _line(heading),
                justify="right" if kind == "number" else "left",
                min_width=max((text.cell_len for text in unbroken), default=1),
            )
        for row in self.rows:
            table.add_row(*map(_line, row))
        if self.foot:
            table.add_section()
            table.add_row(*map(_line, self.foot))
        return Group(Text(printable(self.caption)), table)

    def _repr_html_(self) -> str:
        def row(cells: Sequence[str], tag: str = "td") -> str:
            return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"

        body = "".join(map(row, [*self.rows, *([self.foot] if self.foot else [])]))
        return (
            f"<table><caption>{escape(self.caption)}</caption>{row(self.head, 'th')}{body}</table>"
        )


def _line(cell: str) -> Text:
    """A cell on one line. It is Text because [brackets] in a name are not markup."""
    return Text(printable(" ".join(cell.split())))
