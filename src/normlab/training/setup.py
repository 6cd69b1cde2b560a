"""What a run needs before its first step: its folder, its network, its record, its state."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from normlab import notation, recipes
from normlab.config import Execution, RunConfig
from normlab.data import Dataset
from normlab.data.describe import channel_statistics
from normlab.errors import RunError, UsageError
from normlab.layers import norms
from normlab.network import zoo
from normlab.network.checks import check_trainable
from normlab.network.model import Network
from normlab.network.shapes import norms_of
from normlab.network.widths import solve
from normlab.recipes import Recipe
from normlab.runs import machine
from normlab.runs.checkpoint import STORED_TYPES, Checkpoint, is_checkpoint
from normlab.runs.metrics import LARGEST_LOSS
from normlab.runs.provenance import DataCard, Start
from normlab.runs.run import Run, resume_command
from normlab.storage.files import exists, locked, remove_leftovers
from normlab.storage.records import MalformedError
from normlab.training import starts
from normlab.training.branches import add_branches
from normlab.training.distributed import process_group
from normlab.training.first_weights import start_at_muons_norm
from normlab.training.logs import CSV, MLFLOW, TENSORBOARD
from normlab.training.state import TrainingState
from normlab.training.step import TrainStep
from normlab.training.teachers import TABLE

# What a run overwrites or deletes in its folder, beside its weights and its settings.
_OWN = (
    *("checkpoint.pt", "checkpoint-before.pt", "metrics.jsonl", TABLE),
    *(CSV, TENSORBOARD, MLFLOW, "report.html", "figures"),
)


def refuse_misspelt(config: RunConfig) -> None:
    """Raises UsageError for a recipe, network or normalization that does not exist."""
    recipes.resolve(config)
    for norm in norms_of(notation.parse(zoo.find(config.network)), config.norm):
        norms.find(norm)


def refuse_existing_run(out: Path, execution: Execution) -> None:
    """Raises RunError if a folder holds a run, or files of others that have a run's names.

    Only the main process checks it. The command that resumes the run says where to compute it.
    """
    if not process_group().is_main:
        return
    if exists(out / "model.safetensors"):
        raise RunError(
            f"{out} holds a finished run: normlab report {shlex.quote(str(out))} makes its page. "
            "To train another, choose another --out or --seed"
        )
    if exists(out / "config.json"):
        raise RunError(f"{out} holds a run that can be resumed: {resume_command(out, execution)}")
    if is_checkpoint(out / "checkpoint.pt"):  # a run's that was killed before it had settings
        return
    for name in _OWN:
        if os.path.lexists(out / name):
            raise RunError(
                f"{out / name} already exists, and {out} holds no run: choose another --out, or "
                f"move {name} away"
            )


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """Locks a run's folder and removes what a kill left there. Only the main process does."""
    if not process_group().is_main:
        yield
        return
    with locked(folder):
        for name in ("checkpoint.pt", "config.json", "metrics.jsonl", "model.safetensors", TABLE):
            remove_leftovers(folder / name)
        yield


def data_card(dataset: Dataset, *, holdout: int) -> DataCard:
    """What a run records of its data set, whose splits are applied."""
    mean, std = channel_statistics(dataset.train.images)
    std[std == 0] = 1.0  # a channel without contrast stays as it is
    return DataCard(
        fingerprint=dataset.fingerprint,
        classes=dataset.classes,
        train=len(dataset.train),
        holdout=holdout,
        test=len(dataset.test),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        notes=dataset.notes,
        in_order=dataset.in_order,
    )


def new_network(
    config: RunConfig, recipe: Recipe, data: DataCard, start: Run | None = None
) -> tuple[Network, Start | None]:
    """The network with the first weights that its recipe wants, on the CPU.

    Args:
        config: The run's settings.
        recipe: Its recipe.
        data: Its data.
        start: The trained network that it starts from, if any.

    Returns:
        The network, and the record of its start.

    Raises:
        UsageError: The layout and the normalization cannot be trained on batches of this size, or
            make a network that is too large; nothing of the start fits.
        RunError: The start is damaged.
    """
    activation = zoo.activation_of(config.network, config.activation)
    blocks = solve(
        notation.parse(zoo.find(config.network)),
        norm=config.norm,
        classes=len(data.classes),
        budget=config.budget,
        shape=config.shape,
        activation=activation,
        limits=config,
    )
    refuse_untrainable(blocks, config, recipe, data)  # before memory is allocated
    network = Network(
        notation.format(blocks),
        norm=config.norm,
        activation=activation,
        classes=len(data.classes),
        dropout=recipe.dropout,
        seed=config.seed,
        shape=config.shape,
    )
    started = None
    if start is not None:
        started = starts.copy_weights(network, start, f"--start-from {config.start_from}")
    start_at_muons_norm(network, recipe)
    add_branches(network, config.branches, muon=recipe.muon, seed=config.seed)
    network.input_mean.copy_(torch.tensor(data.mean, dtype=torch.float64))
    network.input_std.copy_(torch.tensor(data.std, dtype=torch.float64))
    return network, started


