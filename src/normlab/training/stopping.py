"""Stop requests: Ctrl-C, SIGTERM, and callbacks that end a run early."""

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import torch

from normlab.config import Execution
from normlab.errors import InterruptedRunError
from normlab.runs.run import resume_command
from normlab.training.callbacks import Callback
from normlab.training.distributed import process_group
from normlab.training.state import TrainingState


class StopRequests(Callback):
    """Stops a run after a step if Ctrl-C or SIGTERM asks for it. The run is saved, to be resumed.

    All processes of a run have this hook, and all stop after the same step.

    Args:
        execution: Where the run is computed: the command that resumes it says the same.
        device: The device of the run.
    """

    # The handlers that stay.
    _LEFT = ((signal.SIGINT, None), (signal.SIGTERM, None), (signal.SIGINT, signal.SIG_IGN))

    def __init__(self, execution: Execution, device: torch.device) -> None:
        self.execution, self.device = execution, device
        self.requested = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles SIGINT and SIGTERM: the first asks to stop, the second interrupts at once.

        A handler that a program around Python installed stays: Python could not restore it. A
        Ctrl-C that is ignored, as a shell has it for what runs in the background, still is.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may handle signals
            return
        previous = {
            number: signal.signal(number, self._request)
            for number in (signal.SIGINT, signal.SIGTERM)
            if (number, signal.getsignal(number)) not in self._LEFT
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.requested.is_set():
            raise KeyboardInterrupt
        self.requested.set()

    def on_step_end(self, state: TrainingState) -> None:
        """Stops the run if a process was asked to.

        The epoch is finished first if this is its last step, or if a callback has called `stop`.
        """
        if state.step == state.steps:
            return
        requested, stopping = self._in_any_process(self.requested.is_set(), state.stopping)
        if requested and not stopping:
            self._save_and_stop(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Stops the run if a process was asked to; tells all processes of a callback's `stop`."""
        requested, state.stopping = self._in_any_process(self.requested.is_set(), state.stopping)
        if requested and state.epoch < state.epochs and not state.stopping:
            self._save_and_stop(state)

    def on_run_end(self, state: TrainingState) -> None:
        """Reports a stop request that came too late: the run is finished."""
        (requested,) = self._in_any_process(self.requested.is_set())
        if requested:
            raise InterruptedRunError(
                f"stopped after the last epoch: {state.run.path} is finished. "
                f"For its page: {shlex.join(['normlab', 'report', str(state.run.path)])}"
            )

    def _in_any_process(self, *flags: bool) -> list[bool]:
        """Whether flags are set in any process of the run."""
        processes = process_group()
        if processes.size == 1:
            return [*flags]
        counts = processes.sum(torch.tensor(flags, dtype=torch.float32, device=self.device))
        return [*map(bool, counts.tolist())]

    def _save_and_stop(self, state: TrainingState) -> NoReturn:
        checkpoint = state.checkpoint()
        if process_group().is_main:
            checkpoint.save(state.run.path / "checkpoint.pt")
        raise InterruptedRunError(
            f"stopped in epoch {state.epoch + 1} after step {state.step}. "
            f"To resume: {state.run.trusting}{resume_command(state.run.path, self.execution)}"
        )
