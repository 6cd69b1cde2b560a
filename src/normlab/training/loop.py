"""The training loop: `train` starts a run, `resume` continues a stopped one to the same end."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from normlab import notation, recipes
from normlab.config import Execution, RunConfig
from normlab.data import Dataset, apply_splits, load_for, refuse_unknown, with_own_holdout
from normlab.data.shape import shaped_as
from normlab.errors import RunError, UsageError
from normlab.network import custom, zoo
from normlab.network.model import Network
from normlab.notes import note_once
from normlab.runs import machine
from normlab.runs.checkpoint import (
    Checkpoint,
    largest_size,
    load_latest,
    refuse_another,
    refuse_smaller,
    remove,
    restore_previous,
)
from normlab.runs.isolation import isolated, repeatable
from normlab.runs.run import Run
from normlab.runs.trust import custom_networks
from normlab.seeding import seed_for, seed_layers
from normlab.storage.records import check_settings
from normlab.training import starts, teachers
from normlab.training.batches import Batches
from normlab.training.branches import add_branches
from normlab.training.callbacks import Callback, Checkpointing, Evaluation
from normlab.training.distributed import process_group
from normlab.training.progress import ProgressDisplay, announce, announce_time
from normlab.training.seen_images import refuse_seen_images
from normlab.training.setup import (
    data_card,
    first_checkpoint,
    locked_run,
    new_network,
    refuse_existing_run,
    refuse_misspelt,
    refuse_untrainable,
    restore_state,
)
from normlab.training.state import TrainingState
from normlab.training.stopping import StopRequests
from normlab.training.time_left import TimeLeft


@isolated()
def train(
    config: RunConfig,
    out: Path | str,
    execution: Execution | None = None,
    *,
    dataset: Dataset | None = None,
    start: Run | None = None,
    callbacks: Sequence[Callback] = (),
    dry_run: bool = False,
    quiet: bool = False,
) -> Run:
    """Trains a network from its first weights and writes the run's folder.

    The calling program's settings of torch (autocast, default dtype and device, gradient modes and
    others) change nothing, also in callbacks, and are restored at the end.

    Args:
        config: What to train, on what data, how.
        out: The run's folder; it must not hold a run yet.
        execution: Where the data lies, and the device.
        dataset: The data set that the configuration names, its splits applied; None loads it. The
            run records its size and channels. Without test images nothing is evaluated: the epochs
            record the training alone.
        start: The run that the configuration starts from; None opens it.
        callbacks: Hooks called after each step, after each epoch and at the end.
        dry_run: Train a few steps, print the estimated time, and stop there. Nothing is written,
            and the run that is returned has no epochs.
        quiet: Print nothing.

    Raises:
        UsageError: The settings make no sense.
        DataError: The data is missing.
        RunError: The folder holds a run already.
        DivergedError: The loss was not finite.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    out = Path(out)
    execution = execution or Execution()
    check_settings(config)
    config = dataclasses.replace(
        config,
        recipe=recipes.name_of(config),
        activation=zoo.activation_of(config.network, config.activation),
    )
    # What is misspelt is refused here: before a run that is there already, and before a download.
    refuse_misspelt(config)
    if dataset is None:
        refuse_unknown(config.dataset)
    config = custom.in_colour_if_untold(config, custom_networks(zoo.find(config.network)))
    teachers.check_settings(config)
    starts.check_settings(config)
    if start is not None and config.start_from is None:
        raise UsageError("a start is given, but the configuration has no start_from: set it")
    start = start or starts.find(config)
    teacher = None  # of a study's runs, the data set has the outputs already
    if config.teacher is not None and (dataset is None or dataset.teacher is None):
        teacher = teachers.find(config.teacher)
    device = machine.prepare(execution)
    if not dry_run:
        refuse_existing_run(out, execution)
    if dataset is None:
        dataset = load_for(config, execution.data_root)
        config = with_own_holdout(config, dataset)
        dataset = apply_splits(dataset, config)
    config = shaped_as(with_own_holdout(config, dataset), dataset)
    if start is not None:
        refuse_seen_images(start, config, dataset, held_out=config.holdout)
    config = recipes.with_own_epochs(config, len(dataset.train))
    recipe = recipes.resolve(config)
    data = data_card(dataset, holdout=config.holdout)
    network, started = new_network(config, recipe, data, start)
    if teacher is not None:
        dataset = teacher.teach(
            dataset,
            held_out=config.holdout,
            split_seed=config.split_seed,
            mirror=recipe.mirror,
            device=device,
        )
    run = Run(
        path=out,
        config=config,
        recipe=recipe,
        layout=network.layout,
        data=data,
        machines=(),
        parameters=network.counted_parameters,
        teacher=teachers.recorded(dataset) if config.teacher is not None else None,
        start=started,
    )
    run.refuse_unreadable()
    checkpoint = first_checkpoint(run, network)
    if dry_run:
        return _measure(run, network, checkpoint, dataset, device, quiet=quiet)
    with locked_run(out):
        refuse_existing_run(out, execution)  # another process may have started one meanwhile
        if process_group().is_main:
            checkpoint.save(out / "checkpoint.pt")  # first: it marks the folder as a run's
            if teacher is not None:
                teachers.write(out / teachers.TABLE, dataset)
        return _fit(run, network, checkpoint, dataset, device, execution, callbacks, quiet=quiet)


