"""The training loop, and what makes a run stop well and go on as if nothing had happened."""

import dataclasses
import math
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import NoReturn

import torch
from rich.console import Console

from normlab import notation, recipes
from normlab.config import Execution, RunConfig
from normlab.data import Dataset, apply_splits, load_for
from normlab.data.describe import channel_statistics
from normlab.errors import DivergedError, InterruptedRunError, RunError, UsageError
from normlab.inference.evaluate import evaluate
from normlab.layers import kernels
from normlab.network import zoo
from normlab.network.checks import check_trainable, small_batch_warnings
from normlab.network.model import Network
from normlab.network.shapes import norms_of
from normlab.runs import machine
from normlab.runs.checkpoint import Checkpoint, load_latest, refuse_another, restore, save_weights
from normlab.runs.checkpoint import remove as remove_checkpoint
from normlab.runs.run import DataCard, Epoch, Run, append_metrics, own_normalizations
from normlab.seeding import seed_for
from normlab.storage.checksums import PARSE_ERRORS
from normlab.storage.files import exists, locked, remove_leftovers
from normlab.training.distributed import process_group
from normlab.training.progress import TrainingDisplay
from normlab.training.step import Batches, TrainStep


def train(
    config: RunConfig,
    out: Path | str,
    execution: Execution | None = None,
    *,
    dataset: Dataset | None = None,
    quiet: bool = False,
) -> Run:
    """Trains a network from its first weights and writes the run's folder.

    Args:
        config: What to train, on what, how.
        out: The run's folder; it must not hold a run yet.
        execution: Where the data lies, and the device.
        dataset: What the configuration names, divided, where it is at hand; else it is loaded.
            Without test images nothing is evaluated: the epochs tell of the training alone.
        quiet: Show nothing.

    Raises:
        UsageError: The settings make no sense.
        DataError: The data is not there.
        RunError: The folder holds a run.
        DivergedError: The loss was not finite.
        InterruptedRunError: Ctrl-C; the run can be resumed.
    """
    out = Path(out)
    execution = execution or Execution()
    if process_group().is_main:
        _refuse_existing_run(out)
    config = dataclasses.replace(config, recipe=recipes.name_of(config))
    recipe = recipes.resolve(config)
    line = zoo.find(config.network)
    notation.parse(line)  # a misspelt layout should not wait for a download
    device = machine.prepare(execution)
    if dataset is None:
        loaded = load_for(config, execution.data_root)
        dataset = apply_splits(loaded, config)
    network = Network(
        line,
        norm=config.norm,
        classes=len(dataset.classes),
        budget=config.budget,
        dropout=recipe.dropout,
        seed=config.seed,
    )
    check_trainable(
        notation.parse(network.layout),
        norm=config.norm,
        classes=len(dataset.classes),
        batches=_batches(len(dataset.train), recipe.batch_size),
    )
    mean, std = channel_statistics(dataset.train.images)
    std[std == 0] = 1.0  # a channel without contrast stays as it is
    network.input_mean.copy_(torch.from_numpy(mean))
    network.input_std.copy_(torch.from_numpy(std))
    run = Run(
        path=out,
        config=config,
        recipe=recipe,
        layout=network.layout,
        data=DataCard(
            fingerprint=dataset.fingerprint,
            classes=dataset.classes,
            train=len(dataset.train),
            holdout=config.holdout,
            test=len(dataset.test),
            mean=tuple(mean.tolist()),
            std=tuple(std.tolist()),
            notes=dataset.notes,
        ),
        machines=(),
    )
    descent = TrainStep(network, recipe, config.precision)
    checkpoint = Checkpoint(
        run=run.digest, model=network.state_dict(), optimizer=descent.state_dict()
    )
    with _alone(out):
        if process_group().is_main:
            _refuse_existing_run(out)  # another may have begun meanwhile
            checkpoint.save(out / "checkpoint.pt")
        return _fit(run, network, checkpoint, dataset, device, execution, quiet=quiet)


