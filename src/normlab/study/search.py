"""The search for settings: the same trials for every arm, before the runs."""

import dataclasses
from collections.abc import Mapping, Sequence

from normlab.config import StudyConfig
from normlab.study import estimate, tuning
from normlab.study.display import StudyDisplay
from normlab.study.job import Job
from normlab.study.plan import Arm
from normlab.study.record import Result, Study, collect
from normlab.study.resources import Resources
from normlab.study.tuning import Trial
from normlab.wording import spaced


def search(study: Study, planned: Sequence[Arm], holdout: int, resources: Resources) -> Study:
    """The study, with the settings that the search found for its arms.

    Settings are searched one after the other, each at the best value of the previous ones. An arm
    whose search fails is given up, and its runs say why. It is searched again when the study is
    resumed.
    """
    config = study.config
    arms = [arm for arm in planned if not _is_searched(study, arm)]
    problems: dict[str, str] = {}
    searched_now = {arm.name for arm in arms}
    kept = tuple(trial for trial in study.trials if trial.arm not in searched_now)
    study = dataclasses.replace(study, trials=kept)
    for what in config.tune:
        done: dict[str, list[Trial]] = {}
        for rung in range(len(tuning.SHARES)):
            trials = {
                arm.name: tuning.rung_of(what, rung, config, arm, done.get(arm.name, ()))
                for arm in arms
            }
            done, failed = _run_rung(study, arms, trials, holdout, resources)
            problems |= failed
            arms = [arm for arm in arms if arm.name not in problems]
            every = [*study.trials, *(trial for of_arm in done.values() for trial in of_arm)]
            study = dataclasses.replace(study, trials=_in_order(every, planned, config))
            study.write()
        best = [tuning.best(study.trials, arm.name, what) for arm in arms]
        arms = [
            arm.with_settings({tuning.FIELDS[what]: trial.value})
            for arm, trial in zip(arms, best, strict=True)
            if trial is not None
        ]
        if resources.console is not None:
            for trial in filter(None, best):
                edge = tuning.on_edge(trial, study.trials)
                resources.console.print(
                    f"{trial.arm}: {spaced(tuning.FIELDS[what])} {trial.value:.4g}"
                    + (", at the edge of the values tried" if edge else ""),
                    highlight=False,
                )
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


def _with_tuned_settings(study: Study, arm: Arm) -> Arm:
    """The arm with the settings that the search found; unchanged if it found none."""
    if not _is_searched(study, arm):
        return arm
    best = [tuning.best(study.trials, arm.name, what) for what in study.config.tune]
    return arm.with_settings({tuning.FIELDS[t.what]: t.value for t in best if t is not None})


def _in_order(
    trials: Sequence[Trial], arms: Sequence[Arm], config: StudyConfig
) -> tuple[Trial, ...]:
    """The trials in an order that does not depend on when they ran."""
    places = {arm.name: place for place, arm in enumerate(arms)}
    return tuple(
        sorted(trials, key=lambda t: (config.tune.index(t.what), t.rung, places[t.arm], t.value))
    )


def _run_rung(
    study: Study,
    arms: Sequence[Arm],
    trials: Mapping[str, Sequence[Trial]],
    holdout: int,
    resources: Resources,
) -> tuple[dict[str, list[Trial]], dict[str, str]]:
    """Runs the trials of a rung.

    Returns:
        By the arm's name: the trials with their accuracies; and why an arm cannot be searched.
    """
    by_job: dict[Job, Trial] = {}
    estimated_seconds: dict[Job, float] = {}
    for arm in arms:
        whole_run = resources.estimated_seconds[arm.name]
        for trial in trials[arm.name]:
            config = tuning.config_of(trial, arm, holdout)
            job = resources.job(config, study.path / "tuning" / trial.name)
            by_job[job] = trial
            estimated_seconds[job] = estimate.part(whole_run, trial.epochs, arm.recipe.epochs)
    problems: dict[str, str] = {}
    diverged: set[Job] = set()
    waiting = [job for job in by_job if not job.done]
    epochs = {job: by_job[job].epochs for job in waiting}
    with StudyDisplay(resources.console, epochs, estimated_seconds, images=holdout) as display:
        for progress in resources.execute(waiting):
            display.update(progress)
            for job, outcome in progress.ended.items():
                if outcome.diverged:
                    diverged.add(job)
                elif outcome.problem:
                    problem = f"its search failed, at {job.out.name}: {outcome.problem}"
                    problems[by_job[job].arm] = problem
    done: dict[str, list[Trial]] = {name: [] for name in trials}
    for job, trial in by_job.items():
        if trial.arm in problems:
            continue
        accuracy = None
        if job not in diverged:
            result, _ = collect(study, Result(arm=trial.arm, seed=0), job.out, job.config)
            if result.problem:
                problems[trial.arm] = f"its search failed: {result.problem}"
                continue
            accuracy = result.accuracies[-1]
        done[trial.arm].append(dataclasses.replace(trial, accuracy=accuracy))
    done |= {name: [] for name in problems}  # an incomplete rung could be taken for a complete one
    for name, of_arm in done.items():
        if of_arm and all(trial.accuracy is None for trial in of_arm):
            problems[name] = (
                f"its loss was not finite with any {spaced(tuning.FIELDS[of_arm[0].what])} that "
                "was tried: leave it out, or choose another recipe"
            )
    return done, problems
