import dataclasses
import io
import json
import math
import os
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from harness import AtStep, ExitAt, InterruptAt
from normlab import RunConfig
from normlab.config import Execution
from normlab.data import Split, load
from normlab.data.augment import augment
from normlab.errors import (
    DataError,
    DivergedError,
    InterruptedRunError,
    NormlabError,
    RunError,
    UsageError,
)
from normlab.findings.run import analyze
from normlab.inference.evaluate import evaluate
from normlab.network.model import Network
from normlab.network.zoo import ZOO, Entry
from normlab.notation import LayoutError
from normlab.recipes import Recipe, resolve
from normlab.report.plots import curves
from normlab.runs import machine
from normlab.runs.checkpoint import Checkpoint
from normlab.runs.run import Run
from normlab.seeding import generator, seed_for
from normlab.training import callbacks, loop
from normlab.training.loop import resume, train
from normlab.training.progress import announce

SMALL = RunConfig(network="C:6 C:6+ P D:8 GAP FC", dataset="digits", recipe="seed", epochs=3)
STEPS = 23  # of an epoch: 1,437 images in batches of 64


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run without interruption, with every kind of random draw: also augmentation and dropout."""
    return train(SMALL, tmp_path_factory.mktemp("runs") / "whole", quiet=True)


@pytest.mark.slow(1)
@pytest.mark.parametrize("activation", ["relu", "hard-swish", "prelu"])
def test_a_run_keeps_its_activation_when_its_networks_default_changes(
    activation, tmp_path, monkeypatch
):
    """Also a run that does not state it, as none did before: it has ReLUs."""
    monkeypatch.setitem(ZOO, "tiny", Entry(SMALL.network, "", activation=activation))
    config = dataclasses.replace(SMALL, network="tiny", epochs=1)
    run = train(config, tmp_path / "run", quiet=True)
    assert run.config.activation == activation
    settings = json.loads((tmp_path / "run/config.json").read_text())["run"]
    assert settings.get("activation", "relu") == activation
    assert ("activation" in settings) == (activation != "relu")
    monkeypatch.setitem(ZOO, "tiny", Entry(SMALL.network, "", activation="gelu"))
    opened = Run.open(tmp_path / "run")
    assert opened.config == run.config
    assert opened.digest == run.digest
    assert opened.summary.activation == activation
    dataset = opened.dataset()
    assert evaluate(opened.network(), dataset, "test").accuracy == pytest.approx(run.last.accuracy)
    asked = dataclasses.replace(config, activation=activation)
    assert_equal_runs(train(asked, tmp_path / "again", quiet=True), run)


@pytest.mark.slow(3)
def test_a_run_with_an_activation_is_resumed_bit_for_bit(tmp_path):
    config = dataclasses.replace(SMALL, activation="prelu", epochs=1)
    one = train(config, tmp_path / "one", quiet=True)
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "other", callbacks=[InterruptAt((0, 5))], quiet=True)
    assert_equal_runs(one, resume(tmp_path / "other", quiet=True))


def pictures(folder):
    """Writes an image folder: two classes of ten pictures."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / "train" / name).mkdir(parents=True)
        for k in range(10):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"{k}.png")


