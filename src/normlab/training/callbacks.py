"""Hooks of the training loop: `Callback`, and those that evaluate and save."""

import dataclasses
import math
from time import perf_counter

import torch

from normlab.data import Dataset
from normlab.inference.evaluate import evaluate
from normlab.runs import checkpoint
from normlab.runs.metrics import Epoch, as_line
from normlab.seeding import generator
from normlab.storage.files import append
from normlab.training.branches import fold_branches
from normlab.training.recalibration import recalibrate
from normlab.training.state import TrainingState
from normlab.training.teachers import TABLE


class Callback:
    """A hook into training: derive from it, override what you need, pass it to `normlab.train`.

    Each method gets the state of the training, whose attributes `TrainingState` lists; its `stop()`
    ends the run after the epoch in progress. If a run uses several processes, only the main process
    calls callbacks. A callback that raises ends the training; the run can be resumed from its last
    finished epoch.
    """

    def on_step_end(self, state: TrainingState) -> None:
        """Called after each training step."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Called after each epoch, when it was evaluated (`state.run.last`) and saved."""

    def on_run_end(self, state: TrainingState) -> None:
        """Called after the last epoch, when the weights are saved. Not called if training fails."""


class Evaluation(Callback):
    """Evaluates the network after each epoch and records the epoch.

    Args:
        dataset: The data, its splits applied.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def on_epoch_end(self, state: TrainingState) -> None:
        """Adds the epoch to `state.run`; DivergedError where a loss or a weight is not finite."""
        run, split = state.run, state.run.split
        loss, accuracy = state.train_loss, state.train_accuracy
        if split != "train":
            loss, accuracy = self._measure(state)
        epoch = Epoch(
            epoch=state.epoch,
            train_loss=state.train_loss,
            train_accuracy=state.train_accuracy,
            split=split,
            loss=loss,
            accuracy=accuracy,
            learning_rate=state.learning_rate,
            seconds=state.seconds,
        )
        if run.config.recalibrate and state.epoch == state.epochs and run.stopped_after is None:
            epoch = self._recalibrated(state, epoch)
        _refuse_diverged(state, epoch)
        state.run = dataclasses.replace(run, epochs=(*run.epochs, epoch))

    def on_run_end(self, state: TrainingState) -> None:
        """Recalibrates the network if a callback ended the run before its recipe did.

        The checkpoint stays as it is: a run that is killed meanwhile is recalibrated when it is
        resumed.
        """
        run = state.run
        if run.config.recalibrate and (run.stopped_after or state.epoch < state.epochs):
            epoch = self._recalibrated(state, run.last)
            _refuse_diverged(state, epoch)
            state.run = dataclasses.replace(run, epochs=(*run.epochs[:-1], epoch))

    def _recalibrated(self, state: TrainingState, epoch: Epoch) -> Epoch:
        """Measures running statistics anew, and with them an epoch."""
        start = perf_counter()
        images, seed = torch.from_numpy(self.dataset.train.images), state.run.config.seed
        order = torch.randperm(len(images), generator=generator(seed, "recalibration"))
        changed = recalibrate(state.network, images, order)
        without, loss, accuracy = epoch.without_recalibration, epoch.loss, epoch.accuracy
        if epoch.split != "train":
            without = accuracy if without is None else without
            loss, accuracy = self._measure(state) if changed else (loss, accuracy)
        return dataclasses.replace(
            epoch,
            loss=loss,
            accuracy=accuracy,
            without_recalibration=without,
            seconds=epoch.seconds + perf_counter() - start,
        )

    def _measure(self, state: TrainingState) -> tuple[float, float]:
        """Loss and accuracy on the split that the run's curve is measured on."""
        evaluation = evaluate(state.network, self.dataset, state.run.split)
        return evaluation.loss, evaluation.accuracy


def _refuse_diverged(state: TrainingState, epoch: Epoch) -> None:
    """Raises DivergedError where a weight, a running statistic or a loss is not finite."""
    state.check_finite()
    if not math.isfinite(epoch.loss):
        raise state.diverged(f"the loss became {epoch.loss}")


class Checkpointing(Callback):
    """Writes metrics.jsonl and a checkpoint after each epoch, and the weights at the end."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Writes the epoch's line, then the checkpoint.

        A kill in between leaves a line without its checkpoint: that epoch is trained again. In the
        other order the line would be lost.
        """
        append(state.run.path / "metrics.jsonl", as_line(state.run.last))
        state.checkpoint().save(state.run.path / "checkpoint.pt")

    def on_run_end(self, state: TrainingState) -> None:
        """Writes the weights, branches folded; removes the checkpoint, no longer needed."""
        if state.epoch < state.epochs:  # in this order: weights make the run finished
            state.run = dataclasses.replace(state.run, stopped_after=state.epoch)
            state.run.write_config()
        if state.run.stopped_after and state.run.config.recalibrate:  # its last line has changed
            state.run.write_metrics()
        fold_branches(state.network)
        checkpoint.save_weights(state.run.path / "model.safetensors", state.network)
        checkpoint.remove(state.run.path / "checkpoint.pt")
        (state.run.path / TABLE).unlink(missing_ok=True)
