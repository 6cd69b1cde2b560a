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
    console.print(thing, crop=False)
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


def test_a_narrow_terminal_breaks_no_cell():
    wide = printed(summarize("seed-ln"), 120)
    for width in (20, 40, 60):
        narrow = {" ".join(line.split()) for line in printed(summarize("seed-ln"), width)}
        assert {" ".join(line.split()) for line in wide if " × " in line} <= narrow


def test_a_narrow_terminal_breaks_headings_between_words_only():
    table = Table(
        caption="", head=("run", "training accuracy"), kinds=("name", "number"), rows=[("a", "1")]
    )
    assert "training accuracy" in "\n".join(printed(table, 40))
    assert [line.split() for line in printed(table, 20)][:2] == [["training"], ["run", "accuracy"]]


def test_a_notebook_shows_escaped_html():
    text = HOSTILE._repr_html_()
    assert "<caption>&lt;i&gt;what&lt;/i&gt;</caption>" in text
    assert "<th>name</th><th>number</th>" in text
    assert "<td>&lt;script&gt;</td>" in text
    assert text.count("<tr>") == 5


def test_runs_are_listed_row_by_row(trained):
    table = runs_table([trained])
    name, last, norm, parameters, _, best, _ = table.rows[0]
    assert (name, norm) == ("trained", "bn")
    network = Network(trained.layout)
    assert parameters == f"{sum(p.numel() for p in network.parameters()):,}"
    assert last == f"{trained.last.accuracy:.1%}"
    assert best == f"{trained.best.accuracy:.1%} ({trained.best.epoch})"
    assert "optimistic" in table.caption
