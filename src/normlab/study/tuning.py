"""The search of settings, the same for every arm: values on a grid, halved in rungs.

Settings are searched in rounds, one setting per round, at the best values of the rounds before. The
first rung of a round tries all values with a quarter of the epochs, the second the better half of
them with half, the last the best two with all epochs, because longer runs have lower best learning
rates. Each trial is a run of its own with a whole schedule. This is synchronous successive halving
(Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification and Hyperparameter Optimization,
arXiv:1502.07943). A rung waits for all its runs, so a search that was stopped and resumed ends the
same.

A search that ends at its edge has not found an optimum. If the best value of any arm is the
smallest or the largest, the values are extended on that side, for all arms alike: by two values,
tried with all epochs, three times at most.

Each value is tried with several seeds, which no run of the study has. Accuracy is measured on
held-out images. Values are ranked by the mean over the seeds; a value that failed with some seed is
below those that failed with fewer.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, NamedTuple, get_args

from normlab import recipes
from normlab.config import MAX_SEEDS, AugmentStep, RunConfig, Searched, StudyConfig
from normlab.ranges import Count, Positive, Range, Share
from normlab.study.plan import Arm

FACTORS = tuple(2.0**k for k in range(-4, 4))  # × the recipe's learning rate
DECAYS = (0.0, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SMOOTHINGS = (0.0, 0.025, 0.05, 0.1, 0.2, 0.4)
BATCHES = (0.25, 0.5, 1, 2, 4)  # × the recipe's batch size
MUON = 0.05  # the middle of the grid where the recipe has no Muon
SHARES = (4, 2, 1)  # a rung's runs take 1/4, 1/2, 1/1 of the epochs
LAST = len(SHARES) - 1
FINALISTS = 2  # values that the last rung tries at least
EXTENSIONS, BEYOND = 3, 2  # how often values are extended at most, and by how many on a side
FIRST_SEED = MAX_SEEDS  # above the seeds of a study's runs

Value = Annotated[float, Range(at_least=0)] | str


@dataclass(frozen=True, kw_only=True)
class Knob:
    """A setting that can be searched.

    Attributes:
        field: Its field in `RunConfig` and `Recipe`.
        label: Its name in sentences.
        values: The values to try first, from the study and the recipe.
        at_least: The smallest value that an extension may try.
        below: Extensions stay below it.
        ordered: Whether its values have an order, and so edges. Values without are few, and all
            are tried with all epochs: short runs say little about augmentation.
    """

    field: str
    label: str
    values: Callable[[StudyConfig, recipes.Recipe], tuple[Any, ...]]
    at_least: float = 0.0
    below: float = math.inf
    ordered: bool = True


def _batch_sizes(_: StudyConfig, recipe: recipes.Recipe) -> tuple[int, ...]:
    sizes = (int(recipe.batch_size * factor) for factor in BATCHES)
    return tuple(size for size in sizes if size >= 2)


def _shares_of_muon(_: StudyConfig, recipe: recipes.Recipe) -> tuple[float, ...]:
    return (0.0, *((recipe.muon or MUON) * factor for factor in FACTORS[1:]))


def _augmentations(_: StudyConfig, recipe: recipes.Recipe) -> tuple[str, ...]:
    return tuple(dict.fromkeys(("none", "shift", "+".join(recipe.augment) or "none")))


KNOBS: dict[Searched, Knob] = {
    "lr": Knob(
        field="learning_rate",
        label="learning rate",
        values=lambda study, recipe: tuple(
            (study.learning_rate or recipe.learning_rate) * factor for factor in FACTORS
        ),
    ),
    "wd": Knob(field="weight_decay", label="weight decay", values=lambda *_: DECAYS),
    "muon": Knob(field="muon", label="share of Muon", values=_shares_of_muon),
    # BatchNorm refuses a single image where the map is 1 × 1.
    "batch-size": Knob(
        field="batch_size", label="batch size", values=_batch_sizes, at_least=2, below=2**20
    ),
    "augment": Knob(field="augment", label="augmentation", values=_augmentations, ordered=False),
    "label-smoothing": Knob(
        field="label_smoothing",
        label="label smoothing",
        values=lambda *_: SMOOTHINGS,
        below=1.0,
    ),
}


class Round(NamedTuple):
    """A round of the search: a setting, and how often it was searched before."""

    what: Searched
    turn: int = 0

    @property
    def label(self) -> str:
        """In sentences: `learning rate`, `learning rate (search 2)`."""
        label = KNOBS[self.what].label
        return f"{label} (search {self.turn + 1})" if self.turn else label

    @property
    def rungs(self) -> range:
        """The rungs that its trials have."""
        return range(0 if KNOBS[self.what].ordered else LAST, len(SHARES))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of the search.

    Attributes:
        arm: The arm's name.
        what: The setting that is searched.
        value: The value that is tried; steps of augmentation are joined by `+`, or `none`.
        rung: Number of the rung, from 0.
        epochs: Length of the run.
        accuracy: Accuracy on the held-out images after the last epoch. None if the loss was not
            finite, or while it is unknown.
        turn: How often the setting was searched before.
        seed: The run's seed.
    """

    arm: str
    what: Searched
    value: Value
    rung: Annotated[int, Range(at_least=0, below=len(SHARES))]
    epochs: Positive
    accuracy: Share | None = None
    turn: Count = 0
    seed: Count = 0

    @property
    def round(self) -> Round:
        """The round that it belongs to."""
        return Round(self.what, self.turn)

    @property
    def name(self) -> str:
        """The name of its folder."""
        value = self.value if isinstance(self.value, str) else f"{self.value:g}"
        again = f"-search{self.turn + 1}" if self.turn else ""
        return f"{self.arm}{again}-{self.what}{value}-{self.epochs}epochs-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A value as a rung measured it.

    Attributes:
        arm: The arm's name.
        value: The value.
        accuracies: By seed, in order; None where the loss was not finite.
    """

    arm: str
    value: Value
    accuracies: tuple[float | None, ...]

    @property
    def trained(self) -> tuple[float, ...]:
        """The accuracies of the seeds that trained."""
        return tuple(accuracy for accuracy in self.accuracies if accuracy is not None)

    @property
    def failures(self) -> int:
        """The number of seeds that did not train."""
        return len(self.accuracies) - len(self.trained)

    @property
    def mean(self) -> float | None:
        """The mean accuracy over the seeds that trained."""
        return fmean(self.trained) if self.trained else None

    @property
    def rank(self) -> tuple[int, float, Value]:
        """Sorts values: fewest failures first, then the highest mean, then the smallest value."""
        return self.failures, 1.0 if self.mean is None else -self.mean, self.value


def rounds(study: StudyConfig) -> tuple[Round, ...]:
    """The rounds of a study's search, in order."""
    return tuple(
        Round(what, study.tune[:index].count(what)) for index, what in enumerate(study.tune)
    )


