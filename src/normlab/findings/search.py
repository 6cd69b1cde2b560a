"""What a study's search found, what it may have missed, and how much of it may be luck."""

import dataclasses
from collections.abc import Sequence

from normlab.findings import statistics
from normlab.findings.statistics import Choice
from normlab.study import tuning
from normlab.study.plan import settings
from normlab.study.record import Study
from normlab.study.tuning import Round, Trial
from normlab.wording import counted, listed, rounded_setting

FEW = 6  # arms that a sentence names


def searches(study: Study) -> list[str]:
    """Whether the search was equal for all, which optima may lie outside it, and its noise."""
    sentences = []
    for of in tuning.rounds(study.config):
        by_arm = {arm.name: tuning.in_round(study.trials, arm.name, of) for arm in study.arms}
        by_arm = {name: trials for name, trials in by_arm.items() if tuning.best(trials)}
        sentences += [
            *_equality(study, of, by_arm),
            *_edges(of, by_arm),
            *_failures(of, by_arm),
            *_noise(of, by_arm),
        ]
        if study.config.holdout:
            sentences.append(
                f"The {of.label} was chosen on the same held-out images that accuracy is measured "
                "on here: this accuracy is somewhat too high."
            )
    return sentences


def _equality(study: Study, of: Round, by_arm: dict[str, list[Trial]]) -> list[str]:
    """How many trials each arm had, over which values, and how they were extended."""
    if len(by_arm) < len(study.arms):
        return []  # an arm's search failed, or is not finished: its runs say so
    runs = {name: len({(t.value, t.epochs, t.seed) for t in of}) for name, of in by_arm.items()}
    if len(set(runs.values())) > 1:
        texts = [f"{name} {number}" for name, number in runs.items()]
        return [f"The searches of the {of.label} had different numbers of runs: {_named(texts)}."]
    same = all(
        len({frozenset(t.value for t in by_arm[arm.name]) for arm in arms}) == 1
        for arms in settings(study.arms).values()
    )
    number = next(iter(runs.values()))
    seeds = study.config.tune_seeds
    text = (
        f"The {of.label} was searched for every normalization with {number} runs each on held-out "
        f"images, over {'the same' if same else 'equally many'} values"
    )
    sentences = [f"{text}, each with {seeds} seeds." if seeds > 1 else f"{text}."]
    below, above = tuning.added(next(iter(by_arm.values())))
    beyond = [f"{below} smaller"] * (below > 0) + [f"{above} larger"] * (above > 0)
    if beyond:
        sentences.append(
            f"The best {of.label} of some arm was at the edge of the values, so all arms also "
            f"tried {listed(beyond)} values."
        )
    return sentences


def _edges(of: Round, by_arm: dict[str, list[Trial]]) -> list[str]:
    edge = [
        f"{best.arm} ({rounded_setting(best.value)})"
        for trials in by_arm.values()
        if any(tuning.edges(trials)) and (best := tuning.best(trials))
    ]
    if not edge:
        return []
    return [
        f"The best {of.label} for {_named(edge)} lies at the edge of the searched values: a better "
        "one may lie beyond."
    ]


def _failures(of: Round, by_arm: dict[str, list[Trial]]) -> list[str]:
    failed = [
        f"{best.arm} with {len(best.trained)} of {len(best.accuracies)}"
        for trials in by_arm.values()
        if (best := tuning.best(trials)) and best.failures
    ]
    return [f"At its best {of.label}, not every seed trained: {_named(failed)}."] if failed else []


def _noise(of: Round, by_arm: dict[str, list[Trial]]) -> list[str]:
    """How much the choice of a value owes to the seeds that it was tried with."""
    choices = {name: c for name, trials in by_arm.items() if (c := choice(trials))}
    if not choices:
        return []
    spreads = {name: 100 * each.spread for name, each in choices.items()}
    losses = {name: 100 * each.loss for name, each in choices.items() if each.loss > 0}
    if len(spreads) > FEW:
        spread = f"{min(spreads.values()):.2f} to {max(spreads.values()):.2f} points"
    else:
        spread = listed([f"{value:.2f} ({name})" for name, value in spreads.items()]) + " points"
    text = (
        f"The noise of this search: near the best {of.label}, accuracy varies between seeds with a "
        f"standard deviation of {spread}."
    )
    if not losses:
        return [f"{text} No second-best value is within this noise."]
    worst = sorted(losses, key=lambda name: -losses[name])
    return [
        f"{text} The second-best value is within this noise for {_named([*losses])}: with that "
        "value, an arm might have been better by up to "
        f"{_named([f'{losses[name]:.2f} points ({name})' for name in worst])}. That much may have "
        "been lost by bad luck (95% limits)."
    ]


def choice(trials: Sequence[Trial]) -> Choice | None:
    """The choice of an arm's best value among those that it tried with all epochs.

    None if its noise is unknown: with one value, one seed, no spread, or a seed that failed.
    """
    chosen, *others = tuning.finalists(trials)
    if chosen.failures or chosen.mean is None:
        return None
    # A value that failed with a seed was not passed over by luck alone.
    found = statistics.choice([chosen.trained, *(v.trained for v in others if not v.failures)])
    # No value can be better than 100%.
    return found and dataclasses.replace(found, loss=min(found.loss, 1 - chosen.mean))


def _named(texts: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    left = len(texts) - FEW
    return listed([*texts[:FEW], *([counted(left, "more arm")] if left > 0 else [])])
