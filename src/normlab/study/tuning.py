"""The same search of a setting for every arm: a fixed grid of values, halved in rungs.

All values of the grid are tried with a quarter of the epochs, the better half of them with half,
the better two with all of them, for the longer a run the lower its best learning rate; each is a
run of its own with a whole schedule. This is synchronous successive halving (Jamieson & Talwalkar
2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization, arXiv:1502.07943):
every rung waits for all its runs, so a search that was stopped and goes on ends the same. Accuracy
is on held-out images, of seed 0.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from normlab import recipes
from normlab.config import RunConfig, StudyConfig
from normlab.study.plan import Arm

What = Literal["lr", "wd"]
FIELDS = {"lr": "learning_rate", "wd": "weight_decay"}
FACTORS = tuple(2.0**k for k in range(-4, 4))  # of the recipe's learning rate
DECAYS = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SHARES = (4, 2, 1)  # a rung's part of the epochs


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of the search.

    Attributes:
        arm: The arm's name.
        what: What is searched.
        value: The value that is tried.
        rung: Counted from 0.
        epochs: How long.
        accuracy: On the held-out images after the last epoch; None where the loss was not finite,
            or while it is not known.
    """

    arm: str
    what: What
    value: float
    rung: int
    epochs: int
    accuracy: float | None = None

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.arm}-{self.what}{self.value:g}-{self.epochs}epochs"


def grid(what: What, study: StudyConfig, arm: Arm) -> tuple[float, ...]:
    """The values that are tried: the same for every normalization of a setting."""
    if what == "wd":
        return DECAYS
    recipe = recipes.find(recipes.name_of(arm.config))
    base = study.learning_rate or recipe.learning_rate
    if arm.setting.batch_size is not None:  # by the same rule as where it is not tuned
        base *= (arm.setting.batch_size / recipe.batch_size) ** 0.5
    return tuple(base * factor for factor in FACTORS)


def rung_epochs(epochs: int, rung: int) -> int:
    """How long the runs of a rung are."""
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
    what: What, rung: int, study: StudyConfig, arm: Arm, before: Sequence[Trial]
) -> list[Trial]:
    """The trials of a rung.

    Args:
        what: What is searched.
        rung: Counted from 0.
        study: The study's configuration.
        arm: Whose.
        before: The arm's trials of the rung before, done; none for the first.
    """
    values = grid(what, study, arm)
    if rung:
        best = sorted(before, key=_rank)[: len(values) // 2**rung]
        values = tuple(sorted(trial.value for trial in best))
    epochs = rung_epochs(arm.recipe.epochs, rung)
    return [
        Trial(arm=arm.name, what=what, value=value, rung=rung, epochs=epochs) for value in values
    ]


def best(trials: Sequence[Trial], arm: str, what: What) -> Trial | None:
    """What a search found for an arm: the best of its last rung, of equals the smallest value.

    None where that is not done, or where nothing could be trained.
    """
    last = [
        trial
        for trial in trials
        if (trial.arm, trial.what, trial.rung) == (arm, what, len(SHARES) - 1)
        and trial.accuracy is not None
    ]
    return min(last, key=_rank, default=None)


def on_edge(found: Trial, trials: Sequence[Trial]) -> bool:
    """Whether it lies at an end of what was tried: a better value may lie beyond; never 0."""
    values = [t.value for t in trials if (t.arm, t.what) == (found.arm, found.what)]
    return found.value in (min(values), max(values)) and found.value > 0


def _rank(trial: Trial) -> tuple[float, float]:
    """The higher the accuracy the earlier; then by the value."""
    return 1.0 if trial.accuracy is None else -trial.accuracy, trial.value