def fields(study: StudyConfig) -> tuple[str, ...]:
    """The fields of `Recipe` that the search decides. The learning rate scales with the batch."""
    found = [KNOBS[what].field for what in study.tune]
    return tuple(dict.fromkeys([*found, *(["learning_rate"] if "batch_size" in found else [])]))


def is_value(what: Searched, value: Value) -> bool:
    """Whether a value can be one of the setting's."""
    if what == "augment":
        return isinstance(value, str) and set(_steps(value)) <= set(get_args(AugmentStep))
    if what == "batch-size":
        return isinstance(value, int) and value >= 1
    return not isinstance(value, str)


def grid(of: Round, study: StudyConfig, arm: Arm) -> tuple[Value, ...]:
    """The values to try first: the same for every normalization of a setting.

    Learning rates scale with the square root of a batch size that is compared, or was searched.
    """
    recipe = recipes.find(recipes.name_of(arm.config))
    values = KNOBS[of.what].values(study, recipe)
    before = rounds(study)[: rounds(study).index(of)]
    if of.what == "lr" and (arm.setting.batch_size is not None or ("batch-size", 0) in before):
        scale = (arm.recipe.batch_size / recipe.batch_size) ** 0.5
        values = tuple(value * scale for value in values)
    return values


def rung_epochs(epochs: int, rung: int) -> int:
    """Length of the runs of a rung."""
    return max(1, epochs // SHARES[rung])


def kept(values: int, rung: int) -> int:
    """How many of a grid's values a rung tries."""
    return max(min(values, FINALISTS), values >> rung)


def settings_of(what: Searched, value: Value, arm: Arm) -> dict[str, Any]:
    """The settings of an arm's runs with a value. The learning rate goes with the batch size."""
    if isinstance(value, str):
        return {"augment": _steps(value)}
    settings: dict[str, Any] = {KNOBS[what].field: value}
    if what == "batch-size":
        scale = (value / arm.recipe.batch_size) ** 0.5
        settings["learning_rate"] = arm.recipe.learning_rate * scale
    return settings


def config_of(trial: Trial, arm: Arm, holdout: int) -> RunConfig:
    """The configuration of a trial's run."""
    return dataclasses.replace(
        arm.with_settings(settings_of(trial.what, trial.value, arm)).config,
        epochs=trial.epochs,
        holdout=holdout,
        seed=trial.seed,
    )


def rung_of(
    of: Round, rung: int, study: StudyConfig, arm: Arm, previous: Sequence[Trial]
) -> list[Trial]:
    """The trials of a rung.

    Args:
        of: The round.
        rung: Number of the rung: one of the round's.
        study: The study's configuration.
        arm: The arm, with the best values of the rounds before.
        previous: The arm's finished trials of the previous rung; none for the first.
    """
    values = grid(of, study, arm)
    if rung > of.rungs[0]:
        best = tried(previous)[: kept(len(values), rung)]
        values = tuple(sorted(each.value for each in best))
    return _trials(of, rung, study, arm, values)


def extension(
    of: Round, study: StudyConfig, arm: Arm, done: Sequence[Trial], more: tuple[int, int]
) -> list[Trial]:
    """The trials of values beyond those that an arm tried, with all epochs.

    Each is as far from the next as the outermost two are from each other, as a ratio.

    Args:
        of: The round.
        study: The study's configuration.
        arm: The arm, with the best values of the rounds before.
        done: The arm's trials of the round.
        more: How many values below the smallest and above the largest.
    """
    knob = KNOBS[of.what]
    if not knob.ordered:
        return []
    values = sorted({float(trial.value) for trial in done})
    below, above = more
    beyond = [*_continued(values[::-1], below), *_continued(values, above)]
    allowed = [value for value in beyond if knob.at_least <= value < knob.below]
    if of.what == "batch-size":
        allowed = [int(value) for value in allowed if value == int(value)]
    return _trials(of, LAST, study, arm, sorted(allowed))


def edges(trials: Iterable[Trial]) -> tuple[bool, bool]:
    """Whether an arm's best value of a round is the smallest that it tried; and the largest.

    Never for 0, for a value without an order, if another is as good, or if no value trained.
    """
    trials = list(trials)
    found = best(trials)
    if found is None or not KNOBS[trials[0].what].ordered or found.value == 0:
        return False, False
    if sum(other.rank[:2] == found.rank[:2] for other in finalists(trials)) > 1:
        return False, False
    values = [float(trial.value) for trial in trials]
    return found.value == min(values), found.value == max(values)


def added(trials: Iterable[Trial]) -> tuple[int, int]:
    """How many values of an arm's round lie below and above its grid: the extensions."""
    trials = list(trials)
    if not KNOBS[trials[0].what].ordered:
        return 0, 0
    first = [float(trial.value) for trial in trials if trial.rung == 0]
    last = {float(trial.value) for trial in trials if trial.rung == LAST}
    return sum(v < min(first) for v in last), sum(v > max(first) for v in last)


def in_round(trials: Iterable[Trial], arm: str, of: Round) -> list[Trial]:
    """The trials of an arm in a round."""
    return [trial for trial in trials if (trial.arm, trial.round) == (arm, of)]


def tried(trials: Iterable[Trial]) -> list[Tried]:
    """The values of an arm's trials of one rung, the best first."""
    by_value: dict[Value, list[Trial]] = {}
    for trial in trials:
        by_value.setdefault(trial.value, []).append(trial)
    return sorted(
        (
            Tried(arm=of[0].arm, value=value, accuracies=tuple(trial.accuracy for trial in of))
            for value, of in by_value.items()
        ),
        key=lambda each: each.rank,
    )


def finalists(trials: Iterable[Trial]) -> list[Tried]:
    """The values that an arm tried with all epochs in a round, the best first."""
    return tried(trial for trial in trials if trial.rung == LAST)


def best(trials: Iterable[Trial]) -> Tried | None:
    """An arm's best value of a round; None if it is not known, or if no value could be trained."""
    found = finalists(trials)
    return found[0] if found and found[0].trained else None


def is_searched(trials: Sequence[Trial], arm: str, study: StudyConfig) -> bool:
    """Whether the search has found all settings of an arm; True if nothing is searched."""
    return all(best(in_round(trials, arm, of)) for of in rounds(study))


def _trials(
    of: Round, rung: int, study: StudyConfig, arm: Arm, values: Iterable[Value]
) -> list[Trial]:
    return [
        Trial(
            arm=arm.name,
            what=of.what,
            turn=of.turn,
            value=value,
            rung=rung,
            epochs=rung_epochs(arm.recipe.epochs, rung),
            seed=seed,
        )
        for value in values
        for seed in range(FIRST_SEED, FIRST_SEED + study.tune_seeds)
    ]


def _continued(values: Sequence[float], more: int) -> list[float]:
    """Values after the last, in the ratio of the last two; none after 0 or a single value."""
    if len(values) < 2 or 0 in values[-2:]:
        return []
    ratio = values[-1] / values[-2]
    return [values[-1] * ratio**step for step in range(1, more + 1)]


def _steps(text: str) -> tuple[str, ...]:
    return () if text == "none" else tuple(text.split("+"))