def assert_equal_runs(one, other):
    weights, others = (load_file(run.path / "model.safetensors") for run in (one, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, others[name]), name
    timeless = [dataclasses.replace(e, seconds=0) for e in one.epochs]
    assert timeless == [dataclasses.replace(e, seconds=0) for e in other.epochs]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed in its third epoch: both checkpoints are there."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    hooks = [ExitAt(2, 3)]
    with pytest.raises(SystemExit):
        train(SMALL, out, callbacks=hooks, quiet=True)
    return out


def test_a_run_learns_and_writes_its_folder(trained):
    assert trained.last.accuracy > 0.6
    assert trained.last.train_loss < trained.epochs[0].train_loss
    assert sorted(p.name for p in trained.path.iterdir()) == [
        "config.json", "metrics.jsonl", "model.safetensors",
    ]  # fmt: skip
    lines = (trained.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    opened = Run.open(trained.path)
    assert opened == trained
    assert opened.finished
    digits = load("digits", channels="colour")
    assert opened.data.fingerprint == digits.fingerprint
    again = evaluate(opened.network(), digits)
    assert again.accuracy == trained.last.accuracy
    assert again.loss == pytest.approx(trained.last.loss)


@pytest.mark.slow(2)
def test_equal_seeds_give_equal_runs_and_another_seed_does_not(whole, tmp_path):
    assert_equal_runs(whole, train(SMALL, tmp_path / "twice", quiet=True))
    other = train(dataclasses.replace(SMALL, seed=1, epochs=1), tmp_path / "other", quiet=True)
    assert other.epochs[0].train_loss != whole.epochs[0].train_loss


@pytest.mark.slow(1)
def test_runs_on_two_threads_are_equal_and_close_to_a_run_on_one(tmp_path):
    """As docs/reliability.md promises. Few steps: two threads are slow on a busy machine."""
    config = dataclasses.replace(SMALL, epochs=2, train_images=256)
    before = torch.get_num_threads()
    try:
        one, two, again = (
            train(config, tmp_path / name, Execution(threads=threads), quiet=True)
            for name, threads in (("one", 1), ("two", 2), ("again", 2))
        )
    finally:
        torch.set_num_threads(before)
    assert [run.machines[0].threads for run in (one, two, again)] == [1, 2, 2]
    assert_equal_runs(two, again)
    for epoch, other in zip(one.epochs, two.epochs, strict=True):
        assert other.train_loss == pytest.approx(epoch.train_loss, rel=1e-5)
        assert other.loss == pytest.approx(epoch.loss, rel=1e-5)


@pytest.mark.slow(1)
def test_an_interrupted_run_ends_bit_equal(whole, tmp_path, monkeypatch):
    # In the middle of an epoch, again in the same epoch, and after an epoch's last step.
    hooks = [InterruptAt((0, 7), (0, 15), (1, STEPS))]
    out = tmp_path / "stopped"
    with pytest.raises(InterruptedRunError, match=r"epoch 1 after step 7\. .*--resume"):
        train(SMALL, out, callbacks=hooks, quiet=True)
    elsewhere = Execution(device="cpu", data_root=tmp_path / "no digits here")
    with pytest.raises(
        InterruptedRunError,
        match=r"epoch 1 after step 15.*--data-root '.*no digits here' --device cpu$",
    ):
        resume(out, elsewhere, callbacks=hooks, quiet=True)
    assert not Run.open(out).finished
    with pytest.raises(InterruptedRunError, match="epoch 3 after step 0"):
        resume(out, callbacks=hooks, quiet=True)
    assert len(Run.open(out).epochs) == 2
    run = resume(out, callbacks=hooks, quiet=True)
    assert_equal_runs(whole, run)
    assert len(run.machines) == 1
    assert not (out / "checkpoint.pt").exists()


@pytest.mark.slow(2)
def test_ctrl_c_in_the_last_step_lets_the_run_finish(whole, tmp_path, monkeypatch):
    out = tmp_path / "a run"
    hooks = [InterruptAt((2, STEPS))]
    with pytest.raises(
        InterruptedRunError,
        match=r"^stopped after the last epoch: .* is finished. .*: normlab report '.*/a run'$",
    ):
        train(SMALL, out, callbacks=hooks, quiet=True)
    assert_equal_runs(whole, Run.open(out))
    assert not list(out.glob("*.pt"))
    (out / "checkpoint-before.pt").write_bytes(b"as a kill leaves it")
    with pytest.raises(RunError, match="is finished: there is nothing to resume"):
        resume(out, callbacks=hooks, quiet=True)
    assert not list(out.glob("*.pt"))


@pytest.mark.slow(2)
def test_a_killed_run_resumes_from_its_last_epoch(whole, tmp_path, monkeypatch):
    out = tmp_path / "killed"
    hooks = [ExitAt(1, 3)]
    with pytest.raises(SystemExit):
        train(SMALL, out, callbacks=hooks, quiet=True)
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"schema": 1, "epoch": 2, "train_lo')  # cut off in the middle of the line
    assert_equal_runs(whole, resume(out, quiet=True))


@pytest.mark.slow(1)
def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(whole, stopped, tmp_path, capsys):
    out = tmp_path / "killed"
    shutil.copytree(stopped, out)
    checkpoint = out / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    assert_equal_runs(whole, resume(out, quiet=True))
    message = capsys.readouterr().err
    assert f"{checkpoint} is damaged" in message
    assert "resuming from checkpoint-before.pt" in message
    assert not list(out.glob("*.pt"))


@pytest.mark.slow(1)
def test_a_kill_after_a_damaged_checkpoint_leaves_a_good_one(whole, stopped, tmp_path, monkeypatch):
    """The kill comes during the first save, between its two renames."""

    def kill_between(path, target):
        renamed = rename(path, target)
        if target.name == "checkpoint-before.pt":
            raise SystemExit
        return renamed

    out, rename = tmp_path / "killed", Path.replace
    shutil.copytree(stopped, out)
    (out / "checkpoint.pt").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill_between)
        with pytest.raises(SystemExit):
            resume(out, quiet=True)
    assert_equal_runs(whole, resume(out, quiet=True))


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path, monkeypatch):
    """Only a forger makes such a file."""
    hooks = [InterruptAt((0, 2))]
    out = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(SMALL, out, callbacks=hooks, quiet=True)
    own = Checkpoint.load(out / "checkpoint.pt")
    other = Network("C:6 C:6+ P D:9 GAP FC").state_dict()
    for state, problem in (
        (
            {"model": other, "optimizer": own.optimizer},
            "is another network's: blocks.* is .*, expected ",
        ),
        ({"model": {}, "optimizer": own.optimizer}, "is another network's: it has no tensor "),
        ({"model": own.model, "optimizer": []}, "is another recipe's: "),
    ):
        Checkpoint(run=own.run, **state).save(out / "checkpoint.pt")
        with pytest.raises(RunError, match=rf"checkpoint\.pt {problem}[^\n]*$"):
            resume(out, callbacks=hooks, quiet=True)


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"learning_rate": 0.02},
        {"label_noise": 0.1},
        {"train_images": 1000, "batch_size": 44},  # as many steps
        {"precision": "bfloat16"},
    ],
    ids=lambda other: " ".join(other),
)
def test_another_runs_checkpoint_is_not_resumed(
    other, whole, stopped, tmp_path, monkeypatch, capsys
):
    """The network is the same, so every tensor would fit."""
    hooks = [InterruptAt((0, 2))]
    with pytest.raises(InterruptedRunError):
        train(dataclasses.replace(SMALL, **other), tmp_path / "other", callbacks=hooks, quiet=True)
    foreign = tmp_path / "other" / "checkpoint.pt"
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    shutil.copy(foreign, out / "checkpoint-before.pt")
    shutil.copy(foreign, out / "checkpoint.pt")
    line = r"checkpoint\.pt is another run's: [^\n]*; and .*-before\.pt is another run's: [^\n]*$"
    with pytest.raises(RunError, match=line):
        resume(out, callbacks=hooks, quiet=True)
    (out / "checkpoint-before.pt").write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"is another run's: [^\n]*-before\.pt is damaged[^\n]*$"):
        resume(out, callbacks=hooks, quiet=True)
    (out / "checkpoint-before.pt").unlink()
    with pytest.raises(RunError, match=r"checkpoint\.pt is another run's: [^\n]*$"):
        resume(out, callbacks=hooks, quiet=True)
    shutil.copy(stopped / "checkpoint-before.pt", out)
    capsys.readouterr()
    assert_equal_runs(whole, resume(out, quiet=True))
    message = capsys.readouterr().err
    assert re.search(
        r"checkpoint\.pt is another run's: .*; resuming from checkpoint-before", message
    )
    assert not list(out.glob("*.pt"))