def resume(
    path: Path | str,
    execution: Execution | None = None,
    *,
    dataset: Dataset | None = None,
    quiet: bool = False,
) -> Run:
    """Goes on with a run that was stopped, to the same end as if it had not been.

    On the same machine, with as many threads, the weights end up equal bit for bit.

    Args:
        path: The run's folder.
        execution: Where the data lies, and the device.
        dataset: As `train` takes it.
        quiet: Show nothing.

    Raises:
        RunError: There is nothing to resume, or the checkpoints or the data are not the run's.
        DataError, DivergedError, InterruptedRunError: As `train` does.
    """
    execution = execution or Execution()
    with _alone(Run.open(path).path):
        run = Run.open(path)  # as it is now that no other process works on it
        if run.finished:
            remove_checkpoint(run.path / "checkpoint.pt")  # a kill may have left it
            raise RunError(f"{run.path} is finished: there is nothing to resume")
        checkpoint, said = load_latest(run.path / "checkpoint.pt", run.digest)
        if said and process_group().is_main:
            Console(stderr=True).print(f"note: {said}", soft_wrap=True, highlight=False)
        if len(run.epochs) < checkpoint.epoch:
            raise RunError(
                f"{run.path / 'metrics.jsonl'} is damaged: it holds {len(run.epochs)} epochs, "
                f"the checkpoint was written after {checkpoint.epoch}"
            )
        device = machine.prepare(execution)
        dataset = run.dataset(execution.data_root) if dataset is None else dataset
        network = Network(
            run.layout,
            norm=run.config.norm,
            classes=len(run.data.classes),
            dropout=run.recipe.dropout,
        )
        refuse_another(run.path / "checkpoint.pt", checkpoint.model, network)
        if said and process_group().is_main:
            restore(run.path / "checkpoint.pt")
        # A line that was written after the checkpoint is of an epoch that will be done again.
        run = dataclasses.replace(run, epochs=run.epochs[: checkpoint.epoch])
        return _fit(run, network, checkpoint, dataset, device, execution, quiet=quiet)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a run's folder and clears what a kill left: of several processes the leading one."""
    if not process_group().is_main:
        yield
        return
    with locked(folder):
        for name in ("checkpoint.pt", "config.json", "metrics.jsonl", "model.safetensors"):
            remove_leftovers(folder / name)
        yield


