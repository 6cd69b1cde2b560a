"""Tables for the terminal."""

from rich import box
from rich.table import Table
from rich.text import Text

from normlab.analysis import percent
from normlab.evaluation import Evaluation


def class_table(evaluation: Evaluation) -> Table:
    """Accuracy of each class, all images counted."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class")
    for heading in ("images", "right", "accuracy"):
        table.add_column(heading, justify="right")
    images = evaluation.confusion.sum(axis=1)
    for k, name in enumerate(evaluation.classes):
        share = percent(evaluation.class_accuracy[k], images[k]) if images[k] else "–"
        # Text: a name with [brackets] is no markup
        table.add_row(
            Text(" ".join(name.split())), f"{images[k]:,}", f"{evaluation.confusion[k, k]:,}", share
        )
    total = len(evaluation.labels)
    table.add_section()
    table.add_row(
        "all", f"{total:,}", f"{evaluation.correct:,}", percent(evaluation.accuracy, total)
    )
    return table