def test_a_copy_of_a_run_can_be_resumed(whole, stopped, tmp_path):
    shutil.copytree(stopped, tmp_path / "copy")
    assert_equal_runs(whole, resume(tmp_path / "copy", Execution(threads=1), quiet=True))


def test_a_second_training_in_the_same_folder_is_refused(tmp_path, monkeypatch):
    def resume_too(state):
        with ThreadPoolExecutor(1) as other:
            other.submit(resume, tmp_path / "run", quiet=True).result()

    with pytest.raises(RunError, match=r"another process is working in .*run: wait until it ends"):
        train(SMALL, tmp_path / "run", callbacks=[AtStep(resume_too)], quiet=True)


@pytest.mark.slow(2)
def test_an_epoch_without_its_checkpoint_is_trained_again(whole, tmp_path, monkeypatch):
    out = tmp_path / "torn"
    save = Checkpoint.save

    def fail_after_two_epochs(self, path):
        if self.epoch == 2:
            raise SystemExit
        save(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "save", fail_after_two_epochs)
        with pytest.raises(SystemExit):
            train(SMALL, out, quiet=True)
    assert len(Run.open(out).epochs) == 2
    assert_equal_runs(whole, resume(out, quiet=True))


def test_a_run_resumed_on_another_machine_records_both(whole, tmp_path, monkeypatch):
    hooks = [InterruptAt((1, 4))]
    out = tmp_path / "moved"
    with pytest.raises(InterruptedRunError):
        train(SMALL, out, callbacks=hooks, quiet=True)
    described = machine.describe

    def elsewhere(device, **given):
        return dataclasses.replace(described(device, **given), processor="Another 9000", threads=16)

    monkeypatch.setattr(machine, "describe", elsewhere)
    run = resume(out, callbacks=hooks, quiet=True)
    assert [m.from_epoch for m in run.machines] == [1, 2]
    assert run.machines[1].processor == "Another 9000"
    assert Run.open(out).machines == run.machines
    assert_equal_runs(whole, run)


