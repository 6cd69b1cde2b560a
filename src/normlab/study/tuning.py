"""The search of a setting, the same for every arm: a fixed grid of values, halved in rungs.

The first rung tries all values with a quarter of the epochs, the second the better half of them
with half, the last the best two with all epochs, because longer runs have lower best learning
rates. Each trial is a run of its own with a whole schedule. This is synchronous successive halving
(Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
arXiv:1502.07943). A rung waits for all its runs, so a search that was stopped and resumed ends the
same. Accuracy is measured on held-out images, with seed 0.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from normlab import recipes
from normlab.config import RunConfig, StudyConfig
from normlab.ranges import Positive, Range, Share
from normlab.study.plan import Arm

What = Literal["lr", "wd"]
FIELDS = {"lr": "learning_rate", "wd": "weight_decay"}
FACTORS = tuple(2.0**k for k in range(-4, 4))  # × the recipe's learning rate
DECAYS = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SHARES = (4, 2, 1)  # a rung's runs take 1/4, 1/2, 1/1 of the epochs


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of the search.

    Attributes:
        arm: The arm's name.
        what: The setting that is searched.
        value: The value that is tried.
        rung: Number of the rung, from 0.
        epochs: Length of the run.
        accuracy: Accuracy on the held-out images after the last epoch. None if the loss was not
            finite, or while it is unknown.
    """

    arm: str
    what: What
    value: Annotated[float, Range(at_least=0)]
    rung: Annotated[int, Range(at_least=0, below=len(SHARES))]
    epochs: Positive
    accuracy: Share | None = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return f"{self.arm}-{self.what}{self.value:g}-{self.epochs}epochs"


def grid(what: What, study: StudyConfig, arm: Arm) -> tuple[float, ...]:
    """The values to try: the same for every normalization of a setting."""
    if what == "wd":
        return DECAYS
    recipe = recipes.find(recipes.name_of(arm.config))
    base = study.learning_rate or recipe.learning_rate
    if arm.setting.batch_size is not None:  # the rule for runs without a search
        base *= (arm.setting.batch_size / recipe.batch_size) ** 0.5
    return tuple(base * factor for factor in FACTORS)


def rung_epochs(epochs: int, rung: int) -> int:
    """Length of the runs of a rung."""
    return max(1, epochs // SHARES[rung])


def config_of(trial: Trial, arm: Arm, holdout: int) -> RunConfig:
    """The configuration of a trial's run."""
    return dataclasses.replace(
        arm.with_settings({FIELDS[trial.what]: trial.value}).config,
        epochs=trial.epochs,
        holdout=holdout,
        seed=0,
    )


def rung_of(
    what: What, rung: int, study: StudyConfig, arm: Arm, previous: Sequence[Trial]
) -> list[Trial]:
    """The trials of a rung.

    Args:
        what: The setting that is searched.
        rung: Number of the rung, from 0.
        study: The study's configuration.
        arm: The arm.
        previous: The arm's finished trials of the previous rung; none for the first.
    """
    values = grid(what, study, arm)
    if rung:
        best = sorted(previous, key=_rank)[: len(values) // 2**rung]
        values = tuple(sorted(trial.value for trial in best))
    epochs = rung_epochs(arm.recipe.epochs, rung)
    return [
        Trial(arm=arm.name, what=what, value=value, rung=rung, epochs=epochs) for value in values
    ]


def is_searched(trials: Sequence[Trial], arm: str, study: StudyConfig) -> bool:
    """Whether the search has found all settings of an arm; True if nothing is searched."""
    return all(best(trials, arm, what) for what in study.tune)


def best(trials: Sequence[Trial], arm: str, what: What) -> Trial | None:
    """The best trial of an arm's last rung; of equal ones, the smallest value.

    None if the rung is not finished, or if no value could be trained.
    """
    last = [
        trial
        for trial in trials
        if (trial.arm, trial.what, trial.rung) == (arm, what, len(SHARES) - 1)
        and trial.accuracy is not None
    ]
    return min(last, key=_rank, default=None)


def on_edge(trial: Trial, trials: Sequence[Trial]) -> bool:
    """Whether a trial's value is the smallest or largest tried: a better one may lie beyond.

    Never for 0.
    """
    values = [t.value for t in trials if (t.arm, t.what) == (trial.arm, trial.what)]
    return trial.value in (min(values), max(values)) and trial.value > 0


def _rank(trial: Trial) -> tuple[float, float]:
    """Sorts by accuracy, highest first; then by value."""
    return 1.0 if trial.accuracy is None else -trial.accuracy, trial.value
