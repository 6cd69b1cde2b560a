"""A study from its configuration to its record: planned, searched, run."""

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path

import torch
from rich.console import Console

from normlab.config import Execution, RunConfig, StudyConfig
from normlab.data import Dataset, apply_splits, load_for, refuse_unknown, with_own_holdout
from normlab.errors import InterruptedRunError, RunError, UsageError
from normlab.network.custom import in_colour_if_untold
from normlab.runs import machine
from normlab.runs.isolation import isolated
from normlab.runs.run import Run
from normlab.storage.files import leftovers, locked, remove_leftovers
from normlab.storage.records import check_settings
from normlab.study import estimate, starting, teaching, tuning
from normlab.study.announcement import announce
from normlab.study.contrasts import family
from normlab.study.job import PATIENCE, Job, differences
from normlab.study.local import Outcome
from normlab.study.plan import Arm, held_out, plan, settings, with_recorded_widths
from normlab.study.record import Result, Study, collect
from normlab.study.resources import Resources, executor, shared_data
from normlab.study.search import search
from normlab.training.setup import refuse_misspelt
from normlab.training.teachers import TABLE

DATA = ".normlab-data"  # a study's folder for its runs' data, deleted at the end


@isolated()
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
    """Runs every normalization with every seed; resumes a study that was stopped.

    Finished runs are kept, stopped runs are resumed, failed runs are tried again. A run that fails
    says why and does not stop the others. More seeds than the study had are added, and recorded.

    Args:
        study: What is compared.
        out: The study's folder.
        execution: Where the data lies, and the device. Each run uses one thread.
        workers: Number of runs at a time. None: one per core, as far as the memory suffices, or
            one on a GPU.
        ray: Execute the runs on Ray: `local` starts a cluster on this machine, else the address of
            a cluster, whose nodes must all see `out`.
        dry_run: Print what would be run and the estimated time, and stop there.
        quiet: Print nothing.

    Raises:
        UsageError: The settings make no sense.
        DataError: The data is missing.
        RunError: The folder holds another study, or another process works on it.
        InterruptedRunError: Ctrl-C; the same call resumes the study.
    """
    check_settings(study)
    out = Path(out).resolve()
    execution = execution or Execution()
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, not {workers}")
    device = machine.prepare(dataclasses.replace(execution, threads=1))
    if workers is not None and ray is not None and device.type != "cuda":
        raise UsageError("--workers is for this machine: Ray runs as many as it has cores")
    # What is misspelt is refused before a download.
    refuse_unknown(study.dataset)
    for network, norm in product((study.network, *study.layouts), study.norms):
        refuse_misspelt(
            RunConfig(network=network, norm=norm, dataset=study.dataset, recipe=study.recipe)
        )
    wanted = in_colour_if_untold(_with_known_channels(study, out), (study.network, *study.layouts))
    dataset = load_for(wanted, execution.data_root)
    study = with_own_holdout(study, dataset)
    teacher, start = teaching.find(study, dataset), starting.find(study, out, dataset)
    images = dataset.to_train_or_choose
    planned = plan(study, classes=len(dataset.classes), images=images, shape=dataset.shape)
    family(study, planned)  # refuses a contrast of other arms
    record, arms = _record(out, study, planned, dataset, start)
    fits = starting.fits(start, arms, dataset) if start is not None else {}
    record.refuse_unreadable()
    estimated_seconds = _estimate_seconds(arms, dataset, device)
    workers = estimate.workers_for(workers, device)
    console = None if quiet else Console()
    if console is not None:
        announce(
            record,
            arms,
            classes=len(dataset.classes),
            estimated_seconds=estimated_seconds,
            starts=fits,
            workers=workers,
            ray=ray,
            console=console,
        )
    if dry_run:
        return record
    with ExitStack() as stack:
        lock = stack.enter_context(locked(out, PATIENCE))
        remove_leftovers(out / "study.json")
        remove_leftovers(out / "study.csv")
        # Read again: a process that held the lock may have ended runs.
        record, arms = _record(out, study, planned, dataset, start)
        if teacher is not None:
            record, dataset = teaching.teach(record, teacher, arms, dataset, device)
        data_folder = stack.enter_context(shared_data(out / DATA, dataset))
        execute = stack.enter_context(executor(ray, workers, lock, device))
        if not (out / "study.json").exists():
            record.write()
        kept = starting.keep(record, start) if start is not None else None
        resources = Resources(data_folder, execute, estimated_seconds, device, console, kept)
        try:
            record = search(record, arms, held_out(study, dataset.to_train_or_choose), resources)
            return _run_all(record, resources)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"stopped; finished work is kept in {out}. To resume, repeat the command"
            ) from None


def _with_known_channels(study: StudyConfig, out: Path) -> StudyConfig:
    """The configuration with the channels that the study in a folder was begun with.

    Studies of earlier versions had three, whatever the images.
    """
    if study.channels != "auto" or not (out / "study.json").exists():
        return study
    return dataclasses.replace(study, channels=Study.open(out).arms[0].config.channels)


