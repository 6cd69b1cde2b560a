"""A study from its configuration to its page: what is planned, searched, run and recorded."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from normlab.config import Execution, RunConfig, StudyConfig
from normlab.data import Dataset, apply_splits, load_for, shared
from normlab.errors import InterruptedRunError, RunError, UsageError
from normlab.network.shapes import count
from normlab.network.zoo import find
from normlab.notation import parse
from normlab.runs import machine
from normlab.storage.files import leftovers, locked, remove_leftovers
from normlab.study import estimate, local, tuning
from normlab.study.display import StudyDisplay
from normlab.study.job import PATIENCE, Job, differences
from normlab.study.local import Progress
from normlab.study.plan import Arm, held_out, plan, settings, varying, warnings
from normlab.study.record import Costs, Result, Study, measured
from normlab.study.tuning import Trial
from normlab.table import Table
from normlab.wording import counted, estimated_duration

# Carries out runs and tells how it goes: `local.run_jobs`, or `cluster`'s.
Executor = Callable[[Sequence[Job]], Iterator[Progress]]


def compare(
    study: StudyConfig,
    out: Path | str,
    execution: Execution | None = None,
    *,
    workers: int | None = None,
    ray: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
) -> Study:
    """Runs every normalization with every seed, or goes on where that was stopped.

    Finished runs are kept, stopped ones resumed, failed ones tried again; a run that fails says why
    and stops no other.

    Args:
        study: What is compared.
        out: The study's folder.
        execution: Where the data lies, and the device; each run is on one thread.
        workers: How many runs at a time; None: one a core, as far as the memory goes,
            or one on a GPU.
        ray: Carry them out on Ray: `local` starts a cluster of this machine, else the address of
            one, whose nodes must all see `out`.
        dry_run: Say what would be run and how long it would take, and stop there.
        quiet: Show nothing.

    Raises:
        UsageError: The settings make no sense.
        DataError: The data is not there.
        RunError: The folder holds another study, or another process works on it.
        InterruptedRunError: Ctrl-C; the same call goes on.
    """
    out = Path(out).resolve()
    execution = execution or Execution()
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    console = None if quiet else Console()
    device = machine.prepare(dataclasses.replace(execution, threads=1))
    if workers is not None and ray is not None and device.type != "cuda":
        raise UsageError("--workers is for this machine: Ray runs as many as it has cores")
    dataset = load_for(study, execution.data_root)
    arms = plan(study, classes=len(dataset.classes), images=len(dataset.train))
    before = _before(out, study, arms, dataset)
    seconds = _seconds(arms, dataset, device)
    workers = estimate.workers_for(workers, device)
    record = before or Study(
        path=out,
        config=study,
        arms=tuple(arms),
        images=study.holdout or len(dataset.test),
        fingerprint=dataset.fingerprint,
        results=tuple(
            Result(arm=arm.name, seed=seed) for arm in arms for seed in range(study.seeds)
        ),
    )
    if console is not None:
        _announce(record, arms, dataset, seconds, workers, console, ray)
    if dry_run:
        return record
    with (
        locked(out, PATIENCE) as lock,
        _shared(out / "data", dataset) as where,
        _executor(ray, workers, lock, device) as execute,
    ):
        means = Resources(where, execute, seconds, device, console)
        remove_leftovers(out / "study.json")
        remove_leftovers(out / "study.csv")
        if before is None:
            record.write()
        try:
            record = _tune(record, arms, held_out(study, len(dataset.train)), means)
            record = _run(record, means)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; what was done is in {out}. To go on, give the same command again"
            ) from None
    return record


# --- Before the runs ----------------------------------------------------------------------------


def _before(out: Path, study: StudyConfig, arms: Sequence[Arm], dataset: Dataset) -> Study | None:
    """What the folder holds of this study already.

    Raises:
        RunError: It holds another study; with what differs.
    """
    if not (out / "study.json").exists():
        if out.exists() and set(out.iterdir()) - set(leftovers(out / "study.json")):
            raise RunError(f"{out} holds something else than a study: choose another --out")
        return None
    before = Study.open(out)
    differing = differences(before.config, study)
    if not differing:  # but recipes may have changed since; a layout is refused by each run
        for old, arm in zip(before.arms, arms, strict=True):
            searched = {
                tuning.FIELDS[what]: getattr(old.config, tuning.FIELDS[what]) for what in study.tune
            }
            now = arm.with_settings(searched)
            changed = differences(old.recipe, now.recipe) or differences(old.config, now.config)
            differing += [f"{arm.name}'s {text}" for text in changed]
    if any(
        trial.epochs != tuning.rung_epochs(before.arm(trial.arm).recipe.epochs, trial.rung)
        for trial in before.trials
    ):
        differing.append("its search had runs of other lengths")
    if before.fingerprint != dataset.fingerprint:
        differing.append(
            f"the data had fingerprint {before.fingerprint[:12]}, has {dataset.fingerprint[:12]}"
        )
    if differing:
        raise RunError(
            f"{out} holds another study: {'; '.join(differing)}. Choose another --out, or delete it"
        )
    return before


def _seconds(arms: Sequence[Arm], dataset: Dataset, device: torch.device) -> dict[str, float]:
    """What a run of each arm is thought to take."""
    seconds = {}
    for alike in settings(arms).values():
        config = alike[0].config
        divided = apply_splits(dataset, dataclasses.replace(config, label_noise=0.0))
        for arm in alike:
            seconds[arm.name] = estimate.seconds_of(arm, divided, device)
    return seconds


def _announce(
    record: Study,
    arms: Sequence[Arm],
    dataset: Dataset,
    seconds: Mapping[str, float],
    workers: int,
    console: Console,
    ray: str | None,
) -> None:
    """Says what will be run, and how long what is left of it will take."""
    study = record.config
    for warning in warnings(arms):
        console.print(f"warning: {warning}", soft_wrap=True, highlight=False, markup=False)
    by_setting = settings(arms)
    axes = varying(by_setting)
    before = ""
    for setting, alike in by_setting.items():
        config = alike[0].config
        if (line := find(config.network)) != before:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
        before = line
        rows = []
        for arm in alike:
            parameters = count(parse(line), norm=arm.norm, classes=len(dataset.classes))
            rows.append(
                (
                    arm.norm,
                    f"{parameters:,}",
                    str(arm.recipe.epochs),
                    str(arm.recipe.batch_size),
                    "searched" if "lr" in study.tune else f"{arm.recipe.learning_rate:.4g}",
                    "searched" if "wd" in study.tune else f"{arm.recipe.weight_decay:.4g}",
                    estimated_duration(seconds[arm.name]),
                )
            )
        said = [study.dataset, f"recipe {config.recipe}", *([setting.text(axes)] if axes else [])]
        console.print(
            Table(
                caption=", ".join([*said, counted(study.seeds, "seed")]),
                head=("norm", "parameters", "epochs", "batch", "rate", "decay", "time a run"),
                kinds=("name", *["number"] * 6),
                rows=rows,
            )
        )
    runs = len(record.results)
    left = [seconds[result.arm] for result in record.results if result.state != "done"]
    if not left:
        console.print(f"{counted(runs, 'run')}, all of them done", highlight=False)
        return
    searched = [
        second
        for arm in arms
        if not _found(record, arm)
        for second in _search_seconds(study, arm, seconds[arm.name])
    ]
    done = f", {runs - len(left)} of them done" if len(left) < runs else ""
    trials = f", after a search of {len(searched)} more" if searched else ""
    where, time = (
        f"{workers} at a time",
        estimated_duration(estimate.total([*searched, *left], workers)),
    )
    if ray not in (None, "local"):  # how many cores it has is not known yet
        where, time = "on Ray", f"{estimated_duration(sum([*searched, *left]))} of one core"
    console.print(f"{counted(runs, 'run')}{done}{trials}, {where}: about {time}", highlight=False)


def _search_seconds(study: StudyConfig, arm: Arm, seconds: float) -> list[float]:
    """What the trials of an arm take, from what a whole run does."""
    epochs = arm.recipe.epochs
    lengths = [tuning.rung_epochs(epochs, rung) for rung in range(len(tuning.SHARES))]
    return [
        estimate.part(seconds, length, epochs)
        for what in study.tune
        for rung, length in enumerate(lengths)
        if length not in lengths[:rung]  # else they are the runs of the rung before
        for _ in range(len(tuning.grid(what, study, arm)) // 2**rung)
    ]


@contextmanager
def _executor(
    ray: str | None, workers: int, lock: int | None, device: torch.device
) -> Iterator[Executor]:
    """What carries out runs: this machine's processes, or Ray."""
    if ray is None:
        yield partial(local.run_jobs, workers=workers, keep_open=lock)
        return
    from normlab.study.cluster import on_ray

    gpus = 1 / workers if device.type == "cuda" else 0
    with on_ray(ray, cores=workers, gpus=gpus) as execute:
        yield execute


