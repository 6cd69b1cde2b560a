import io

from rich.console import Console

from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.report.run_page import runs_table
from normlab.table import Table

HOSTILE = Table(
    caption="<i>what</i>",
    head=("name", "number"),
    kinds=("name", "number"),
    rows=[("[red]x[/red]", "1"), ("two\nlines", "1,000"), ("<script>", "")],
    foot=("all", "1,001"),
)


def printed(thing, width=60):
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_every_cell_is_printed_on_one_line_as_plain_text():
    assert [line.strip() for line in printed(HOSTILE) if "──" not in line] == [
        "<i>what</i>",
        "name           number",
        "[red]x[/red]        1",
        "two lines       1,000",
        "<script>",
        "all             1,001",
    ]


def test_a_narrow_terminal_wraps_cells_and_loses_nothing():
    narrow, wide = (
        sorted(c for c in "".join(printed(summarize("seed-ln"), width)) if c.isalnum())
        for width in (40, 120)
    )
    assert narrow == wide


def test_a_notebook_shows_escaped_html():
    text = HOSTILE._repr_html_()
    assert "<caption>&lt;i&gt;what&lt;/i&gt;</caption>" in text
    assert "<th>name</th><th>number</th>" in text
    assert "<td>&lt;script&gt;</td>" in text
    assert text.count("<tr>") == 5


def test_runs_are_listed_row_by_row(trained):
    table = runs_table([trained])
    name, norm, parameters, _, last, best, _ = table.rows[0]
    assert (name, norm) == ("trained", "bn")
    network = Network(trained.layout)
    assert parameters == f"{sum(p.numel() for p in network.parameters()):,}"
    assert last == f"{trained.last.accuracy:.1%}"
    assert best == f"{trained.best.accuracy:.1%} ({trained.best.epoch})"
    assert "optimistic" in table.caption