def _fit(
    run: Run,
    network: Network,
    checkpoint: Checkpoint,
    dataset: Dataset,
    device: torch.device,
    execution: Execution,
    *,
    quiet: bool,
) -> Run:
    """From a checkpoint, which may be the first, to the end."""
    recipe = run.recipe
    network.load_state_dict(checkpoint.model)
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    descent = TrainStep(network, recipe, run.config.precision)
    try:
        descent.load_state_dict(checkpoint.optimizer)
    except PARSE_ERRORS as error:
        raise RunError(
            f"{run.path / 'checkpoint.pt'} is another recipe's: {error}. "
            "Put the run's own in its place, or train anew into another --out"
        ) from None
    batches = Batches(dataset, recipe, run.config.seed, device)
    run = _record_machine(run, device, checkpoint.epoch + 1)
    leads = process_group().is_main  # of several processes one evaluates, writes and speaks
    if leads:
        run.write_config()
        run.write_metrics()

    console = None if quiet or not leads else Console()
    if console is not None:
        _announce(run, console)
    display = TrainingDisplay(
        console,
        epochs=recipe.epochs,
        steps=batches.steps,
        done=checkpoint.epoch * batches.steps + checkpoint.step,
    )
    with (
        display,
        _stop_requests() as stop,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        while checkpoint.epoch < recipe.epochs:
            epoch = checkpoint.epoch
            start = perf_counter() - checkpoint.seconds
            while checkpoint.step < batches.steps:
                step = checkpoint.step
                rate = recipe.learning_rate_at(epoch * batches.steps + step, batches.steps)
                if _any_set(stop, device):
                    checkpoint.seconds = perf_counter() - start
                    _stop(run, descent, checkpoint, rate, execution)
                inputs, labels = batches(epoch, step)
                others = (process_group().rank,) if process_group().rank else ()
                torch.manual_seed(seed_for(run.config.seed, "dropout", epoch, step, *others))
                loss, correct = descent.step(rate, inputs, labels)
                if not math.isfinite(loss):
                    raise _divergence(run, loss, epoch, step + 1, rate)
                checkpoint.step += 1
                checkpoint.loss_sum += loss * len(labels)
                checkpoint.correct += correct
                display.step(epoch, checkpoint.step, loss, len(labels))

            if not leads:
                checkpoint = Checkpoint(run=checkpoint.run, model={}, optimizer=[], epoch=epoch + 1)
                continue
            train_loss = checkpoint.loss_sum / len(batches.labels)
            train_accuracy = checkpoint.correct / len(batches.labels)
            loss, accuracy = train_loss, train_accuracy
            if run.split != "train":
                evaluation = evaluate(network, dataset, run.split)
                loss, accuracy = evaluation.loss, evaluation.accuracy
            # Weights that the last step broke must not become the checkpoint.
            _refuse_divergence(run, network, epoch, checkpoint.step, rate)
            if not math.isfinite(loss):
                raise _divergence(run, loss, epoch, checkpoint.step, rate)
            measured = Epoch(
                epoch=epoch + 1,
                train_loss=train_loss,
                train_accuracy=train_accuracy,
                split=run.split,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                seconds=perf_counter() - start,
            )
            run = dataclasses.replace(run, epochs=(*run.epochs, measured))
            # In this order: a line without its checkpoint is done again, the other way it is lost.
            append_metrics(run.path / "metrics.jsonl", measured)
            checkpoint = Checkpoint(
                run=checkpoint.run,
                model=network.state_dict(),
                optimizer=descent.state_dict(),
                epoch=epoch + 1,
            )
            checkpoint.save(run.path / "checkpoint.pt")
            display.epoch(measured)

        if leads:
            save_weights(run.path / "model.safetensors", network)
            remove_checkpoint(run.path / "checkpoint.pt")
        if _any_set(stop, device):
            raise InterruptedRunError(
                f"stopped after the last epoch: {run.path} is finished. "
                f"For its page: {shlex.join(['normlab', 'report', str(run.path)])}"
            )
    return run


def _batches(images: int, batch_size: int) -> tuple[int, int]:
    """An epoch's first batch and its last, of each the smallest part that a process gets.

    Raises:
        UsageError: A process would get nothing.
    """
    first, last = min(images, batch_size), images % batch_size or min(images, batch_size)
    processes = process_group().size
    if last < processes:
        raise UsageError(
            f"an epoch's last batch has {last} images, too few for {processes} processes: "
            "choose another --batch-size"
        )
    return first // processes, last // processes


def _any_set(stop: threading.Event, device: torch.device) -> bool:
    """Whether a process was asked to stop: all must stop after the same step."""
    if process_group().size == 1:
        return stop.is_set()
    return bool(process_group().sum(torch.tensor(float(stop.is_set()), device=device)))


def _refuse_existing_run(out: Path) -> None:
    if exists(out / "model.safetensors"):
        raise RunError(f"{out} holds a finished run: choose another --out, or delete it")
    if exists(out / "config.json"):
        raise RunError(f"{out} holds a run that can go on: normlab train --resume {out}")


def _record_machine(run: Run, device: torch.device, epoch: int) -> Run:
    """The run with this machine in its record, unless it was the last one already."""
    here = machine.describe(device, from_epoch=epoch)
    if run.machines:
        last = dataclasses.replace(run.machines[-1], from_epoch=epoch)
        if here == last:
            return run
    return dataclasses.replace(run, machines=(*run.machines, here))


def _announce(run: Run, console: Console) -> None:
    """Says what is about to be trained, on what, where."""
    here, data = run.machines[-1], run.data
    evaluated = f"{data.holdout:,} held-out" if data.holdout else f"{data.test:,} test"
    lines = (
        f"{run.layout}",
        f"{run.summary.parameters:,} parameters with {run.config.norm}, "
        f"{run.summary.macs:,} multiply-accumulates an image",
        f"{run.config.dataset}: {data.train:,} training and {evaluated} images, "
        f"fingerprint {data.fingerprint[:12]}",
        *(f"note: {note}" for note in data.notes),
        *(
            f"warning: {warning}"
            for warning in small_batch_warnings(
                (
                    (name, run.recipe.batch_size)
                    for name in norms_of(notation.parse(run.layout), run.config.norm)
                ),
                process_group().size,
            )
        ),
        *(
            ["note: this recipe turns or mirrors digits; --recipe demo does not"]
            if run.config.dataset == "digits"
            and ("vertical-flip" in run.recipe.augment or run.recipe.mirror)
            else []
        ),
        *(
            [f"note: no compiled passes ({kernels.load()[1]}): PyTorch's layers, slower, instead"]
            if here.device == "cpu" and here.kernels == "torch"
            else []
        ),
        f"recipe {run.config.recipe}, {run.config.precision}, seed {run.config.seed}, "
        f"on {here.device}, "
        f"{here.threads} thread{'s' * (here.threads > 1)}, into {run.path}",
    )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _stop(
    run: Run, descent: TrainStep, checkpoint: Checkpoint, rate: float, execution: Execution
) -> NoReturn:
    """Saves what a step asked to be the last has left, and says how to go on."""
    network, epoch, step = descent.network, checkpoint.epoch, checkpoint.step
    _refuse_divergence(run, network, epoch, step, rate)
    checkpoint.model = network.state_dict()
    checkpoint.optimizer = descent.state_dict()
    if process_group().is_main:
        checkpoint.save(run.path / "checkpoint.pt")
    raise InterruptedRunError(
        f"stopped in epoch {epoch + 1} after step {step}. "
        f"To go on: {_resume_command(run, execution)}"
    )


def _refuse_divergence(run: Run, network: Network, epoch: int, step: int, rate: float) -> None:
    """DivergedError where a weight or a running statistic is not finite."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise _divergence(run, math.nan, epoch, step, rate)


def _divergence(run: Run, loss: float, epoch: int, step: int, rate: float) -> DivergedError:
    return DivergedError(
        f"the loss became {loss} in epoch {epoch + 1}, step {step}, at learning rate {rate:.4g}; "
        f"the last checkpoint in {run.path} is kept. Train with a lower --learning-rate, "
        "into another --out"
    )


def _resume_command(run: Run, execution: Execution) -> str:
    """What goes on with a run, where and how it was computed until now."""
    own = own_normalizations(run.config.norm, run.layout)
    modules = " ".join(sorted({name.partition(":")[0] for name in own}))
    vouched = f"NORMLAB_NORMS={shlex.quote(modules)} " if own else ""
    command = ["normlab", "train", "--resume", str(run.path)]
    if execution.data_root is not None:
        command += ["--data-root", str(execution.data_root)]
    if execution.device != "auto":
        command += ["--device", execution.device]
    if execution.threads is not None:
        command += ["--threads", str(execution.threads)]
    return vouched + shlex.join(command)


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second interrupts at once."""
    stop = threading.Event()

    def request(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may handle signals
        return
    previous = {
        number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
