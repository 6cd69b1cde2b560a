"""Predictions for pictures as lines of output: text, JSON lines, CSV."""

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

FEW = 200  # so many pictures need no progress bar


def write_predictions(
    predictions: Iterable[Prediction | Unreadable],
    names: Sequence[str],
    classes: Sequence[str],
    form: Literal["text", "json", "csv"],
) -> int:
    """Writes predictions to standard output as they come, unreadable pictures to standard error.

    Args:
        predictions: One for each name.
        names: The names of the pictures; their number and widths are needed in advance.
        classes: The names of the classes.
        form: The format.

    Returns:
        The number of pictures that could not be read.
    """
    errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if form == "csv":
        table.writerow(["picture", "class", "probability", *map(printable, classes), "notes"])
    widths = [max(cell_len(printable(text)) for text in texts) for texts in (names, classes)]
    shown = track(
        predictions,
        "Predicting",
        total=len(names),
        console=errors,
        transient=True,
        # On a terminal the predictions themselves show the progress.
        disable=len(names) <= FEW or not errors.is_terminal or sys.stdout.isatty(),
    )
    unreadable = 0
    for prediction in shown:
        if isinstance(prediction, Unreadable):
            unreadable += 1
            errors.print(f"normlab: {printable(prediction.problem)}")
        elif form == "json":
            print(as_json(prediction))
        elif form == "csv":
            shares = [f"{p:.6g}" for p in prediction.probabilities]
            notes = "; ".join(prediction.notes)
            table.writerow(
                [
                    printable(prediction.name),
                    printable(prediction.label),
                    f"{prediction.probability:.6g}",
                    *shares,
                    notes,
                ]
            )
        else:
            print(line(prediction, *widths))
    return unreadable


def as_json(prediction: Prediction) -> str:
    """A prediction as a JSON object in one line: class, probability, all probabilities, notes."""
    shares = zip(prediction.classes, map(float, prediction.probabilities), strict=True)
    return json.dumps(
        {
            "picture": prediction.name,
            "class": prediction.label,
            "probability": prediction.probability,
            "probabilities": dict(shares),
            "notes": prediction.notes,
        },
        allow_nan=False,
    )


def line(prediction: Prediction, name_width: int = 1, class_width: int = 1) -> str:
    """A prediction as text: name, class, probability, the next two classes, notes."""
    (label, probability), *others = prediction.top(3)
    rest = ", ".join(f"{printable(other)} {share:.1%}" for other, share in others)
    notes = "".join(f"; {note}" for note in prediction.notes)
    name, label = _padded(prediction.name, name_width), _padded(label, class_width)
    return f"{name}  {label} {probability:6.1%}  ({rest}){notes}"


def _padded(text: str, width: int) -> str:
    """Text padded to a number of terminal cells: some characters take two."""
    text = printable(text)
    return text + " " * (width - cell_len(text))