def _record(
    out: Path, study: StudyConfig, arms: Sequence[Arm], dataset: Dataset, start: Run | None
) -> tuple[Study, Sequence[Arm]]:
    """The study as the folder holds it, or a new one; and its planned arms, with its widths.

    Raises:
        RunError: The folder holds another study, or its runs started from other weights.
    """
    record = _open_previous(out, study, arms, dataset)
    if record is None:
        record = _new_record(out, study, arms, dataset)
    else:
        arms = with_recorded_widths(arms, record.arms)
    return (record if start is None else starting.recorded(record, start)), arms


def _open_previous(
    out: Path, study: StudyConfig, arms: Sequence[Arm], dataset: Dataset
) -> Study | None:
    """The study as the folder holds it already, with seeds that are added now, or None.

    Raises:
        RunError: The folder holds another study; with the differences.
    """
    if not (out / "study.json").exists():
        own = {*leftovers(out / "study.json"), *leftovers(out / TABLE), out / TABLE}
        if out.exists() and set(out.iterdir()) - own:
            raise RunError(f"{out} holds something other than a study: choose another --out")
        return None
    previous = Study.open(out)
    if study.seeds > previous.config.seeds:
        previous = previous.with_seeds(study.seeds)
    if changes := _changes(previous, study, arms, dataset):
        raise RunError(
            f"{out} holds another study: {'; '.join(changes)}. Choose another --out, or delete it"
        )
    return previous


def _changes(
    previous: Study, study: StudyConfig, arms: Sequence[Arm], dataset: Dataset
) -> list[str]:
    """How a recorded study differs from the one that is asked for."""
    changes = differences(previous.config, study)
    if not changes:  # but recipes may have changed since; each run refuses a changed layout
        for old, arm in zip(previous.arms, with_recorded_widths(arms, previous.arms), strict=True):
            found = {field: getattr(old.config, field) for field in tuning.fields(study)}
            now = arm.with_settings(found)
            changed = differences(old.recipe, now.recipe) or differences(old.config, now.config)
            changes += [f"{arm.name}'s {text}" for text in changed]
    if any(
        trial.epochs != tuning.rung_epochs(previous.arm(trial.arm).recipe.epochs, trial.rung)
        for trial in previous.trials
    ):
        changes.append("its search had runs of other lengths")
    if previous.fingerprint != dataset.fingerprint:
        changes.append(
            f"the data's fingerprint was {previous.fingerprint[:12]}, is {dataset.fingerprint[:12]}"
        )
    return changes


def _new_record(out: Path, study: StudyConfig, arms: Sequence[Arm], dataset: Dataset) -> Study:
    return Study(
        path=out,
        config=study,
        arms=tuple(arms),
        images=study.holdout or len(dataset.test),
        fingerprint=dataset.fingerprint,
        results=tuple(
            Result(arm=arm.name, seed=seed) for arm in arms for seed in range(study.seeds)
        ),
    )


def _estimate_seconds(
    arms: Sequence[Arm], dataset: Dataset, device: torch.device
) -> dict[str, float]:
    """The estimated time of a whole run, by the arm's name."""
    seconds = {}
    for compared in settings(arms).values():
        config = dataclasses.replace(compared[0].config, label_noise=0.0)  # it takes no time
        split = apply_splits(dataset, config)
        for arm in compared:
            seconds[arm.name] = estimate.seconds_of(arm, split, device)
    return seconds


def _run_all(record: Study, resources: Resources) -> Study:
    """The study with all its runs executed, except for arms whose search failed."""
    jobs = _jobs(record, resources)
    for job, result in jobs.items():
        if job.done:
            record = record.with_result(*collect(record, result, job.out, job.config))
    record.write()
    waiting = [job for job in jobs if not job.done]
    epochs = {job: record.arm(jobs[job].arm).recipe.epochs for job in waiting}
    seconds = {job: resources.estimated_seconds[jobs[job].arm] for job in waiting}
    try:
        with closing(resources.run(epochs, seconds, images=record.images)) as ended:
            for job, outcome in ended:
                record = _with_outcome(record, jobs[job], job, outcome)
                record.write()
    finally:
        record = _with_stopped_runs(record)
        record.write()
    return record


def _jobs(record: Study, resources: Resources) -> dict[Job, Result]:
    """The jobs of all runs: the first seed of every arm, then the second, and so on."""
    jobs = {}
    for result in sorted(record.results, key=lambda result: result.seed):
        arm = record.arm(result.arm)
        if tuning.is_searched(record.trials, arm.name, record.config):
            jobs[resources.job(arm.run_config(result.seed), record.folder(result))] = result
    return jobs


def _with_outcome(record: Study, result: Result, job: Job, outcome: Outcome) -> Study:
    if outcome.problem:
        return record.with_result(record.failed(result, outcome.problem))
    return record.with_result(*collect(record, result, job.out, job.config))


def _with_stopped_runs(record: Study) -> Study:
    """The study after Ctrl-C: a run that has a checkpoint can be resumed."""
    for result in record.results:
        if result.state == "waiting" and (record.folder(result) / "checkpoint.pt").exists():
            record = record.with_result(dataclasses.replace(result, state="stopped"))
    return record
