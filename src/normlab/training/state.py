"""The state of a training run: what the loop advances, callbacks read and checkpoints save."""

import math
from dataclasses import dataclass, field
from time import perf_counter

from normlab.errors import DivergedError
from normlab.network.model import Network
from normlab.runs.checkpoint import Checkpoint
from normlab.runs.run import Run
from normlab.training.step import TrainStep


@dataclass(kw_only=True)
class TrainingState:
    """The state of a training run after a step, or at the end of an epoch.

    Attributes:
        run: The run, with the epochs measured so far: `state.run.last`, `state.run.best`.
        train_step: The network and its optimizers.
        steps: Steps per epoch.
        epoch: Finished epochs.
        step: Finished steps of the epoch in progress; 0 at the end of an epoch.
        loss: Mean loss of the last batch (nats per image).
        images: Images in the last batch.
        learning_rate: Learning rate of the last step.
        train_loss: Mean loss over the last finished epoch (nats per image).
        train_accuracy: Share of its images that were classified correctly, 0 to 1.
        stopping: Whether `stop` was called.
    """

    run: Run
    train_step: TrainStep
    steps: int
    epoch: int = 0
    step: int = 0
    loss: float = math.nan
    images: int = 0
    learning_rate: float = 0.0
    train_loss: float = math.nan
    train_accuracy: float = math.nan
    stopping: bool = False
    _loss_sum: float = 0.0
    _correct: int = 0
    _epoch_start: float = field(default_factory=perf_counter)

    @classmethod
    def resume(
        cls, run: Run, train_step: TrainStep, steps: int, checkpoint: Checkpoint
    ) -> "TrainingState":
        """The state that a checkpoint saved. The checkpoint's tensors are loaded already."""
        return cls(
            run=run,
            train_step=train_step,
            steps=steps,
            epoch=checkpoint.epoch,
            step=checkpoint.step,
            _loss_sum=checkpoint.loss_sum,
            _correct=checkpoint.correct,
            _epoch_start=perf_counter() - checkpoint.seconds,
        )

    @property
    def network(self) -> Network:
        """The network in training."""
        return self.train_step.network

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return self.run.planned_epochs

    @property
    def seconds(self) -> float:
        """Seconds spent in the epoch, in all of its parts if it was resumed."""
        return perf_counter() - self._epoch_start

    def stop(self) -> None:
        """Ends the run after the epoch in progress, as if that were its last."""
        self.stopping = True

    def record_step(self, loss: float, correct: int, images: int) -> None:
        """Advances by one step."""
        self.step += 1
        self.loss, self.images = loss, images
        self._loss_sum += loss * images
        self._correct += correct

    def end_epoch(self, images: int) -> None:
        """Advances to the end of the epoch, in which the network saw this many images."""
        self.train_loss = self._loss_sum / images
        self.train_accuracy = self._correct / images
        self.epoch, self.step = self.epoch + 1, 0
        self._loss_sum, self._correct = 0.0, 0

    def start_epoch(self) -> None:
        """Starts the clock of a new epoch; a resumed epoch's clock goes on."""
        if self.step == 0:
            self._epoch_start = perf_counter()

    def checkpoint(self) -> Checkpoint:
        """A checkpoint of this state.

        Raises:
            DivergedError: A weight or a running statistic is not finite: the last checkpoint,
                which is good, must not be replaced.
        """
        self.check_finite()
        return Checkpoint(
            run=self.run.digest,
            model=self.network.state_dict(),
            optimizer=self.train_step.state_dict(),
            epoch=self.epoch,
            step=self.step,
            loss_sum=self._loss_sum,
            correct=self._correct,
            seconds=self.seconds if self.step else 0.0,
        )

    def check_finite(self) -> None:
        """Raises DivergedError where a weight or a running statistic is not finite."""
        for name, tensor in self.network.state_dict().items():
            if not tensor.isfinite().all():
                raise self.diverged(f"values of {name} became infinite or nan")

    def diverged(self, problem: str) -> DivergedError:
        """The error for a loss or a weight that is not finite."""
        epoch, step = (self.epoch + 1, self.step) if self.step else (self.epoch, self.steps)
        return DivergedError(
            f"{problem} in epoch {epoch}, step {step}, at learning rate "
            f"{self.learning_rate:.4g}; the last checkpoint in {self.run.path} is kept. Train with "
            "a lower --learning-rate, into another --out"
        )
