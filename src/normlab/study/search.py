"""The search for settings: the same trials for every arm, before the runs."""

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing

from normlab.study import estimate, tuning
from normlab.study.job import Job
from normlab.study.local import Outcome
from normlab.study.plan import Arm
from normlab.study.record import Result, Study, collect
from normlab.study.resources import Resources
from normlab.study.tuning import Round, Trial, Tried
from normlab.wording import counted, rounded_setting


def search(study: Study, planned: Sequence[Arm], holdout: int, resources: Resources) -> Study:
    """The study, with the settings that the search found for its arms.

    Settings are searched in rounds, each at the best values of the rounds before. The record gets
    each trial when it ends; a trial that it has is not run again. An arm whose search fails is
    given up, and its runs say why. It is searched again when the study is resumed, with as many
    trials as the others had.
    """
    arms = [arm for arm in planned if not _has_settings(study, arm)]
    problems: dict[str, str] = {}
    for of in tuning.rounds(study.config):
        study, failed = _search_round(study, of, arms, holdout, resources)
        problems |= failed
        settled = []
        for arm in arms:
            trials = tuning.in_round(study.trials, arm.name, of)
            if found := tuning.best(trials):
                settled.append(arm.with_settings(tuning.settings_of(of.what, found.value, arm)))
                if resources.console is not None:
                    resources.console.print(_found(of, found, trials), highlight=False)
        arms = settled
    return dataclasses.replace(
        study,
        arms=tuple(_with_tuned_settings(study, arm) for arm in planned),
        results=tuple(
            study.failed(result, problems[result.arm]) if result.arm in problems else result
            for result in study.results
        ),
    )


def _has_settings(study: Study, arm: Arm) -> bool:
    """Whether the record has the settings that a search found for a planned arm.

    Its trials alone do not say that the search was complete: others may have been to follow.
    """
    return _is_searched(study, arm) and study.arm(arm.name).config != arm.config


def _is_searched(study: Study, arm: Arm) -> bool:
    return tuning.is_searched(study.trials, arm.name, study.config)


def _with_trial(study: Study, trial: Trial) -> Study:
    """The study with one more trial, in an order that does not depend on when they ran."""
    places = {arm.name: place for place, arm in enumerate(study.arms)}
    order = tuning.rounds(study.config)
    ordered = sorted(
        [*study.trials, trial],
        key=lambda t: (order.index(t.round), t.rung, places[t.arm], t.value, t.seed),
    )
    return dataclasses.replace(study, trials=tuple(ordered))


def _without_trials(study: Study, of: Round, names: Collection[str]) -> Study:
    """The study without the trials of a round that some arms have."""
    trials = tuple(t for t in study.trials if t.round != of or t.arm not in names)
    return dataclasses.replace(study, trials=trials)


def _with_tuned_settings(study: Study, arm: Arm) -> Arm:
    """The arm with the settings that the search found; unchanged if it found none."""
    if _is_searched(study, arm):
        for of in tuning.rounds(study.config):
            if found := tuning.best(tuning.in_round(study.trials, arm.name, of)):
                arm = arm.with_settings(tuning.settings_of(of.what, found.value, arm))
    return arm


def _found(of: Round, best: Tried, trials: Sequence[Trial]) -> str:
    """What a round found: `gn: learning rate 0.01`."""
    edge = ", at the edge of the values tried" if any(tuning.edges(trials)) else ""
    return f"{best.arm}: {of.label} {rounded_setting(best.value)}{edge}"