def refuse_untrainable(
    blocks: Sequence[notation.Block], config: RunConfig, recipe: Recipe, data: DataCard
) -> None:
    """Refuses what cannot be trained on as many processes, each with a shard of the batches.

    Raises:
        UsageError: As `new_network` raises it; or the run would recalibrate statistics that all
            processes measure together, while only the main process evaluates.
    """
    if (
        config.recalibrate
        and process_group().size > 1
        and "sync-bn" in norms_of(blocks, config.norm)
    ):
        raise UsageError("--recalibrate and sync-bn on several processes exclude each other")
    check_trainable(
        blocks,
        norm=config.norm,
        classes=len(data.classes),
        batches=_batch_sizes(data.train, recipe.batch_size),
        shape=config.shape,
        activation=zoo.activation_of(config.network, config.activation),
    )


def _batch_sizes(images: int, batch_size: int) -> tuple[int, int]:
    """The smallest shard that a process gets of an epoch's first batch and of its last one.

    Raises:
        UsageError: A process would get no image.
    """
    first, last = min(images, batch_size), images % batch_size or min(images, batch_size)
    processes = process_group().size
    if last < processes:
        raise UsageError(
            f"an epoch's last batch has {last} images, too few for {processes} processes: "
            "use fewer, or choose another --batch-size"
        )
    return first // processes, last // processes


def train_step_of(run: Run, network: Network) -> TrainStep:
    """The training step of a run's settings."""
    config = run.config
    return TrainStep(
        network,
        run.recipe,
        config.precision,
        teacher_weight=config.teacher_weight,
        temperature=config.teacher_temperature,
    )


def first_checkpoint(run: Run, network: Network) -> Checkpoint:
    """The checkpoint before the first step.

    Raises:
        UsageError: The network, a custom one, has a tensor that a run's files cannot hold.
    """
    for name, tensor in network.state_dict().items():
        if tensor.dtype not in STORED_TYPES.values():
            problem = f"numbers of type {tensor.dtype}"
        elif not tensor.isfinite().all():
            problem = "values that are not finite"
        else:
            continue
        raise UsageError(
            f"{run.config.network}: {name} has {problem}, which a run cannot store; a buffer that "
            "stays as it is made need not be: persistent=False"
        )
    train_step = train_step_of(run, network)
    return Checkpoint(run=run.digest, model=network.state_dict(), optimizer=train_step.state_dict())


def restore_state(
    run: Run, network: Network, checkpoint: Checkpoint, steps: int, device: torch.device
) -> TrainingState:
    """The training state that a checkpoint holds, on a device, which the run then records.

    Raises:
        RunError: The checkpoint is another recipe's, or has counts that it cannot have.
    """
    file = run.path / "checkpoint.pt"
    seen = min(checkpoint.step * run.recipe.batch_size, run.data.train)
    if (
        checkpoint.step > steps
        or checkpoint.correct > seen
        or checkpoint.loss_sum > seen * LARGEST_LOSS
    ):
        raise RunError(f"{file} is damaged: its counts are not those of a part of an epoch")
    network.load_state_dict(checkpoint.model)
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train_step = train_step_of(run, network)
    try:
        train_step.load_state_dict(checkpoint.optimizer)
    except MalformedError as error:
        raise RunError(
            f"{file} is another recipe's: {error}. "
            "Put the run's own checkpoint in its place, or train again into another --out"
        ) from None
    if checkpoint.epoch < run.planned_epochs or not run.machines:
        run = _record_machine(run, device, checkpoint.epoch + 1)
    return TrainingState.resume(run, train_step, steps, checkpoint)


def _record_machine(run: Run, device: torch.device, epoch: int) -> Run:
    """The run with this machine in its record, unless it was the last one already."""
    here = machine.describe(device, from_epoch=epoch, processes=process_group().size)
    if run.machines and here == dataclasses.replace(run.machines[-1], from_epoch=epoch):
        return run
    return dataclasses.replace(run, machines=(*run.machines, here))
