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


@pytest.fixture(params=["its own default", "files"])
def mlflow(request, monkeypatch, tmp_path):
    """A client of MLflow's that reads what a run in `tmp_path` has sent."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "store"))
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient()


def sent(client):
    """The one run that MLflow has."""
    experiment = client.get_experiment_by_name("normlab")
    (found,) = client.search_runs([experiment.experiment_id])
    return found


def test_mlflow_has_the_epochs_of_a_resumed_run(mlflow, tmp_path):
    with pytest.raises(OSError, match="enough"):
        train(CONFIG, tmp_path / "run", callbacks=[Fails(), *log_callbacks(["mlflow"])])
    assert sent(mlflow).info.status == "RUNNING"
    run = resume(tmp_path / "run", callbacks=log_callbacks(["mlflow"]), quiet=True)
    found = sent(mlflow)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "run")
    assert found.data.params["network"] == CONFIG.network
    assert found.data.params["epochs"] == "3"
    fields = {
        "loss/train": "train_loss",
        "accuracy/train": "train_accuracy",
        "loss/test": "loss",
        "accuracy/test": "accuracy",
        "learning rate": "learning_rate",
    }
    assert found.data.metrics.keys() == fields.keys()
    for name, field in fields.items():
        history = mlflow.get_metric_history(found.info.run_id, name)
        assert [(metric.step, metric.value) for metric in history] == [
            (epoch.epoch, getattr(epoch, field)) for epoch in run.epochs
        ]


@pytest.mark.slow(2)
@pytest.mark.parametrize("mlflow", ["files"], indirect=True)
def test_a_run_that_mlflow_no_longer_has_ends_in_one_line(mlflow, tmp_path, cli):
    with pytest.raises(OSError, match="enough"):
        train(CONFIG, tmp_path / "run", callbacks=[Fails(), *log_callbacks(["mlflow"])])
    text = (tmp_path / "run" / "mlflow.txt").read_text()
    assert str(tmp_path) not in text  # an address may have a password
    mlflow.delete_run(sent(mlflow).info.run_id)
    code, _, errors = cli("train", "--resume", tmp_path / "run", "--log", "mlflow")
    assert code == 2
    last = errors.splitlines()[-1]
    assert last.startswith("normlab: --log mlflow: ")
    assert last.endswith(f": delete {tmp_path / 'run' / 'mlflow.txt'} to begin another run there")
    (tmp_path / "run" / "mlflow.txt").unlink()
    code, _, errors = cli("train", "--resume", tmp_path / "run", "--log", "mlflow")
    assert code == 0, errors
    history = mlflow.get_metric_history(sent(mlflow).info.run_id, "loss/train")
    assert [metric.step for metric in history] == [1, 2, 3]


@pytest.mark.parametrize("mlflow", ["files"], indirect=True)
def test_mlflow_gets_later_what_it_did_not_take(mlflow, tmp_path, capsys):
    class Away(Callback):
        """MLflow's store cannot be written from before the first epoch's end to its last's."""

        def on_step_end(self, state):
            (folder,) = tmp_path.glob("store/*/*/metrics")
            if (state.epoch, state.step) == (0, 1):
                folder.rmdir()
                folder.write_text("in the way")
            if (state.epoch, state.step) == (2, 1):
                folder.unlink()
                folder.mkdir()

    run = train(
        CONFIG, tmp_path / "run", callbacks=[*log_callbacks(["mlflow"]), Away()], quiet=True
    )
    notes = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in notes] == ["note", "note"]
    assert "MLflow did not accept epoch 1: " in notes[0]
    assert "MLflow did not accept epoch 2: " in notes[1]
    history = mlflow.get_metric_history(sent(mlflow).info.run_id, "loss/train")
    assert [metric.value for metric in history] == [epoch.train_loss for epoch in run.epochs]


@pytest.mark.slow(3)
def test_a_server_that_does_not_answer_ends_the_run_in_one_line(cli, monkeypatch, tmp_path):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    code, _, errors = cli("train", *FLAGS, "--log", "mlflow", "--out", tmp_path / "run")
    assert code == 2
    assert errors.splitlines()[-1].startswith("normlab: --log mlflow: ")
    assert "127.0.0.1" in errors
    code, _, errors = cli("train", "--resume", tmp_path / "run", "--log", "csv")
    assert code == 0, errors
    assert len(rows(Run.open(tmp_path / "run"))) == 2


@pytest.mark.parametrize("log", ["tensorboard", "mlflow"])
def test_without_its_library_the_error_says_what_to_install(monkeypatch, log):
    monkeypatch.setattr("normlab.training.logs.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf'pip install "normlab\[{log}\]"'):
        log_callbacks(["csv", log])


def test_a_log_of_the_users_is_not_overwritten(tmp_path, cli):
    (tmp_path / "metrics.csv").write_text("mine")
    code, _, errors = cli("train", *FLAGS, "--log", "csv", "--out", tmp_path)
    assert (code, errors.count("\n")) == (1, 1)
    assert "metrics.csv already exists" in errors
    assert (tmp_path / "metrics.csv").read_text() == "mine"
