"""A run's measurements: metrics.jsonl, one line per epoch."""

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from normlab.data.dataset import SplitName
from normlab.errors import RunError
from normlab.ranges import Positive, Range, Seconds, Share
from normlab.storage.checksums import add_checksum, verify_checksum
from normlab.storage.reading import read_text
from normlab.storage.records import MalformedError, build, entry, parse, stated

SCHEMA = 2  # of config.json and metrics.jsonl
LARGEST_LOSS = 3.5e38  # a float32's
Loss = Annotated[float, Range(at_least=0, at_most=LARGEST_LOSS)]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of metrics.jsonl. Accuracies are shares from 0 to 1, losses are in nats per image.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean training loss over the epoch's augmented images, measured while the weights
            changed; with label smoothing, the loss against smoothed labels; with a teacher, the
            weighted sum of both losses; with balanced classes, the mean weighted by class.
        train_accuracy: Training accuracy, measured meanwhile too, never weighted by class.
        split: The split that `loss` and `accuracy` were measured on after the epoch: `test` or
            `holdout`; `train` where there is neither: then they equal the training's.
        loss: Mean negative log-likelihood on that split.
        accuracy: Share of images classified correctly on that split.
        learning_rate: Learning rate of the epoch's last step.
        seconds: Time for training and evaluation; the parts of a resumed epoch are added up.
        without_recalibration: Accuracy before running statistics were measured anew; None if they
            were not.
    """

    epoch: Positive
    train_loss: Loss
    train_accuracy: Share
    split: SplitName
    loss: Loss
    accuracy: Share
    learning_rate: Annotated[float, Range(at_least=0)]
    seconds: Seconds
    without_recalibration: Share | None = None


def read_metrics(path: Path) -> tuple[Epoch, ...]:
    """Reads metrics.jsonl. A last line that was cut off is left out: its epoch is trained again.

    Raises:
        RunError: Another line is damaged, or a newer normlab wrote it.
    """
    try:
        lines = read_text(path).splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    epochs: list[Epoch] = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(_parse_epoch(line, number, path))
        except MalformedError as error:
            raise RunError(f"{path}, line {number}, is damaged: {error}") from None
    return tuple(epochs)


def _parse_epoch(line: str, number: int, path: Path) -> Epoch:
    content = parse(line)
    schema = entry(content, "schema", object)
    if schema != SCHEMA:
        written = reprlib.repr(schema)
        raise RunError(f"{path} has schema {written}, this normlab reads schema {SCHEMA}")
    content = verify_checksum(content)
    del content["schema"]
    epoch = build(Epoch, content)
    if epoch.epoch != number:
        raise MalformedError(f"epoch {epoch.epoch} stands in its place")
    return epoch


def as_line(epoch: Epoch) -> str:
    """The line of metrics.jsonl, with its checksum."""
    content = {"schema": SCHEMA} | stated(epoch, "without_recalibration")
    return json.dumps(add_checksum(content), allow_nan=False) + "\n"