@contextmanager
def _shared(folder: Path, dataset: Dataset) -> Iterator[Callable[[RunConfig], Path]]:
    """Where runs find their data: written once for all that divide it alike, deleted at the end."""

    def where(config: RunConfig) -> Path:
        parts = (config.holdout, config.train_images, config.label_noise)
        place = folder / "-".join(map(str, parts))
        if not (place / "dataset.json").exists():
            shared.write(apply_splits(dataset, config), place)
        return place

    shutil.rmtree(folder, ignore_errors=True)  # a killed study's
    try:
        yield where
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- The search and the runs --------------------------------------------------------------------


@dataclass(frozen=True)
class Resources:
    """What runs are carried out with.

    Attributes:
        where: The folder with the data that a run is to have.
        execute: What carries runs out.
        seconds: What a whole run of each arm is thought to take.
        device: Where they compute.
        console: Where they are shown; None shows nothing.
    """

    where: Callable[[RunConfig], Path]
    execute: Executor
    seconds: Mapping[str, float]
    device: torch.device
    console: Console | None

    def job(self, config: RunConfig, out: Path) -> Job:
        """A run to be carried out."""
        return Job(config=config, out=out, data=self.where(config), device=self.device.type)


def _found(record: Study, arm: Arm) -> bool:
    """Whether the search, where there is one, has found an arm's settings."""
    return all(tuning.best(record.trials, arm.name, what) for what in record.config.tune)


