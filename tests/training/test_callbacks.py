"""Callbacks: when they are called, what they can do, and what they cannot break."""

import csv
import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

import normlab
from harness import EXECUTION, TINY, ExitAt, assert_equal_runs, measured
from normlab.errors import InterruptedRunError, RunError
from normlab.runs.run import Run
from normlab.training.callbacks import Callback
from normlab.training.logs import log_callbacks
from normlab.training.loop import resume, train

CONFIG = dataclasses.replace(TINY, epochs=4)
STEPS = 4  # of 64 images in batches of 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without callbacks."""
    return train(CONFIG, tmp_path_factory.mktemp("callbacks") / "whole", EXECUTION, quiet=True)


class Log(Callback):
    """Records every call."""

    def __init__(self):
        self.calls = []

    def on_step_end(self, state):
        self.calls.append(("step", state.epoch, state.step))

    def on_epoch_end(self, state):
        assert state.run.last == state.run.epochs[-1]
        assert state.run.last.epoch == state.epoch
        assert (state.run.path / "checkpoint.pt").exists()
        self.calls.append(("epoch", state.epoch, state.step))

    def on_run_end(self, state):
        assert state.run.finished
        self.calls.append(("run", state.epoch, state.step))


class StopAfter(Callback):
    """Calls `stop` in a step of an epoch, both counted from 1."""

    def __init__(self, epoch, step=1):
        self.place = epoch - 1, step

    def on_step_end(self, state):
        if (state.epoch, state.step) == self.place:
            state.stop()


def test_hooks_are_called_in_order_and_change_nothing(whole, tmp_path):
    log = Log()
    run = train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[log, Callback()], quiet=True)
    assert log.calls == [
        call
        for epoch in range(4)
        for call in (*(("step", epoch, k + 1) for k in range(STEPS)), ("epoch", epoch + 1, 0))
    ] + [("run", 4, 0)]
    assert_equal_runs(run.path, whole.path)
    assert "stopped_after" not in json.loads((run.path / "config.json").read_text())


def test_a_callback_may_draw_random_numbers_and_evaluate(tmp_path):
    """The run has random draws of its own: augmentation and dropout."""

    class Meddling(Callback):
        def on_step_end(self, state):
            torch.rand(7)

        def on_epoch_end(self, state):
            torch.rand(7)
            normlab.evaluate(state.network, digits)

    digits = normlab.data.load("digits")
    config = dataclasses.replace(CONFIG, recipe="seed", epochs=2)
    runs = [
        train(config, tmp_path / name, EXECUTION, callbacks=callbacks, quiet=True)
        for name, callbacks in (("alone", []), ("meddled with", [Meddling()]))
    ]
    assert_equal_runs(runs[1].path, runs[0].path)


@pytest.mark.parametrize("step", [1, STEPS])
def test_a_run_that_a_callback_stops_is_finished_and_records_the_epoch(step, whole, tmp_path):
    stop = StopAfter(2, step)
    run = train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[stop], quiet=True)
    assert measured(run.path) == measured(whole.path)[:2]  # the epoch in progress is finished
    opened = Run.open(run.path)
    assert opened.finished
    assert opened.stopped_after == opened.planned_epochs == opened.last.epoch == 2
    assert opened.recipe.epochs == 4
    assert opened.digest == dataclasses.replace(whole, path=run.path).digest
    assert not list(run.path.glob("*.pt"))
    assert normlab.evaluate(opened.network(), opened.dataset()).accuracy == opened.last.accuracy
    with pytest.raises(RunError, match="is finished: there is nothing to resume"):
        resume(run.path, EXECUTION, quiet=True)


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
def test_a_run_that_a_callback_stops_is_recalibrated(hook, whole, tmp_path, monkeypatch):
    class Stop(Callback):
        def on_run_end(self, state):
            measured = state.run.last.without_recalibration is not None
            assert measured == state.run.config.recalibrate

    setattr(Stop, hook, lambda _, state: state.stop() if state.epoch == 2 - (state.step > 0) else 0)
    config = dataclasses.replace(CONFIG, recalibrate=True)
    plain = train(CONFIG, tmp_path / "plain", EXECUTION, callbacks=[Stop()], quiet=True)
    run = train(config, tmp_path / "run", EXECUTION, callbacks=[Stop()], quiet=True)
    assert Run.open(run.path).last == run.last
    assert run.stopped_after == 2
    assert run.last.without_recalibration == plain.last.accuracy
    assert normlab.evaluate(run.network(), run.dataset()).accuracy == run.last.accuracy

    def killed(*_):
        raise SystemExit

    class KilledAt(Callback):
        def __init__(self, place):
            self.place = place

        def on_epoch_end(self, state):
            if state.epoch == 2:
                state.stop()
                monkeypatch.setattr(self.place, killed)

    for place in ("runs.checkpoint.save_weights", "runs.run.Run.write_metrics"):
        path = tmp_path / place
        with pytest.raises(SystemExit):
            train(config, path, EXECUTION, callbacks=[KilledAt(f"normlab.{place}")], quiet=True)
        monkeypatch.undo()
        assert_equal_runs(resume(path, EXECUTION, quiet=True).path, run.path)


