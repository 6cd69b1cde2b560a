"""Runs on this machine: a process for each, some at a time, each on one thread."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from normlab.study.job import DIVERGED, Job

INTERVAL = 0.2  # seconds between two looks


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        problem: Why it is not done, in a line; empty where it is.
        diverged: Whether that is that the loss was not finite.
    """

    problem: str = ""
    diverged: bool = False


@dataclass(frozen=True)
class Progress:
    """What is going on at a moment.

    Attributes:
        running: What is being carried out.
        ended: What ended since the last look.
    """

    running: tuple[Job, ...]
    ended: dict[Job, Outcome] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], workers: int, keep_open: int | None = None) -> Iterator[Progress]:
    """Carries out runs, in order, and looks at them a few times a second until all ended.

    Left before the end, by Ctrl-C or `close`, it has each run stop after its step, to be resumed,
    and waits for that; at a second Ctrl-C it ends them at once. Should this process be killed, the
    runs stop likewise.

    Args:
        jobs: The runs.
        workers: How many at a time.
        keep_open: A file descriptor that the processes inherit: of a lock, held as long as any.
    """
    waiting, running = deque(jobs), dict[Job, _Process]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[job] = _Process(job, keep_open)
            time.sleep(INTERVAL)
            ended = {job: p.outcome() for job, p in running.items() if p.ended}
            for job in ended:
                del running[job]
            yield Progress(tuple(running), ended)
    finally:
        try:
            for process in running.values():
                process.ask_to_stop()
            for process in running.values():
                process.outcome()
        except KeyboardInterrupt:
            for process in running.values():
                process.kill()
            raise


class _Process:
    def __init__(self, job: Job, keep_open: int | None) -> None:
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 — closed in outcome()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "normlab.study.job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            start_new_session=True,  # the terminal's Ctrl-C goes to this process alone
            pass_fds=() if keep_open is None else (keep_open,),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None
        self.process.stdin.write(job.to_json().encode() + b"\n")
        self.process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ask_to_stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()

    def outcome(self) -> Outcome:
        code = self.process.wait()
        self.ask_to_stop()
        with self.errors as errors:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        if code == 0:
            return Outcome()
        if code < 0:
            name = signal.Signals(-code).name
            memory = ": was there too little memory?" if code == -signal.SIGKILL else ""
            return Outcome(f"it was ended by {name}{memory}")
        return Outcome(said[-1] if said else f"it ended with code {code}", code == DIVERGED)