def _tune(
    record: Study,
    planned: Sequence[Arm],
    holdout: int,
    means: Resources,
) -> Study:
    """The study with the settings that its search found, each searched at the best of the last.

    An arm that cannot be searched is given up, and why is said of its runs; it is searched anew
    when the study is gone on with.
    """
    study = record.config
    arms = [arm for arm in planned if not _found(record, arm)]
    problems: dict[str, str] = {}
    searched_now = {arm.name for arm in arms}
    record = dataclasses.replace(
        record, trials=tuple(t for t in record.trials if t.arm not in searched_now)
    )
    for what in study.tune:
        done: dict[str, list[Trial]] = {}
        for rung in range(len(tuning.SHARES)):
            asked = {
                arm.name: tuning.rung_of(what, rung, study, arm, done.get(arm.name, ()))
                for arm in arms
            }
            done, failed = _rung(record, arms, asked, holdout, means)
            problems |= failed
            arms = [arm for arm in arms if arm.name not in problems]
            trials = [*record.trials, *(trial for own in done.values() for trial in own)]
            record = dataclasses.replace(record, trials=_in_order(trials, planned, study))
            record.write()
        found = [tuning.best(record.trials, arm.name, what) for arm in arms]
        arms = [
            arm.with_settings({tuning.FIELDS[what]: trial.value})
            for arm, trial in zip(arms, found, strict=True)
            if trial is not None
        ]
        if means.console is not None:
            for trial in filter(None, found):
                edge = tuning.on_edge(trial, record.trials)
                means.console.print(
                    f"{trial.arm}: {tuning.FIELDS[what].replace('_', ' ')} {trial.value:.4g}"
                    + (", at the edge of what was tried" if edge else ""),
                    highlight=False,
                )
    return dataclasses.replace(
        record,
        arms=tuple(_with_found(record, arm) if _found(record, arm) else arm for arm in planned),
        results=tuple(
            record.failed(result, problems[result.arm]) if result.arm in problems else result
            for result in record.results
        ),
    )


def _with_found(record: Study, arm: Arm) -> Arm:
    """An arm with the settings that the search found."""
    found = [tuning.best(record.trials, arm.name, what) for what in record.config.tune]
    return arm.with_settings({tuning.FIELDS[t.what]: t.value for t in found if t is not None})


