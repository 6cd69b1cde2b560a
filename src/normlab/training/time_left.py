"""How long a run will still take, from the time that its last steps and evaluations took."""

from collections import deque
from time import perf_counter

from normlab.training.state import TrainingState

WARM_UP = 2  # steps that take longer: they build the compiled passes and reserve memory
MEASURED = 6  # steps until there is an estimate
RECENT = 50  # steps that count: another program may have slowed those before
MEASURED_EPOCHS = 3  # until there is an estimate where an epoch has hardly a step
# Until an epoch has been evaluated, an image is taken to need a third of the time that it takes in
# training: there the backward pass has twice the multiplications of the forward pass.
EVALUATION = 1 / 3


class TimeLeft:
    """Measures a run's steps and evaluations, and estimates the time to the run's end."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=RECENT)  # seconds of each
        self._warm_up = WARM_UP
        self._evaluation: float | None = None
        self._last: float | None = None  # when the last step ended; None: between two epochs
        self._epochs: deque[float] = deque(maxlen=RECENT)  # seconds of each but the first
        self._epoch_ended: float | None = None

    def step_ended(self) -> None:
        """Measures a step, unless it is the first of an epoch: that began at another time."""
        now = perf_counter()
        if self._last is not None:
            if self._warm_up:
                self._warm_up -= 1
            else:
                self._steps.append(now - self._last)
        self._last = now

    def epoch_ended(self) -> None:
        """Measures what follows an epoch's last step: the evaluation, and what is written."""
        now = perf_counter()
        if self._last is not None:
            self._evaluation = now - self._last
        if self._epoch_ended is not None:
            self._epochs.append(now - self._epoch_ended)
        self._last, self._epoch_ended = None, now

    def seconds(self, state: TrainingState) -> float | None:
        """Estimated seconds to the end of the run; None if too little was measured."""
        left = state.epochs - state.epoch - state.step / state.steps  # epochs
        if len(self._steps) < MEASURED:
            if len(self._epochs) < MEASURED_EPOCHS:
                return None
            return left * sum(self._epochs) / len(self._epochs)
        step = sum(self._steps) / len(self._steps)
        evaluation = self._evaluation
        if evaluation is None:
            data = state.run.data
            evaluation = EVALUATION * step * (data.holdout or data.test) / state.images
        return left * state.steps * step + (state.epochs - state.epoch) * evaluation
