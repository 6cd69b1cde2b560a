"""Progress display for a run: what is trained, a live bar in a terminal, one line per epoch."""

from collections import deque
from collections.abc import Iterator
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor

from normlab import notation
from normlab.data import source_of
from normlab.errors import printable
from normlab.layers.kernels import build
from normlab.network.checks import small_batch_warnings
from normlab.network.custom import NOT_APPLIED
from normlab.network.shapes import norms_of
from normlab.recipes import Recipe
from normlab.runs.machine import busy
from normlab.runs.provenance import started_from, taught_by
from normlab.runs.run import Run
from normlab.runs.trust import custom_networks
from normlab.training.callbacks import Callback
from normlab.training.distributed import process_group
from normlab.training.state import TrainingState
from normlab.training.time_left import TimeLeft
from normlab.wording import counted, estimated_duration


def announce(run: Run, class_weights: Tensor | None, console: Console) -> None:
    """Prints what is trained, on what data, where; and what the user should know about it.

    Args:
        run: The run.
        class_weights: What an image of each class counts in a balanced loss; None: 1.
        console: Where to print.
    """
    machine, data = run.machines[-1], run.data
    evaluated = f"{data.holdout:,} held-out" if data.holdout else f"{data.test:,} test"
    lines = (
        run.layout,
        f"{run.summary.parameters:,} parameters with {run.config.norm} "
        f"and {run.summary.activation}, {run.summary.macs:,} multiply-accumulates per image",
        f"{run.config.dataset}: {data.train:,} training and {evaluated} images, "
        f"fingerprint {data.fingerprint[:12]}",
        *([f"teacher {taught_by(run.teacher, run.config)}"] if run.teacher else []),
        *([f"started from {started_from(run.start, run.config)}"] if run.start else []),
        *([_balance(run, class_weights)] if run.config.balance else []),
        *_notes(run),
        f"recipe {run.config.recipe}, {run.config.precision}, seed {run.config.seed}, on "
        f"{machine.device}, {counted(machine.threads, 'thread')}, into {run.path}",
    )
    for line in lines:
        print_line(line, console)
    if console.is_terminal and (hint := busy()):  # a log that is compared does not depend on it
        print_line(f"note: {hint}", console)


def announce_time(seconds: float, epochs: int, console: Console | None) -> None:
    """Prints how long so many epochs will take: `about 14 min for 19 epochs`."""
    if console is not None:
        time = estimated_duration(max(seconds, 1))
        print_line(f"about {time} for {counted(epochs, 'epoch')}", console)


def print_line(text: str, console: Console) -> None:
    """Prints a line as it is, however long; what foreign names may hide becomes visible."""
    console.print(printable(text), soft_wrap=True, highlight=False, markup=False)


def _balance(run: Run, weights: Tensor | None) -> str:
    """What --balance does to the loss."""
    if weights is None:
        return "note: all classes have equally many training images: --balance changes nothing"
    of_classes = zip(weights.tolist(), run.data.classes, strict=False)  # the last may have none
    by_class = [(value, name) for value, name in of_classes if value]
    (least, frequent), (most, rare) = min(by_class), max(by_class)
    return (
        f"balanced: in the loss, an image of {rare} has weight {most:.3g}, an image of {frequent} "
        f"{least:.3g}"
    )


def _notes(run: Run) -> Iterator[str]:
    for note in run.data.notes:
        yield f"note: {note}"
    for name in custom_networks(run.layout):
        yield f"note: {name} {NOT_APPLIED}"
    used = norms_of(notation.parse(run.layout), run.config.norm)
    batches = [(norm, run.recipe.batch_size) for norm in used]
    for warning in small_batch_warnings(batches, process_group().size):
        yield f"warning: {warning}"
    if advice := recipe_advice(run.config.dataset, run.config.recipe, run.recipe):
        yield f"note: {advice}"
    machine = run.machines[-1]
    if machine.device == "cpu":
        yield from (f"note: {note}" for note in _passes_notes(build.load()))


