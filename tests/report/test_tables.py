import io

from rich.console import Console

from made_up import evaluation
from normlab.report.tables import class_table


def printed(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return [line.split() for line in console.file.getvalue().splitlines() if line.strip()]


def test_every_class_and_all_images_are_counted():
    rows = printed(class_table(evaluation([[1500, 500], [100, 900]])))
    assert ["airplane", "2,000", "1,500", "75.00%"] in rows
    assert ["automobile", "1,000", "900", "90.0%"] in rows
    assert ["all", "3,000", "2,400", "80.00%"] in rows


def test_a_name_is_no_markup_and_a_class_may_be_empty():
    rows = printed(class_table(evaluation([[3, 0], [0, 0]], classes=("[red]x[/red]", "none"))))
    assert ["[red]x[/red]", "3", "3", "100.0%"] in rows
    assert ["none", "0", "0", "–"] in rows
