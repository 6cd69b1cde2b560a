"""Predictions as the program prints them: text for people, JSON lines, CSV."""

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
from normlab.storage.cells import cell

FEW = 200  # so many pictures need no progress bar


def write_predictions(
    predictions: Iterable[Prediction | Unreadable],
    names: Sequence[str],
    classes: Sequence[str],
    style: Literal["text", "json", "csv"],
) -> int:
    """Writes predictions to the standard output as they come, and problems to the standard error.

    Args:
        predictions: One for each name.
        names: The pictures' names: their number and their width are needed first.
        classes: The classes' names.
        style: Text for people, JSON lines or CSV.

    Returns:
        How many pictures could not be read.
    """
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if style == "csv":
        table.writerow(map(cell, ["picture", "class", "probability", *classes, "notes"]))
    widths = [max(cell_len(printable(text)) for text in texts) for texts in (names, classes)]
    tracked = track(
        predictions,
        "Predicting",
        total=len(names),
        console=errors,
        transient=True,
        # On a terminal the predictions themselves show the progress.
        disable=len(names) <= FEW or not errors.is_terminal or sys.stdout.isatty(),
    )
    unreadable = 0
    for prediction in tracked:
        if isinstance(prediction, Unreadable):
            unreadable += 1
            errors.print(f"normlab: {printable(prediction.problem)}")
        elif style == "json":
            print(as_json(prediction))
        elif style == "csv":
            table.writerow(map(cell, _csv_row(prediction)))
        else:
            print(as_text(prediction, *widths))
    return unreadable


def as_json(prediction: Prediction) -> str:
    """A prediction as one line of JSON: picture, class, probability, all probabilities, notes."""
    probabilities = zip(prediction.classes, map(float, prediction.probabilities), strict=True)
    return json.dumps(
        {
            "picture": prediction.name,
            "class": prediction.label,
            "probability": prediction.probability,
            "probabilities": dict(probabilities),
            "notes": prediction.notes,
        },
        allow_nan=False,
    )


def as_text(prediction: Prediction, name_width: int = 1, class_width: int = 1) -> str:
    """A prediction on one line for people: name, class, probability, the next two, notes."""
    (label, probability), *others = prediction.top(3)
    rest = ", ".join(f"{printable(other)} {share:.1%}" for other, share in others)
    notes = "".join(f"; {printable(note)}" for note in prediction.notes)
    name, label = _padded(prediction.name, name_width), _padded(label, class_width)
    return f"{name}  {label} {probability:6.1%}  ({rest}){notes}"


def _csv_row(prediction: Prediction) -> list[str]:
    return [
        prediction.name,
        prediction.label,
        f"{prediction.probability:.6g}",
        *(f"{probability:.6g}" for probability in prediction.probabilities),
        "; ".join(prediction.notes),
    ]


def _padded(text: str, width: int) -> str:
    """Text padded to a width in terminal cells: some characters take two."""
    text = printable(text)
    return text + " " * (width - cell_len(text))
