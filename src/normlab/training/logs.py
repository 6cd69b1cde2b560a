"""A run's epochs, written where other programs read them: a table, and TensorBoard's files."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from normlab.config import LogFormat
from normlab.errors import UsageError
from normlab.runs.run import Epoch
from normlab.storage.files import write_atomically
from normlab.training.callbacks import Callback
from normlab.training.state import TrainingState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

CSV = "metrics.csv"
TENSORBOARD = "tensorboard"  # a folder


class CsvLog(Callback):
    """Writes `metrics.csv` into the run's folder: one row per epoch, the columns of `Epoch`.

    It has all epochs after each of them, those before a resumed run was stopped, too.
    """

    def on_epoch_end(self, state: TrainingState) -> None:
        """Writes the table anew."""
        text = io.StringIO()
        table = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
        table.writeheader()
        table.writerows(map(asdict, state.run.epochs))
        write_atomically(state.run.path / CSV, text.getvalue())


class TensorBoardLog(Callback):
    """Writes TensorBoard's event files into the run's folder `tensorboard`.

    They have the loss and the accuracy of both splits, and the learning rate, by epoch.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        if find_spec("tensorboard") is None:
            raise UsageError(
                '--log tensorboard needs tensorboard: pip install "normlab[tensorboard]"'
            )
        self._writer: SummaryWriter | None = None

    def on_epoch_end(self, state: TrainingState) -> None:
        """Writes the epoch's values. Those of an epoch that is trained again are replaced."""
        from torch.utils.tensorboard import SummaryWriter

        epoch = state.run.last
        if self._writer is None:
            folder = state.run.path / TENSORBOARD
            self._writer = SummaryWriter(str(folder), purge_step=epoch.epoch)
        values = {
            "loss/train": epoch.train_loss,
            "accuracy/train": epoch.train_accuracy,
            f"loss/{epoch.split}": epoch.loss,
            f"accuracy/{epoch.split}": epoch.accuracy,
            "learning rate": epoch.learning_rate,
        }
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def on_run_end(self, state: TrainingState) -> None:
        """Closes the file."""
        del state
        if self._writer is not None:
            self._writer.close()


_LOGS: dict[LogFormat, Callable[[], Callback]] = {"csv": CsvLog, "tensorboard": TensorBoardLog}


def log_callbacks(formats: Sequence[LogFormat]) -> list[Callback]:
    """The callbacks that write these logs.

    Raises:
        UsageError: A log's library is not installed.
    """
    return [_LOGS[name]() for name in dict.fromkeys(formats)]
