"""What one sees of a training run: a live bar in a terminal, and a plain line an epoch."""

from collections import deque
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from normlab.runs.run import Epoch


class TrainingDisplay:
    """Shows a run while it trains.

    Args:
        console: Where to; None shows nothing.
        epochs: Epochs of the run.
        steps: Steps of an epoch.
        done: Steps of the whole run that were done before (a resumed run).
    """

    def __init__(self, console: Console | None, *, epochs: int, steps: int, done: int) -> None:
        self.console = console
        self.epochs = epochs
        self.steps = steps
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("batch {task.fields[batch]}/{task.fields[batches]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} images/s"),
            TimeRemainingColumn(),
            console=console,
            disable=console is None or not console.is_terminal,
            transient=True,
        )
        self.task = self.progress.add_task(
            "training",
            total=epochs * steps,
            completed=done,
            epoch=done // steps + 1,
            epochs=epochs,
            batch=done % steps,
            batches=steps,
            loss="–",
            rate="–",
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def step(self, epoch: int, step: int, loss: float, images: int) -> None:
        """After a step: `epoch` from 0, `step` done in it, the batch's mean loss and size."""
        self.recent.append((perf_counter(), images))
        elapsed = self.recent[-1][0] - self.recent[0][0]
        seen = sum(count for _, count in self.recent) - self.recent[0][1]
        self.progress.update(
            self.task,
            completed=epoch * self.steps + step,
            epoch=epoch + 1,
            batch=step,
            loss=f"{loss:.3f}",
            rate=f"{seen / elapsed:,.0f}" if elapsed else "–",
        )

    def epoch(self, epoch: Epoch) -> None:
        """After an epoch: its line."""
        if self.console is not None:
            width = len(str(self.epochs))
            measured = f"{epoch.split} loss {epoch.loss:.4f} accuracy {epoch.accuracy:.2%}  "
            self.console.print(
                f"epoch {epoch.epoch:>{width}}/{self.epochs}  "
                f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.2%}  "
                f"{measured if epoch.split != 'train' else ''}"
                f"rate {epoch.learning_rate:.4g}  {epoch.seconds:.1f} s",
                soft_wrap=True,
                highlight=False,
            )
