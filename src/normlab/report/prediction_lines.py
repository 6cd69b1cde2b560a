"""Answers on pictures as they leave the program: text for people, JSON lines, CSV."""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.progress import track

from normlab.errors import printable
from normlab.inference.predict import Prediction, Unreadable

FEW = 200  # pictures that need no progress bar


def write_answers(
    answers: Iterable[Prediction | Unreadable],
    names: Sequence[str],
    classes: Sequence[str],
    form: Literal["text", "json", "csv"],
) -> int:
    """Writes answers to the standard output as they come, and what could not be read to the error.

    Args:
        answers: One for each name.
        names: The pictures' names, to know their number and how wide they are.
        classes: The classes' names.
        form: How.

    Returns:
        How many could not be read.
    """
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["picture", "class", "probability", *map(printable, classes), "notes"])
    widths = [max(cell_len(printable(text)) for text in texts) for texts in (names, classes)]
    shown = track(
        answers,
        "Asking",
        total=len(names),
        console=errors,
        transient=True,
        # On a terminal the answers themselves are the progress.
        disable=len(names) <= FEW or not errors.is_terminal or sys.stdout.isatty(),
    )
    unreadable = 0
    for answer in shown:
        if isinstance(answer, Unreadable):
            unreadable += 1
            errors.print(f"normlab: {printable(answer.problem)}")
        elif form == "json":
            print(as_json(answer))
        elif form == "csv":
            shares = [f"{p:.6g}" for p in answer.probabilities]
            notes = "; ".join(answer.notes)
            table.writerow(
                [
                    printable(answer.name),
                    printable(answer.label),
                    f"{answer.probability:.6g}",
                    *shares,
                    notes,
                ]
            )
        else:
            print(line(answer, *widths))
    return unreadable


def as_json(answer: Prediction) -> str:
    """An answer as an object in a line: picture, class, probability, all probabilities, notes."""
    shares = zip(answer.classes, map(float, answer.probabilities), strict=True)
    return json.dumps(
        {
            "picture": answer.name,
            "class": answer.label,
            "probability": answer.probability,
            "probabilities": dict(shares),
            "notes": answer.notes,
        },
        allow_nan=False,
    )


def line(answer: Prediction, name_width: int = 1, class_width: int = 1) -> str:
    """An answer for people to read: name, class, probability, the next two, notes."""
    (label, probability), *others = answer.top(3)
    rest = ", ".join(f"{printable(other)} {share:.1%}" for other, share in others)
    notes = "".join(f"; {note}" for note in answer.notes)
    name, label = _padded(answer.name, name_width), _padded(label, class_width)
    return f"{name}  {label} {probability:6.1%}  ({rest}){notes}"


def _padded(text: str, width: int) -> str:
    """Text in so many of a terminal's cells: some characters take two."""
    text = printable(text)
    return text + " " * (width - cell_len(text))