@isolated()
def resume(
    path: Path | str,
    execution: Execution | None = None,
    *,
    dataset: Dataset | None = None,
    callbacks: Sequence[Callback] = (),
    quiet: bool = False,
) -> Run:
    """Resumes a stopped run. It ends as if it had never stopped.

    On the same machine, with as many threads, the weights end up equal bit for bit.

    Args:
        path: The run's folder.
        execution: Where the data lies, and the device.
        dataset: As in `train`.
        callbacks: As in `train`.
        quiet: Print nothing.

    Raises:
        UsageError: There are too many processes for the run's batches.
        RunError: There is nothing to resume, or the checkpoints or the data are not the run's.
        DataError, DivergedError, InterruptedRunError: As in `train`.
    """
    execution = execution or Execution()
    with locked_run(Run.open(path).path):
        run = Run.open(path)  # read again, now that no other process works on it
        if run.finished:
            remove(run.path / "checkpoint.pt")  # a kill may have left it
            (run.path / teachers.TABLE).unlink(missing_ok=True)
            raise RunError(f"{run.path} is finished: there is nothing to resume")
        file = run.path / "checkpoint.pt"
        refuse_smaller(file, run.summary)  # before memory is allocated for the network
        device = machine.prepare(execution)
        network = Network(run.layout, dropout=run.recipe.dropout, **run.network_settings)
        add_branches(network, run.config.branches, muon=run.recipe.muon, seed=run.config.seed)
        checkpoint, note = load_latest(file, run.digest, largest_size(network))
        if note and process_group().is_main:
            note_once(note)
        if len(run.epochs) < checkpoint.epoch:
            raise RunError(
                f"{run.path / 'metrics.jsonl'} is damaged: it holds {len(run.epochs)} epochs, "
                f"the checkpoint was written after {checkpoint.epoch}"
            )
        refuse_another(file, checkpoint.model, network)
        if checkpoint.epoch < run.planned_epochs:
            refuse_untrainable(notation.parse(run.layout), run.config, run.recipe, run.data)
        dataset = run.dataset(execution.data_root) if dataset is None else dataset
        if run.teacher is not None:
            dataset = teachers.read(
                run.path / teachers.TABLE, dataset, run.teacher, mirror=run.recipe.mirror
            )
        if note and process_group().is_main:
            restore_previous(file)
        # A line after the checkpoint belongs to an epoch that is trained again.
        run = dataclasses.replace(run, epochs=run.epochs[: checkpoint.epoch])
        return _fit(run, network, checkpoint, dataset, device, execution, callbacks, quiet=quiet)


def _measure(
    run: Run,
    network: Network,
    checkpoint: Checkpoint,
    dataset: Dataset,
    device: torch.device,
    *,
    quiet: bool,
) -> Run:
    """Trains a few steps, and prints what the run is and how long it will take."""
    batches = Batches(dataset, run.recipe, run.config.seed, device)
    state = restore_state(run, network, checkpoint, batches.steps, device)
    console = None if quiet or not process_group().is_main else Console()
    if console is not None:
        announce(state.run, batches.class_weights, console)
    time_left = TimeLeft()
    with repeatable(device):
        while (seconds := time_left.seconds(state)) is None:
            _train_on_next_batch(state, batches)
            time_left.step_ended()
            state.step = 0  # what is to be estimated is the time of all steps
    announce_time(seconds, state.epochs, console)
    return state.run


def _fit(
    run: Run,
    network: Network,
    checkpoint: Checkpoint,
    dataset: Dataset,
    device: torch.device,
    execution: Execution,
    callbacks: Sequence[Callback],
    *,
    quiet: bool,
) -> Run:
    """Trains a run from a checkpoint, which may be the first, to its end."""
    batches = Batches(dataset, run.recipe, run.config.seed, device)
    state = restore_state(run, network, checkpoint, batches.steps, device)
    is_main = process_group().is_main  # only the main process evaluates, writes and prints
    console = None if quiet or not is_main else Console()
    if is_main:
        state.run.write_config()
        state.run.write_metrics()
    if console is not None:
        announce(state.run, batches.class_weights, console)
    display = ProgressDisplay(console, state)
    stop_requests = StopRequests(execution, device)
    hooks = [Evaluation(dataset), Checkpointing(), display, *callbacks] if is_main else []
    with display, stop_requests.listening(), repeatable(device):
        _loop(state, batches, [*hooks, stop_requests])
    return state.run


def _loop(state: TrainingState, batches: Batches, hooks: Sequence[Callback]) -> None:
    """Trains epoch after epoch, and calls the hooks."""
    while state.epoch < state.epochs and not state.stopping:
        state.start_epoch()
        while state.step < state.steps:
            _train_on_next_batch(state, batches)
            for hook in hooks:
                hook.on_step_end(state)
        state.end_epoch(len(batches.labels))
        for hook in hooks:
            hook.on_epoch_end(state)
    for hook in hooks:
        hook.on_run_end(state)


def _train_on_next_batch(state: TrainingState, batches: Batches) -> None:
    """One training step. DivergedError, and the weights unchanged, if the loss is not finite."""
    epoch, step, config = state.epoch, state.step, state.run.config
    state.learning_rate = state.run.recipe.learning_rate_at(epoch * state.steps + step, state.steps)
    inputs, labels = batches(epoch, step)
    taught = batches.taught(epoch, step) if config.teacher else None
    weights = batches.weights(labels) if config.balance else None
    rank = process_group().rank
    drop_seed = seed_for(config.seed, "dropout", epoch, step, *([rank] if rank else []))
    seed_layers(inputs.device, drop_seed)
    loss, correct = state.train_step.step(state.learning_rate, inputs, labels, taught, weights)
    state.record_step(loss, correct, len(labels))
    if not math.isfinite(loss):
        raise state.diverged(f"the loss became {loss}")
