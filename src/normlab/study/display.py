"""Progress display for a study: a live table in a terminal, and one line per finished run."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Self

from rich.console import Console
from rich.live import Live

from normlab.errors import RunError
from normlab.runs.metrics import Epoch, read_metrics
from normlab.study.job import Job
from normlab.study.local import Outcome, Progress
from normlab.table import Table
from normlab.training.progress import print_line
from normlab.wording import estimated_duration, percent

SHOWN = 3  # rows for finished runs (the last ones), and for waiting runs (the next ones)


class StudyDisplay:
    """Shows runs while they are executed.

    Args:
        console: Where to print; None shows nothing.
        jobs: All runs, with their numbers of epochs.
        estimated_seconds: The estimated time of each run.
        images: Number of images that accuracy is measured on.
    """

    def __init__(
        self,
        console: Console | None,
        jobs: Mapping[Job, int],
        estimated_seconds: Mapping[Job, float],
        *,
        images: int,
    ) -> None:
        self.console, self.jobs, self.images = console, jobs, images
        self.estimated_seconds = estimated_seconds
        self.started: dict[Job, float] = {}
        self.ended: dict[Job, Outcome] = {}
        self.epochs: dict[Job, tuple[Epoch, ...]] = {}  # as last read
        self.live = Live(console=console, transient=True, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self.console is not None and self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def update(self, progress: Progress) -> None:
        """Shows the progress."""
        for job in (*progress.running, *progress.ended):
            self.started.setdefault(job, perf_counter())
            self.epochs.pop(job, None)  # it may have measured more
        for job, outcome in progress.ended.items():
            self.ended[job] = outcome
            if self.console is not None:
                print_line(self._line(job, outcome), self.console)
        if self.live.is_started:
            self.live.update(self._table(progress))

    def _line(self, job: Job, outcome: Outcome) -> str:
        count = f"[{len(self.ended)}/{len(self.jobs)}]"
        if outcome.problem:
            return f"{count} {job.out.name} failed: {outcome.problem}"
        epochs = self._epochs(job)
        last = f"{epochs[-1].split} accuracy {self._accuracy(epochs)}" if epochs else "unreadable"
        return f"{count} {job.out.name}  {last}  {sum(e.seconds for e in epochs):.0f} s"

    def _accuracy(self, epochs: Sequence[Epoch]) -> str:
        return percent(epochs[-1].accuracy, self.images) if epochs else "–"

    def _table(self, progress: Progress) -> Table:
        rows: list[tuple[str, ...]] = []
        ended = list(self.ended)
        failed = [job for job, outcome in self.ended.items() if outcome.problem]
        taken = {*ended, *progress.running}
        waiting = [job for job in self.jobs if job not in taken]
        if len(ended) > SHOWN:
            rows.append((f"{len(ended) - SHOWN} more", "ended", "", "", ""))
        for job in ended[-SHOWN:]:
            rows.append(self._row(job, "failed" if job in failed else "done", "–"))
        left = sum(self.estimated_seconds[job] for job in waiting)
        for job in progress.running:
            remaining = self._remaining(job, len(self._epochs(job)))
            left += remaining
            rows.append(self._row(job, "running", estimated_duration(remaining)))
        for job in waiting[:SHOWN]:
            rows.append(self._row(job, "waiting", estimated_duration(self.estimated_seconds[job])))
        if len(waiting) > SHOWN:
            rows.append((f"{len(waiting) - SHOWN} more", "waiting", "", "", ""))
        in_all = estimated_duration(left / max(1, len(progress.running)))
        return Table(
            caption=f"{len(ended) - len(failed)} done, {len(failed)} failed, "
            f"{len(progress.running)} running, {len(waiting)} waiting; about {in_all} left",
            head=("run", "state", "epoch", "accuracy", "time left"),
            kinds=("name", "plain", "number", "number", "number"),
            rows=rows,
        )

    def _row(self, job: Job, state: str, left: str) -> tuple[str, ...]:
        epochs = self._epochs(job)
        progress = f"{len(epochs)}/{self.jobs[job]}"
        return job.out.name, state, progress, self._accuracy(epochs), left

    def _remaining(self, job: Job, done: int) -> float:
        """Estimated from the finished epochs, or in advance while there are none."""
        share = done / self.jobs[job]
        elapsed = perf_counter() - self.started[job]
        whole = max(self.estimated_seconds[job], elapsed / share if share else elapsed)
        return max(0.0, whole - elapsed)

    def _epochs(self, job: Job) -> tuple[Epoch, ...]:
        """The epochs that a run has measured so far; none if they cannot be read."""
        if job not in self.epochs:
            try:
                self.epochs[job] = read_metrics(job.out / "metrics.jsonl")
            except RunError:
                self.epochs[job] = ()
        return self.epochs[job]