def _search_round(
    study: Study, of: Round, arms: Sequence[Arm], holdout: int, resources: Resources
) -> tuple[Study, dict[str, str]]:
    """Searches one setting, rung by rung, and beyond the edges where an arm's best value is.

    Returns:
        The study with the trials; and by the arm's name, why its search failed.
    """
    diverged: dict[str, str] = {}
    failed: dict[str, str] = {}  # a trial could not be run
    done: dict[str, list[Trial]] = {arm.name: [] for arm in arms}
    previous = done
    for rung in of.rungs:
        trials = {
            arm: tuning.rung_of(of, rung, study.config, arm, previous[arm.name])
            for arm in arms
            if arm.name not in diverged | failed
        }
        study, previous = _run_trials(study, trials, holdout, resources, failed)
        diverged |= _diverged(of, previous)
        done = {name: of_arm + previous.get(name, []) for name, of_arm in done.items()}
    elsewhere = _added_elsewhere(study, of, arms)
    for _ in range(tuning.EXTENSIONS):
        searched = [arm for arm in arms if arm.name not in diverged | failed]
        more = elsewhere or _needed([done[arm.name] for arm in searched])
        trials = {
            arm: tuning.extension(of, study.config, arm, done[arm.name], more) for arm in searched
        }
        if not any(trials.values()):
            break
        study, measured = _run_trials(study, trials, holdout, resources, failed)
        done = {name: of_arm + measured.get(name, []) for name, of_arm in done.items()}
        if elsewhere is not None:
            break
    return _without_trials(study, of, failed), diverged | failed


def _needed(by_arm: Iterable[Sequence[Trial]]) -> tuple[int, int]:
    """How many values all arms try below and above their own, because some arm's best is there."""
    at_edges = [tuning.edges(trials) for trials in by_arm]
    return (
        tuning.BEYOND * any(below for below, _ in at_edges),
        tuning.BEYOND * any(above for _, above in at_edges),
    )


def _added_elsewhere(study: Study, of: Round, arms: Sequence[Arm]) -> tuple[int, int] | None:
    """How many values the arms had below and above their grid whose search ended before."""
    now = {arm.name for arm in arms}
    for arm in study.arms:
        if arm.name not in now and _is_searched(study, arm):
            return tuning.added(tuning.in_round(study.trials, arm.name, of))
    return None


def _run_trials(
    study: Study,
    trials: Mapping[Arm, Sequence[Trial]],
    holdout: int,
    resources: Resources,
    failed: dict[str, str],
) -> tuple[Study, dict[str, list[Trial]]]:
    """Runs the trials that the record does not have.

    Args:
        study: The study.
        trials: The trials of each arm.
        holdout: Number of images that they hold out.
        resources: What they are run with.
        failed: Gets, by the arm's name, why a trial could not be run.

    Returns:
        The study with the trials; and by the arm's name, its trials with their accuracies.
    """
    known = {dataclasses.replace(trial, accuracy=None): trial for trial in study.trials}
    jobs: dict[Job, Trial] = {}
    seconds: dict[Job, float] = {}
    for arm, of_arm in trials.items():
        whole_run = resources.estimated_seconds[arm.name]
        for trial in of_arm:
            if trial in known:
                continue
            config = tuning.config_of(trial, arm, holdout)
            job = resources.job(config, study.path / "tuning" / trial.name)
            jobs[job] = trial
            seconds[job] = estimate.part(whole_run, trial.epochs, arm.recipe.epochs)
    epochs = {job: trial.epochs for job, trial in jobs.items() if not job.done}
    with closing(resources.run(epochs, seconds, images=holdout)) as ended:
        done_before = ((job, Outcome()) for job in jobs if job.done)
        for job, outcome in itertools.chain(done_before, ended):
            trial = jobs[job]
            accuracy, problem = _measure(study, trial, job, outcome)
            if problem:
                failed.setdefault(trial.arm, problem)
                continue
            known[trial] = dataclasses.replace(trial, accuracy=accuracy)
            study = _with_trial(study, known[trial])
            study.write()
    measured = {
        arm.name: [known[trial] for trial in of_arm if trial in known]
        for arm, of_arm in trials.items()
    }
    return study, measured


def _diverged(of: Round, measured: Mapping[str, Sequence[Trial]]) -> dict[str, str]:
    """By the arm's name, why its search failed if no trial of a rung could be trained."""
    return {
        name: f"its loss was not finite with any {of.label} that was tried for "
        f"{counted(trials[0].epochs, 'epoch')}: leave it out, or choose another recipe"
        for name, trials in measured.items()
        if trials and all(trial.accuracy is None for trial in trials)
    }


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
