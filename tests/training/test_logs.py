import csv
import dataclasses

import pytest

from normlab import Callback, Run, RunConfig, resume, train
from normlab.errors import UsageError
from normlab.training.logs import log_callbacks

CONFIG = RunConfig(network="C:2 P GAP FC", dataset="digits", recipe="demo", epochs=3, batch_size=64)
FLAGS = (
    "C:2 P GAP FC",
    "--dataset",
    "digits",
    "--recipe",
    "demo",
    "--batch",
    "64",
    "--epochs",
    "2",
)


class Fails(Callback):
    """Ends a run in its third epoch, as a full disk may."""

    def on_epoch_end(self, state):
        if state.epoch == 2:
            raise OSError("enough")


def rows(run):
    with (run.path / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow(1)
def test_the_table_has_the_epochs(tmp_path, cli):
    out = tmp_path / "run"
    code, _, errors = cli("train", *FLAGS, "--log", "csv", "--out", out)
    assert code == 0, errors
    run = Run.open(out)
    expected = [
        {key: "" if value is None else str(value) for key, value in epoch.items()}
        for epoch in map(dataclasses.asdict, run.epochs)
    ]
    assert rows(run) == expected
    assert len(expected) == 2


@pytest.mark.slow(1)
def test_the_table_of_a_resumed_run_has_all_epochs(tmp_path):
    logs = log_callbacks(["csv"])
    with pytest.raises(OSError, match="enough"):
        train(CONFIG, tmp_path / "run", callbacks=[*logs, Fails()], quiet=True)
    run = resume(tmp_path / "run", callbacks=log_callbacks(["csv"]), quiet=True)
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]


@pytest.mark.slow(1)
def test_tensorboard_reads_the_epochs_of_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(OSError, match="enough"):
        train(CONFIG, tmp_path / "run", callbacks=[*log_callbacks(["tensorboard"]), Fails()])
    run = resume(tmp_path / "run", callbacks=log_callbacks(["tensorboard"]), quiet=True)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    tags = ["loss/train", "accuracy/train", "loss/test", "accuracy/test", "learning rate"]
    assert sorted(events.Tags()["scalars"]) == sorted(tags)
    fields = ("train_loss", "train_accuracy", "loss", "accuracy", "learning_rate")
    for tag, field in zip(tags, fields, strict=True):
        assert [(event.step, event.value) for event in events.Scalars(tag)] == [
            (epoch.epoch, pytest.approx(getattr(epoch, field))) for epoch in run.epochs
        ]


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("normlab.training.logs.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "normlab\[tensorboard\]"'):
        log_callbacks(["csv", "tensorboard"])


def test_a_log_of_the_users_is_not_overwritten(tmp_path, cli):
    (tmp_path / "metrics.csv").write_text("mine")
    code, _, errors = cli("train", *FLAGS, "--log", "csv", "--out", tmp_path)
    assert (code, errors.count("\n")) == (1, 1)
    assert "metrics.csv is there already" in errors
    assert (tmp_path / "metrics.csv").read_text() == "mine"