def _in_order(
    trials: Sequence[Trial], arms: Sequence[Arm], study: StudyConfig
) -> tuple[Trial, ...]:
    """The trials in an order that does not tell when they were made."""
    places = {arm.name: place for place, arm in enumerate(arms)}
    return tuple(
        sorted(trials, key=lambda t: (study.tune.index(t.what), t.rung, places[t.arm], t.value))
    )


def _rung(
    record: Study,
    arms: Sequence[Arm],
    asked: Mapping[str, Sequence[Trial]],
    holdout: int,
    means: Resources,
) -> tuple[dict[str, list[Trial]], dict[str, str]]:
    """The trials of a rung, with their accuracies; and which arms cannot be searched, and why."""
    by_work: dict[Job, Trial] = {}
    thought: dict[Job, float] = {}
    for arm in arms:
        for trial in asked[arm.name]:
            config = tuning.config_of(trial, arm, holdout)
            job = means.job(config, record.path / "tuning" / trial.name)
            by_work[job] = trial
            thought[job] = estimate.part(means.seconds[arm.name], trial.epochs, arm.recipe.epochs)
    problems: dict[str, str] = {}
    diverged: set[Job] = set()
    waiting = [job for job in by_work if not job.done]
    epochs = {job: by_work[job].epochs for job in waiting}
    with StudyDisplay(means.console, epochs, thought, images=holdout) as display:
        for look in means.execute(waiting):
            display.look(look)
            for job, outcome in look.ended.items():
                if outcome.diverged:
                    diverged.add(job)
                elif outcome.problem:
                    problems[by_work[job].arm] = (
                        f"its search failed, at {job.out.name}: {outcome.problem}"
                    )
    done: dict[str, list[Trial]] = {name: [] for name in asked}
    for job, trial in by_work.items():
        if trial.arm in problems:
            continue
        accuracy = None
        if job not in diverged:
            result, _ = _seen(record, Result(arm=trial.arm, seed=0), job)
            if result.problem:
                problems[trial.arm] = f"its search failed: {result.problem}"
                continue
            accuracy = result.accuracies[-1]
        done[trial.arm].append(dataclasses.replace(trial, accuracy=accuracy))
    done |= {name: [] for name in problems}  # a part of a rung could be taken for the whole
    for name, own in done.items():
        if own and all(trial.accuracy is None for trial in own):
            problems[name] = (
                f"its loss was not finite with any {tuning.FIELDS[own[0].what].replace('_', ' ')} "
                "that was tried: leave it out, or choose another recipe"
            )
    return done, problems


def _run(record: Study, means: Resources) -> Study:
    """The study with all its runs carried out, but for arms whose search found nothing."""
    by_work: dict[Job, Result] = {}
    for seed in range(record.config.seeds):  # the first seed of every arm, then the second, …
        for result in record.results:
            arm = record.arm(result.arm)
            if result.seed == seed and _found(record, arm):
                by_work[means.job(arm.run_config(seed), record.folder(result))] = result
    for job, result in by_work.items():
        if job.done:
            record = record.with_result(*_seen(record, result, job))
    record.write()
    waiting = [job for job in by_work if not job.done]
    epochs = {job: record.arm(by_work[job].arm).recipe.epochs for job in waiting}
    thought = {job: means.seconds[by_work[job].arm] for job in waiting}
    try:
        with StudyDisplay(means.console, epochs, thought, images=record.images) as display:
            for look in means.execute(waiting):
                for job, outcome in look.ended.items():
                    result = by_work[job]
                    if outcome.problem:
                        record = record.with_result(record.failed(result, outcome.problem))
                    else:
                        record = record.with_result(*_seen(record, result, job))
                    record.write()
                display.look(look)
    finally:
        for job, result in by_work.items():
            if (job.out / "checkpoint.pt").exists():
                known = next(
                    r for r in record.results if (r.arm, r.seed) == (result.arm, result.seed)
                )
                if known.state == "waiting":
                    record = record.with_result(dataclasses.replace(result, state="stopped"))
        record.write()
    return record


def _seen(record: Study, result: Result, job: Job) -> tuple[Result, Costs | None]:
    """A run that ended, from its folder: failed where that is damaged, or another run's."""
    try:
        return measured(result, job.out, job.config)
    except RunError as error:
        return record.failed(result, str(error)), None
