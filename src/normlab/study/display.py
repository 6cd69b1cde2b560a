"""What one sees of a study: a live table in a terminal, else a line a run that ended."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from normlab.errors import RunError
from normlab.evaluation import percent
from normlab.run import Epoch, read_metrics
from normlab.study.local import Look, Outcome
from normlab.study.work import Work
from normlab.table import Table

SHOWN = 3  # of the runs that ended and of those that wait: the last and the next


class StudyDisplay:
    """Shows runs while they are carried out.

    Args:
        console: Where to; None shows nothing.
        works: All the runs, with their epochs.
        thought: What each is thought to take, in seconds.
        images: On how many images accuracy is measured.
    """

    def __init__(
        self,
        console: Console | None,
        works: Mapping[Work, int],
        thought: Mapping[Work, float],
        *,
        images: int,
    ) -> None:
        self.console, self.works, self.thought, self.images = console, works, thought, images
        self.started: dict[Work, float] = {}
        self.ended: dict[Work, Outcome] = {}
        self.live = Live(console=console, transient=True, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self.console is not None and self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.live.stop()

    def look(self, look: Look) -> None:
        """After a look at the runs."""
        for work in look.running:
            self.started.setdefault(work, perf_counter())
        for work, outcome in look.ended.items():
            self.ended[work] = outcome
            if self.console is not None:
                line = self._line(work, outcome)
                self.console.print(line, soft_wrap=True, highlight=False, markup=False)
        if self.live.is_started:
            self.live.update(self._table(look))

    def _line(self, work: Work, outcome: Outcome) -> str:
        count = f"[{len(self.ended)}/{len(self.works)}]"
        if outcome.problem:
            return f"{count} {work.out.name} failed: {outcome.problem}"
        epochs = _epochs(work)
        last = f"{epochs[-1].split} accuracy {self._accuracy(epochs)}" if epochs else "unreadable"
        return f"{count} {work.out.name}  {last}  {sum(e.seconds for e in epochs):.0f} s"

    def _accuracy(self, epochs: Sequence[Epoch]) -> str:
        return percent(epochs[-1].accuracy, self.images) if epochs else "–"

    def _table(self, look: Look) -> Table:
        rows: list[tuple[str, ...]] = []
        ended, failed = list(self.ended), [w for w, o in self.ended.items() if o.problem]
        waiting = [w for w in self.works if w not in self.ended and w not in look.running]
        if len(ended) > SHOWN:
            rows.append((f"{len(ended) - SHOWN} more", "ended", "", "", ""))
        for work in ended[-SHOWN:]:
            rows.append(self._row(work, "failed" if work in failed else "done", "–"))
        left = sum(self.thought[work] for work in waiting)
        for work in look.running:
            remaining = self._remaining(work, len(_epochs(work)))
            left += remaining
            rows.append(self._row(work, "running", clock(remaining)))
        for work in waiting[:SHOWN]:
            rows.append(self._row(work, "waiting", clock(self.thought[work])))
        if len(waiting) > SHOWN:
            rows.append((f"{len(waiting) - SHOWN} more", "waiting", "", "", ""))
        in_all = clock(left / max(1, len(look.running)))
        return Table(
            caption=f"{len(ended) - len(failed)} done, {len(failed)} failed, {len(look.running)} "
            f"running, {len(waiting)} waiting; about {in_all} left",
            head=("run", "state", "epoch", "accuracy", "time left"),
            kinds=("name", "plain", "number", "number", "number"),
            rows=rows,
        )

    def _row(self, work: Work, state: str, left: str) -> tuple[str, ...]:
        epochs = _epochs(work)
        progress = f"{len(epochs)}/{self.works[work]}"
        return work.out.name, state, progress, self._accuracy(epochs), left

    def _remaining(self, work: Work, done: int) -> float:
        """By what was thought, corrected by what the epochs so far have taken."""
        share = done / self.works[work]
        elapsed = perf_counter() - self.started[work]
        whole = max(self.thought[work], elapsed / share if share else elapsed)
        return max(0.0, whole - elapsed)


def _epochs(work: Work) -> tuple[Epoch, ...]:
    """What a run has measured so far; nothing where that cannot be read."""
    try:
        return read_metrics(work.out / "metrics.jsonl")
    except RunError:
        return ()


def clock(seconds: float) -> str:
    """A time as people say it: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