@pytest.mark.parametrize("norm", ["brn", "gn"])
@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
def test_recalibration_is_once_whatever_the_normalization(norm, hook, tmp_path, monkeypatch):
    """`brn` would end elsewhere if it were done twice; its runs have no test images here."""
    calls = []
    once = normlab.training.callbacks.recalibrate
    monkeypatch.setattr(
        "normlab.training.callbacks.recalibrate", lambda *given: calls.append(1) or once(*given)
    )
    digits = normlab.data.apply_splits(normlab.data.load("digits"), CONFIG)
    alone = dataclasses.replace(digits, test=digits.test.take(np.arange(0)))
    config = dataclasses.replace(CONFIG, norm=norm, recalibrate=True)
    for name, stops in (("whole", False), ("stopped", True)):
        stop = Callback()
        if stops:
            setattr(stop, hook, lambda state: state.stop() if state.epoch == 2 else None)
        run = train(config, tmp_path / name, EXECUTION, dataset=alone, callbacks=[stop], quiet=True)
        assert run.last.without_recalibration is None
        assert len(calls) == 1
        calls.clear()


def test_the_logs_have_the_recalibrated_accuracy(tmp_path):
    config = dataclasses.replace(CONFIG, recalibrate=True)
    hooks = [*log_callbacks(["csv"]), StopAfter(2)]
    run = train(config, tmp_path / "run", EXECUTION, callbacks=hooks, quiet=True)
    *_, last = csv.DictReader((run.path / "metrics.csv").read_text().splitlines())
    assert float(last["accuracy"]) == run.last.accuracy
    assert float(last["without_recalibration"]) == run.last.without_recalibration


def test_a_request_to_stop_in_the_epoch_that_a_callback_ends_comes_too_late(whole, tmp_path):
    class StopAndInterrupt(StopAfter):
        def on_step_end(self, state):
            super().on_step_end(state)
            if (state.epoch, state.step) == self.place:
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match=r"after the last epoch: .* is finished"):
        train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[StopAndInterrupt(2, 2)], quiet=True)
    run = Run.open(tmp_path / "run")
    assert run.finished
    assert run.stopped_after == 2
    assert measured(run.path) == measured(whole.path)[:2]


def test_a_signal_that_is_ignored_still_is(whole, tmp_path):
    """As a shell ignores Ctrl-C for what it runs in the background."""

    class Interrupt(Callback):
        def on_step_end(self, state):
            os.kill(os.getpid(), signal.SIGINT)

    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[Interrupt()], quiet=True)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
    assert_equal_runs(run.path, whole.path)


def test_a_stop_in_the_last_epoch_changes_nothing(whole, tmp_path):
    run = train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[StopAfter(4)], quiet=True)
    assert_equal_runs(run.path, whole.path)
    assert run.stopped_after is None


def test_a_stopped_run_killed_before_its_weights_are_written_ends_at_the_same_epoch(
    whole, tmp_path, monkeypatch
):
    def killed(*_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("normlab.runs.checkpoint.save_weights", killed)
        with pytest.raises(SystemExit):
            train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[StopAfter(2)], quiet=True)
    run = resume(tmp_path / "run", EXECUTION, quiet=True)
    assert run.finished
    assert measured(run.path) == measured(whole.path)[:2]


def test_lost_metrics_lines_are_not_taken_for_an_early_stop(tmp_path):
    run = train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[StopAfter(3)], quiet=True)
    metrics = run.path / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RunError, match="it holds 2 of 3 epochs, and the run is finished"):
        Run.open(run.path)


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
def test_a_callback_that_raises_leaves_a_run_that_can_be_resumed(hook, whole, tmp_path):
    class Broken(Callback):
        pass

    def fail(self, state):
        if state.epoch == 2:
            raise ZeroDivisionError("a callback's mistake")

    setattr(Broken, hook, fail)
    with pytest.raises(ZeroDivisionError, match="a callback's mistake"):
        train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[Broken()], quiet=True)
    assert_equal_runs(resume(tmp_path / "run", EXECUTION, quiet=True).path, whole.path)


def test_resuming_takes_callbacks_too(whole, tmp_path):
    log = Log()
    with pytest.raises(SystemExit):
        train(CONFIG, tmp_path / "run", EXECUTION, callbacks=[ExitAt(1, 2)], quiet=True)
    run = resume(tmp_path / "run", EXECUTION, callbacks=[log], quiet=True)
    assert log.calls[0] == ("step", 1, 1)
    assert log.calls[-1] == ("run", 4, 0)
    assert_equal_runs(run.path, whole.path)


def test_early_stopping_as_documented(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "runs.md").read_text()
    (code,) = (c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Callback" in c)
    definition = code.partition("\nconfig =")[0]
    names = {}
    exec(definition, names)  # the documentation's code
    config = dataclasses.replace(CONFIG, epochs=19, holdout=100, learning_rate=1e-9)
    stopping = names["EarlyStopping"](patience=2)
    run = train(config, tmp_path / "run", EXECUTION, callbacks=[stopping], quiet=True)
    assert run.last.epoch - run.best.epoch == 2
    assert run.stopped_after == run.last.epoch < 19