def _passes_notes(passes: build.Passes) -> Iterator[str]:
    if passes.library is None:
        yield f"no compiled passes ({passes.reason}): PyTorch's slower layers are used instead"
    elif passes.origin.startswith("prebuilt"):
        yield f"the compiled passes are the wheel's, {passes.origin} ({passes.reason})"
    elif passes.reason:
        yield f"the compiled passes are built anew at each start ({passes.reason})"
    if passes.library is not None and not passes.threaded:
        yield "the compiled passes run on one thread: torch has loaded no OpenMP library"


def recipe_advice(dataset: str, name: str | None, recipe: Recipe) -> str | None:
    """Which recipe suits a data set better, if this one may not.

    Args:
        dataset: The data set's name.
        name: The recipe's.
        recipe: The recipe in force.
    """
    source = source_of(dataset)
    flips = recipe.mirror or "vertical-flip" in recipe.augment
    if dataset == "digits" and name != "demo":
        wrong = "it flips or mirrors them" if flips else "it was made for other images"
        return f"recipe {name} is not for the digits ({wrong}): --recipe demo is"
    if flips and source is not None and not source.MIRRORABLE:
        return f"this recipe flips or mirrors {dataset}; --recipe demo does not"
    if flips and name == "own":
        return (
            "recipe own mirrors images: if mirror images are wrong for your data (digits, "
            "letters), choose --recipe demo, which does not mirror"
        )
    return None


class ProgressDisplay(Callback):
    """Shows a run while it trains.

    Args:
        console: Where to print; None prints nothing.
        state: The run's state at the start.
    """

    def __init__(self, console: Console | None, state: TrainingState) -> None:
        self.console = console
        self.recent: deque[tuple[float, int]] = deque(maxlen=50)  # when, images
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("batch {task.fields[batch]}/{task.fields[batches]}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} images/s"),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=console is None or not console.is_terminal,
            transient=True,
        )
        self.task = self.progress.add_task(
            "training",
            total=state.epochs * state.steps,
            completed=state.epoch * state.steps + state.step,
            epoch=state.epoch + 1,
            epochs=state.epochs,
            batch=state.step,
            batches=state.steps,
            loss="–",
            rate="–",
            left="",
        )
        self.time_left = TimeLeft()
        self.announced = console is None  # whether the whole time was printed

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

    def on_step_end(self, state: TrainingState) -> None:
        """Moves the bar. Prints the time of the whole run, once it can be estimated."""
        self.time_left.step_ended()
        left = self.time_left.seconds(state)
        if left is not None and not self.announced:
            self.announced = True
            announce_time(left, state.epochs - state.epoch, self.console)
        self.recent.append((perf_counter(), state.images))
        elapsed = self.recent[-1][0] - self.recent[0][0]
        images = sum(count for _, count in self.recent) - self.recent[0][1]
        self.progress.update(
            self.task,
            completed=state.epoch * state.steps + state.step,
            epoch=state.epoch + 1,
            batch=state.step,
            loss=f"{state.loss:.3f}",
            rate=f"{images / elapsed:,.0f}" if elapsed else "–",
            left="" if left is None else f"about {estimated_duration(left)} left",
        )

    def on_epoch_end(self, state: TrainingState) -> None:
        """Prints the epoch's line."""
        self.time_left.epoch_ended()
        if self.console is None:
            return
        epoch, width = state.run.last, len(str(state.epochs))
        measured = f"{epoch.split} loss {epoch.loss:.4f} accuracy {epoch.accuracy:.2%}  "
        self.console.print(
            f"epoch {epoch.epoch:>{width}}/{state.epochs}  "
            f"train loss {epoch.train_loss:.4f} accuracy {epoch.train_accuracy:.2%}  "
            f"{measured if epoch.split != 'train' else ''}"
            f"rate {epoch.learning_rate:.4g}  {epoch.seconds:.1f} s",
            soft_wrap=True,
            highlight=False,
        )
