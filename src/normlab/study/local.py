"""Runs on this machine: one process per run, several at a time, each on one thread."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

from normlab.study.job import DIVERGED, Job

INTERVAL = 0.2  # seconds between two progress reports


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        problem: Why it failed, on one line; empty if it did not.
        diverged: Whether it failed because the loss was not finite.
    """

    problem: str = ""
    diverged: bool = False


@dataclass(frozen=True)
class Progress:
    """The progress of jobs.

    Attributes:
        running: The jobs that are running.
        ended: The jobs that ended since the last report.
    """

    running: tuple[Job, ...]
    ended: dict[Job, Outcome] = field(default_factory=dict)


def run_jobs(jobs: Sequence[Job], workers: int, keep_open: int | None = None) -> Iterator[Progress]:
    """Runs jobs in order, and reports their progress a few times per second until all ended.

    If it is left early, by Ctrl-C or `close`, each run stops after its step, to be resumed, and it
    waits for them; a second Ctrl-C ends them at once. If this process is killed, the runs stop
    after their step too.

    Args:
        jobs: The jobs.
        workers: Number of jobs at a time.
        keep_open: A file descriptor that the processes inherit: a lock that is held as long as one
            of them runs.
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
            [sys.executable, "-P", "-m", "normlab.study.job"],  # -P: not from the working folder
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            start_new_session=True,  # only this process gets the terminal's Ctrl-C
            pass_fds=() if keep_open is None else (keep_open,),
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has failed already: `outcome` says why
            self.process.stdin.write(job.to_json().encode() + b"\n")
            self.process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ask_to_stop(self) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()

    def outcome(self) -> Outcome:
        code = self.process.wait()
        self.ask_to_stop()
        with self.errors as errors:
            errors.seek(0)
            messages = errors.read().decode(errors="replace").strip().splitlines()
        if code == 0:
            return Outcome()
        if code < 0:
            name = signal.Signals(-code).name
            memory = ": was there too little memory?" if code == -signal.SIGKILL else ""
            return Outcome(f"it was ended by {name}{memory}")
        return Outcome(messages[-1] if messages else f"it ended with code {code}", code == DIVERGED)