@pytest.mark.parametrize("name", ["seed", "demo"])
def test_the_loop_is_sgd_on_the_drawn_batches(name, tmp_path, monkeypatch):
    """The first steps of a run are repeated with PyTorch alone; the epoch's line is checked."""
    config = dataclasses.replace(SMALL, recipe=name, batch_size=64, epochs=1)
    recipe, digits = resolve(config), load("digits")
    network = Network(SMALL.network, norm="bn", dropout=recipe.dropout, shape=digits.shape)
    pixels = digits.train.images / 255.0
    network.input_mean.copy_(torch.from_numpy(pixels.mean((0, 2, 3))))
    network.input_std.copy_(torch.from_numpy(pixels.std((0, 2, 3))))
    optimizer = torch.optim.SGD(network.parameters(), 1.0, 0.9, nesterov=name == "demo")
    order = torch.randperm(1437, generator=generator(0, "order", 0)).numpy()
    expected = []
    for step in range(6):
        batch = order[step * 64 : (step + 1) * 64]
        images = torch.from_numpy(digits.train.images[batch]).float() / 255
        images = augment(images, recipe.augment, generator(0, "augment", 0, step))
        images = images.contiguous(memory_format=torch.channels_last)
        torch.manual_seed(seed_for(0, "dropout", 0, step))
        loss = F.cross_entropy(network(images), torch.from_numpy(digits.train.labels[batch]))
        optimizer.param_groups[0]["lr"] = recipe.learning_rate_at(step, STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    seen = []
    watch = AtStep(lambda state: seen.append((state.loss, state.images)))
    run = train(config, tmp_path / "run", callbacks=[watch], quiet=True)
    losses, sizes = np.array(seen).T
    np.testing.assert_allclose(losses[:6], expected, rtol=1e-3)
    assert run.last.train_loss == pytest.approx((losses * sizes).sum() / 1437, rel=1e-9)
    assert run.last.learning_rate == recipe.learning_rate_at(STEPS - 1, STEPS)


def test_every_image_is_seen_once_and_the_last_batch_is_the_rest(tmp_path, monkeypatch):
    sizes = []
    watch = AtStep(lambda state: sizes.append(state.images))
    config = dataclasses.replace(SMALL, network="c:2 GAP FC", epochs=1)
    run = train(config, tmp_path / "run", callbacks=[watch], quiet=True)
    assert sizes == [64] * 22 + [1437 - 22 * 64]
    assert run.recipe.epochs == 1


def test_held_out_images_are_evaluated_and_the_test_split_is_not_read(tmp_path, monkeypatch):
    real = loop.load_for

    def without_test_images(*args, **kwargs):
        dataset = real(*args, **kwargs)
        unreadable = dataclasses.replace(
            dataset.test, images=np.empty((0, 3, 32, 32), np.uint8), labels=np.empty(0, np.int64)
        )
        return dataclasses.replace(dataset, test=unreadable)

    monkeypatch.setattr(loop, "load_for", without_test_images)
    config = dataclasses.replace(SMALL, holdout=100, epochs=1)
    run = train(config, tmp_path / "run", quiet=True)
    assert run.split == run.last.split == "holdout"
    assert (run.data.train, run.data.holdout) == (1337, 100)
    assert run.last.accuracy * 100 == pytest.approx(round(run.last.accuracy * 100))


@pytest.mark.slow(1)
def test_without_test_images_nothing_is_evaluated(whole, tmp_path, monkeypatch):
    digits = load("digits")
    nothing = Split(np.empty((0, 3, 32, 32), np.uint8), np.empty(0, np.int64))
    dataset = dataclasses.replace(digits, test=nothing)
    monkeypatch.setattr(callbacks, "evaluate", None)
    run = train(SMALL, tmp_path / "run", dataset=dataset, quiet=True)
    weights, expected = (load_file(r.path / "model.safetensors") for r in (run, whole))
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert run.split == "train"
    for epoch, other in zip(run.epochs, whole.epochs, strict=True):
        assert epoch.split == "train"
        assert (epoch.loss, epoch.accuracy) == (epoch.train_loss, epoch.train_accuracy)
        assert (epoch.train_loss, epoch.train_accuracy) == (other.train_loss, other.train_accuracy)
    assert Run.open(run.path) == run
    with pytest.raises(ValueError, match="the test split has no images"):
        evaluate(run.network(), dataset)
    with pytest.raises(RunError, match="run has only training images"):
        analyze(run, evaluate(run.network(), dataset, "train"))
    loss, _ = curves([run]).axes
    assert len(loss.lines) == 1
    assert [text.get_text() for text in curves([run]).legends[0].texts] == ["training"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    out = tmp_path / "run"
    config = dataclasses.replace(SMALL, norm="none", learning_rate=1e6)
    with pytest.raises(
        DivergedError,
        match=r"the loss became (nan|inf) in epoch 1, step \d+, at learning rate 1e\+06; .* kept",
    ):
        train(config, out, quiet=True)
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    assert all(t.isfinite().all() for t in checkpoint.model.values())
    assert (checkpoint.epoch, checkpoint.step) == (0, 0)


@pytest.mark.slow(2)
@pytest.mark.parametrize("steps_before", [0, STEPS - 1])
def test_broken_weights_never_become_the_checkpoint(steps_before, whole, tmp_path, monkeypatch):
    """In the first step of the second epoch and in its last, which is harder to notice."""
    out = tmp_path / "run"
    rate = Recipe.learning_rate_at

    def exploding(self, step, steps_per_epoch):
        broken = step == steps_per_epoch + steps_before
        return 1e38 if broken else rate(self, step, steps_per_epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Recipe, "learning_rate_at", exploding)
        with pytest.raises(DivergedError, match="in epoch 2, "):
            train(SMALL, out, quiet=True)
    assert [e.epoch for e in Run.open(out).epochs] == [1]
    assert Checkpoint.load(out / "checkpoint.pt").epoch == 1
    assert_equal_runs(whole, resume(out, quiet=True))


def test_ctrl_c_does_not_save_broken_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, "learning_rate_at", lambda *_: math.inf)
    hooks = [InterruptAt((0, 1))]
    with pytest.raises(DivergedError):
        train(SMALL, tmp_path / "run", callbacks=hooks, quiet=True)
    assert Checkpoint.load(tmp_path / "run" / "checkpoint.pt").step == 0


def test_an_interrupted_epochs_seconds_are_added_up(tmp_path, monkeypatch):
    hooks = [InterruptAt((0, 12))]
    out = tmp_path / "run"
    with pytest.raises(InterruptedRunError):
        train(dataclasses.replace(SMALL, epochs=1), out, callbacks=hooks, quiet=True)
    saved = Checkpoint.load(out / "checkpoint.pt").seconds
    assert saved > 0
    later = Checkpoint.load

    def as_if_it_had_taken_an_hour(*arguments):
        return dataclasses.replace(later(*arguments), seconds=saved + 3600)

    monkeypatch.setattr(Checkpoint, "load", as_if_it_had_taken_an_hour)
    assert 3600 < resume(out, callbacks=hooks, quiet=True).last.seconds < 3600 + 600


def test_a_channel_without_contrast_is_not_divided_by_zero(tmp_path, monkeypatch):
    real = loop.load_for

    def without_red(*args, **kwargs):
        dataset = real(*args, **kwargs)
        dataset.train.images[:, 0] = dataset.test.images[:, 0] = 7
        return dataset

    monkeypatch.setattr(loop, "load_for", without_red)
    run = train(dataclasses.replace(SMALL, epochs=1), tmp_path / "run", quiet=True)
    assert run.data.std[0] == 1
    assert np.isfinite(run.last.loss)


def test_the_split_seed_draws_the_hold_out(tmp_path):
    config = dataclasses.replace(SMALL, network="c:2 GAP FC", epochs=1, holdout=100)
    one = train(config, tmp_path / "one", quiet=True)
    other = train(dataclasses.replace(config, split_seed=1), tmp_path / "other", quiet=True)
    assert one.data.fingerprint == other.data.fingerprint
    assert one.data.mean != other.data.mean
    for run in (one, other):
        again = evaluate(run.network(), Run.open(run.path).dataset(), "holdout")
        assert again.accuracy == run.last.accuracy


def test_a_batch_of_one_over_a_single_pixel_is_refused_with_its_block(tmp_path):
    config = dataclasses.replace(SMALL, network="C:4 P P P P P C:4 c GAP", batch_size=4)
    with pytest.raises(LayoutError, match="bn cannot be trained on 4"):  # 1,437 is 4 · 359 + 1
        train(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    train(dataclasses.replace(config, batch_size=500, epochs=1), tmp_path / "run", quiet=True)


def test_small_batches_give_a_warning(tmp_path, capsys):
    for norm, warned in (("bn", True), ("ln", False)):
        config = RunConfig(
            network="C:4 P P GAP FC",
            norm=norm,
            dataset="digits",
            recipe="demo",
            epochs=1,
            batch_size=4,
            train_images=40,
        )
        train(config, tmp_path / norm)
        assert ("warning: batches of 4: bn will take" in capsys.readouterr().out) == warned


def test_a_folder_with_a_run_is_not_overwritten(whole, tmp_path):
    with pytest.raises(RunError, match="holds a finished run"):
        train(SMALL, whole.path, quiet=True)
    with pytest.raises(RunError, match="is finished: there is nothing to resume"):
        resume(whole.path, quiet=True)
    with pytest.raises(RunError, match="is not a run's folder"):
        resume(tmp_path, quiet=True)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_text("{}")
    with pytest.raises(RunError, match="normlab train --resume"):
        train(SMALL, unfinished, quiet=True)


@pytest.mark.parametrize("mode", [0o000, 0o111, 0o444])
def test_an_unreadable_folder_is_refused_in_one_line(whole, mode):
    with TemporaryDirectory() as folder:  # tmp_path is open to its owner only
        out = Path(folder) / "run"
        out.mkdir()
        out.chmod(mode)
        with (
            not_as_root(out),
            pytest.raises(NormlabError, match=r"run.* cannot be (read|written): \S[^\n]*$"),
        ):
            train(SMALL, out, quiet=True)
        with (
            not_as_root(out),
            pytest.raises(NormlabError, match=r"cannot be read|not a run's folder"),
        ):
            resume(out, quiet=True)


def test_unreadable_weights_are_not_reported_as_missing(whole):
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        shutil.copytree(whole.path, out)
        weights = out / "model.safetensors"
        weights.chmod(0)
        with (
            not_as_root(out),
            pytest.raises(RunError, match=r"safetensors cannot be read: Permission denied$"),
        ):
            Run.open(out).network()
        weights.unlink()
        weights.mkdir()
        with pytest.raises(RunError, match=r"safetensors cannot be read: Is a directory$"):
            Run.open(out).network()
        weights.rmdir()
        with pytest.raises(RunError, match=r"run has no model\.safetensors: is its training"):
            Run.open(out).network()


@contextmanager
def not_as_root(folder):
    """Acts as the folder's owner: permissions do not bind root."""
    if os.geteuid():
        yield
        return
    os.chown(folder, 65534, 65534)
    folder.parent.chmod(0o755)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.slow(2)
def test_leftovers_of_a_kill_are_removed_when_a_run_is_resumed(whole, tmp_path, monkeypatch):
    out = tmp_path / "run"
    out.mkdir()
    ours = [".checkpoint-abcd0123.pt", ".config-abcd0123.json"]
    others = {".checkpoint-mine.pt", ".report-abcd0123.html"}
    for name in (*ours, *others):
        (out / name).write_bytes(b"half")
    hooks = [InterruptAt((0, 2))]
    with pytest.raises(InterruptedRunError):
        train(SMALL, out, callbacks=hooks, quiet=True)
    assert {path.name for path in out.glob(".*")} == others
    for name in (*ours, ".metrics-abcd0123.jsonl", ".model-abcd0123.safetensors"):
        (out / name).write_bytes(b"half")
    assert_equal_runs(whole, resume(out, quiet=True))
    assert {path.name for path in out.glob(".*")} == others


def test_a_run_is_not_resumed_on_other_data(tmp_path, monkeypatch):
    pictures(tmp_path / "here")
    config = dataclasses.replace(SMALL, dataset=f"folder:{tmp_path / 'here'}", batch_size=4)
    hooks = [InterruptAt((0, 2))]
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "run", callbacks=hooks, quiet=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "here" / "train" / "a" / "0.png")
    with pytest.raises(RunError, match="give the run's own data"):
        resume(tmp_path / "run", callbacks=hooks, quiet=True)
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "other", callbacks=hooks, quiet=True)
    shutil.copy(tmp_path / "other" / "checkpoint.pt", tmp_path / "run")
    (tmp_path / "run" / "checkpoint-before.pt").unlink()
    with pytest.raises(RunError, match=r"checkpoint\.pt is another run's"):
        resume(tmp_path / "run", callbacks=hooks, quiet=True)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"recipe": "sede"}, "no recipe 'sede': there are seed, demo"),
        ({"epochs": 0}, "--epochs must be at least 1 and at most 1,000,000,000, not 0"),
        ({"batch_size": -1}, "--batch-size must be at least 1"),
        ({"learning_rate": 0}, "--learning-rate must be above 0 and at most 1,000,000,000, not 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be finite, not nan"),
        ({"weight_decay": -0.1}, "--weight-decay must be at least 0 and at most 1,000,000,000"),
        ({"budget": 10**9 + 1}, "--budget must be at least 1 and at most 1,000,000,000"),
        ({"seed": 2**63}, "--seed must be at least -9,223,372,036,854,775,808 and below"),
        ({"precision": "float16"}, "--precision must be .*Literal"),
        ({"network": "seed-nb"}, "did you mean .*seed-bn"),
        ({"norm": "gm"}, "did you mean gn"),
        ({"holdout": -1}, "--holdout must be at least 0"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_written(settings, problem, tmp_path):
    with pytest.raises(NormlabError, match=problem):
        train(dataclasses.replace(SMALL, **settings), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_an_unavailable_device_is_refused(tmp_path):
    for device in ("cuda", "mps"):
        if not {"cuda": torch.cuda, "mps": torch.backends.mps}[device].is_available():
            with pytest.raises(UsageError, match=f"torch finds no {device} device"):
                train(SMALL, tmp_path / "run", Execution(device=device), quiet=True)
    with pytest.raises(UsageError, match="--threads must be at least 1"):
        train(SMALL, tmp_path / "run", Execution(threads=0), quiet=True)


def test_training_leaves_torchs_generator_and_the_signal_handlers_alone(tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    train(dataclasses.replace(SMALL, network="c:2 GAP FC", epochs=1), tmp_path / "r", quiet=True)
    assert torch.equal(torch.rand(2), expected)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_busy_machine_is_named_on_a_terminal_only(tmp_path, monkeypatch):
    """A log that is compared with another must not depend on the load."""
    run = train(dataclasses.replace(SMALL, epochs=1), tmp_path / "run", quiet=True)
    monkeypatch.setattr(os, "getloadavg", lambda: (999.0, 0.0, 0.0))
    texts = []
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
        announce(run, None, console)
        texts.append(console.file.getvalue())
    assert "note: this machine is busy: a load of 999.0 on" in texts[0]
    assert "a load of" not in texts[1]


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path, monkeypatch):
    def press_twice(state):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "run", callbacks=[AtStep(press_twice)], quiet=True)


def test_moved_pictures_are_found_through_the_data_root(tmp_path):
    pictures(tmp_path / "here")
    config = RunConfig(network="c GAP", dataset=f"folder:{tmp_path / 'here'}", epochs=1)
    run = train(config, tmp_path / "run", quiet=True)
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(DataError, match="--data-root"):
        run.dataset()
    moved = run.dataset(tmp_path / "there")
    assert moved.fingerprint == run.data.fingerprint
    assert evaluate(run.network(), moved).accuracy == run.last.accuracy
