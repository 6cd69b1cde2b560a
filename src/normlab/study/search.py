"""The search for settings: the same trials for every arm, before the runs."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing

from normlab.study import estimate, tuning
from normlab.study.job import Job
from normlab.study.local import Outcome
from normlab.study.plan import Arm
from normlab.study.record import Result, Study, collect
from normlab.study.resources import Resources
from normlab.study.tuning import Trial, What
from normlab.wording import spaced


def search(study: Study, planned: Sequence[Arm], holdout: int, resources: Resources) -> Study:
    """The study, with the settings that the search found for its arms.

    Settings are searched one after the other, each at the best value of the previous ones. An arm
    whose search fails is given up, and its runs say why. It is searched again when the study is
    resumed.
    """
    arms = [arm for arm in planned if not _is_searched(study, arm)]
    study = _without_trials(study, arms)
    problems: dict[str, str] = {}
    for what in study.config.tune:
        study, failed = _search_setting(study, what, arms, holdout, resources)
        problems |= failed
        best = [tuning.best(study.trials, arm.name, what) for arm in arms]
        arms = [
            arm.with_settings({tuning.FIELDS[what]: trial.value})
            for arm, trial in zip(arms, best, strict=True)
            if trial is not None
        ]
        if resources.console is not None:
            for trial in filter(None, best):
                resources.console.print(_found(trial, study.trials), highlight=False)
    return dataclasses.replace(
        study,
        arms=tuple(_with_tuned_settings(study, arm) for arm in planned),
        results=tuple(
            study.failed(result, problems[result.arm]) if result.arm in problems else result
            for result in study.results
        ),
    )


def _is_searched(study: Study, arm: Arm) -> bool:
    return tuning.is_searched(study.trials, arm.name, study.config)


def _without_trials(study: Study, arms: Iterable[Arm]) -> Study:
    names = {arm.name for arm in arms}
    trials = tuple(trial for trial in study.trials if trial.arm not in names)
    return dataclasses.replace(study, trials=trials)


def _with_trials(study: Study, trials: Iterable[Trial]) -> Study:
    """The study with more trials, in an order that does not depend on when they ran."""
    places = {arm.name: place for place, arm in enumerate(study.arms)}
    whats = study.config.tune
    ordered = sorted(
        [*study.trials, *trials],
        key=lambda t: (whats.index(t.what), t.rung, places[t.arm], t.value),
    )
    return dataclasses.replace(study, trials=tuple(ordered))


def _with_tuned_settings(study: Study, arm: Arm) -> Arm:
    """The arm with the settings that the search found; unchanged if it found none."""
    if not _is_searched(study, arm):
        return arm
    best = [tuning.best(study.trials, arm.name, what) for what in study.config.tune]
    return arm.with_settings({tuning.FIELDS[t.what]: t.value for t in best if t is not None})


def _found(best: Trial, trials: Sequence[Trial]) -> str:
    """What the search found: `gn: learning rate 0.01`."""
    edge = ", at the edge of the values tried" if tuning.on_edge(best, trials) else ""
    return f"{best.arm}: {spaced(tuning.FIELDS[best.what])} {best.value:.4g}{edge}"


def _search_setting(
    study: Study, what: What, arms: Sequence[Arm], holdout: int, resources: Resources
) -> tuple[Study, dict[str, str]]:
    """Searches one setting, rung by rung.

    Returns:
        The study with the trials; and by the arm's name, why its search failed.
    """
    problems: dict[str, str] = {}
    previous: dict[str, list[Trial]] = {arm.name: [] for arm in arms}
    for rung in range(len(tuning.SHARES)):
        trials = {
            arm: tuning.rung_of(what, rung, study.config, arm, previous[arm.name])
            for arm in arms
            if arm.name not in problems
        }
        previous, failed = _run_rung(study, trials, holdout, resources)
        problems |= failed
        study = _with_trials(study, (trial for of_arm in previous.values() for trial in of_arm))
        study.write()
    return study, problems


def _run_rung(
    study: Study, trials: Mapping[Arm, Sequence[Trial]], holdout: int, resources: Resources
) -> tuple[dict[str, list[Trial]], dict[str, str]]:
    """Runs the trials of a rung.

    Returns:
        By the arm's name: the trials with their accuracies; and why its search failed.
    """
    jobs: dict[Job, Trial] = {}
    seconds: dict[Job, float] = {}
    for arm, of_arm in trials.items():
        whole_run = resources.estimated_seconds[arm.name]
        for trial in of_arm:
            config = tuning.config_of(trial, arm, holdout)
            job = resources.job(config, study.path / "tuning" / trial.name)
            jobs[job] = trial
            seconds[job] = estimate.part(whole_run, trial.epochs, arm.recipe.epochs)
    epochs = {job: trial.epochs for job, trial in jobs.items() if not job.done}
    with closing(resources.run(epochs, seconds, images=holdout)) as ended:
        outcomes = dict(ended)
    measured: dict[str, list[Trial]] = {arm.name: [] for arm in trials}
    problems: dict[str, str] = {}
    for job, trial in jobs.items():
        accuracy, problem = _measure(study, trial, job, outcomes.get(job, Outcome()))
        measured[trial.arm].append(dataclasses.replace(trial, accuracy=accuracy))
        if problem:
            problems.setdefault(trial.arm, problem)
    for name in problems:  # an incomplete rung could be taken for a complete one
        measured[name] = []
    for name, of_arm in measured.items():
        if of_arm and all(trial.accuracy is None for trial in of_arm):
            problems[name] = (
                f"its loss was not finite with any {spaced(tuning.FIELDS[of_arm[0].what])} that "
                "was tried: leave it out, or choose another recipe"
            )
    return measured, problems


def _measure(study: Study, trial: Trial, job: Job, outcome: Outcome) -> tuple[float | None, str]:
    """A trial's accuracy, None if it diverged; and why it failed, empty if it did not."""
    if outcome.diverged:
        return None, ""
    if outcome.problem:
        return None, f"its search failed, at {job.out.name}: {outcome.problem}"
    result, _ = collect(study, Result(arm=trial.arm, seed=0), job.out, job.config)
    if result.problem:
        return None, f"its search failed: {result.problem}"
    return result.accuracies[-1], ""
