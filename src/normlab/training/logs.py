"""A run's epochs, written where other programs read them: a table, TensorBoard's files, MLflow."""

import csv
import hashlib
import io
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from normlab.config import LogFormat
from normlab.errors import UsageError, one_line
from normlab.notes import note
from normlab.runs.metrics import Epoch
from normlab.storage.files import write_atomically
from normlab.training.callbacks import Callback
from normlab.training.state import TrainingState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient
    from torch.utils.tensorboard import SummaryWriter

CSV = "metrics.csv"
TENSORBOARD = "tensorboard"  # a folder
MLFLOW = "mlflow.txt"  # the hash of where MLflow has these epochs, and the number of its run


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

    def on_run_end(self, state: TrainingState) -> None:
        """Writes it again: the last epoch may have been recalibrated."""
        self.on_epoch_end(state)


class TensorBoardLog(Callback):
    """Writes TensorBoard's event files into the run's folder `tensorboard`.

    They have the loss and the accuracy of both splits, and the learning rate, by epoch.

    Raises:
        UsageError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        _require("tensorboard", "tensorboard")
        self._writer: SummaryWriter | None = None

    def on_epoch_end(self, state: TrainingState) -> None:
        """Writes the epoch's values. Those of an epoch that is trained again are replaced."""
        from torch.utils.tensorboard import SummaryWriter

        epoch = state.run.last
        if self._writer is None:
            folder = state.run.path / TENSORBOARD
            self._writer = SummaryWriter(str(folder), purge_step=epoch.epoch)
        for name, value in _values(epoch).items():
            self._writer.add_scalar(name, value, epoch.epoch)
        self._writer.flush()

    def on_run_end(self, state: TrainingState) -> None:
        """Closes the file, after the last epoch's values if it was recalibrated."""
        if state.run.last.without_recalibration is not None:
            self.on_epoch_end(state)
        if self._writer is not None:
            self._writer.close()


class MlflowLog(Callback):
    """Sends the epochs to MLflow: where its own settings say, such as MLFLOW_TRACKING_URI.

    The run has the settings as parameters, and the values of `TensorBoardLog` by epoch. A run that
    is resumed goes on in the same run of MLflow's, whose number `mlflow.txt` in the run's folder
    has; it gets the epochs that it lacks.

    Raises:
        UsageError: MLflow is not installed, or cannot be used when training begins. Later, epochs
            that it does not take are noted and sent again after the next one.
    """

    def __init__(self) -> None:
        _require("mlflow", "mlflow")
        self._client: MlflowClient | None = None
        self._run = ""
        self._sent: set[int] = set()

    def on_step_end(self, state: TrainingState) -> None:
        """Begins MLflow's run with the first step."""
        if self._client is None:
            self._begin(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Sends the epoch's values, and those of earlier epochs that MLflow does not have yet."""
        self._send(state)

    def on_run_end(self, state: TrainingState) -> None:
        """Ends MLflow's run."""
        if self._client is None:  # every epoch was trained before the run was stopped
            self._begin(state)
        if state.run.last.without_recalibration is not None:
            self._sent.discard(state.run.last.epoch)
        self._send(state, end=True)

    def _begin(self, state: TrainingState) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # training tells nobody else
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        run, file = state.run, state.run.path / MLFLOW
        try:
            client = MlflowClient()
            # Not the address itself: it may have a password.
            place = hashlib.sha256(client.tracking_uri.encode()).hexdigest()
            text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
            before, _, number = text.strip().partition("\n")
            if before == place:
                self._run = number
                client.update_run(self._run, status="RUNNING")
                history = client.get_metric_history(self._run, "loss/train")
                self._sent = {metric.step for metric in history}
            else:
                name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "normlab")
                experiment = client.get_experiment_by_name(name)
                number = experiment.experiment_id if experiment else client.create_experiment(name)
                self._run = client.create_run(number, run_name=run.path.name).info.run_id
                write_atomically(file, f"{place}\n{self._run}\n")
            settings = asdict(run.config) | {"layout": run.layout}
            parameters = [Param(key, str(value)) for key, value in settings.items()]
            client.log_batch(self._run, params=parameters)  # once more changes nothing
        except (MlflowException, OSError) as error:
            anew = f": delete {file} to begin another run there" if self._run else ""
            raise UsageError(f"--log mlflow: {one_line(error)}{anew}") from None
        self._client = client

    def _send(self, state: TrainingState, *, end: bool = False) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        assert self._client is not None
        missing = [epoch for epoch in state.run.epochs if epoch.epoch not in self._sent]
        now = round(1000 * time.time())
        try:
            for epoch in missing:
                values = _values(epoch).items()
                metrics = [Metric(name, value, now, epoch.epoch) for name, value in values]
                self._client.log_batch(self._run, metrics)
                self._sent.add(epoch.epoch)
            if end:
                self._client.set_terminated(self._run)
        except (MlflowException, OSError) as error:
            what = f"epoch {state.epoch}" if missing else "the end of the run"
            note(f"MLflow did not accept {what}: {one_line(error)}")


def _values(epoch: Epoch) -> dict[str, float]:
    """An epoch's values, by the names that they have in other programs."""
    return {
        "loss/train": epoch.train_loss,
        "accuracy/train": epoch.train_accuracy,
        f"loss/{epoch.split}": epoch.loss,
        f"accuracy/{epoch.split}": epoch.accuracy,
        "learning rate": epoch.learning_rate,
    }


def _require(package: str, log: LogFormat) -> None:
    if find_spec(package) is None:
        raise UsageError(f'--log {log} needs {package}: pip install "normlab[{log}]"')


_LOGS: dict[LogFormat, Callable[[], Callback]] = {
    "csv": CsvLog,
    "tensorboard": TensorBoardLog,
    "mlflow": MlflowLog,
}


def log_callbacks(formats: Sequence[LogFormat]) -> list[Callback]:
    """The callbacks that write these logs.

    Raises:
        UsageError: A log's library is not installed.
    """
    return [_LOGS[name]() for name in dict.fromkeys(formats)]
