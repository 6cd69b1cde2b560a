"""Runs and studies that learn from a teacher's outputs, on the embedded digits."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch

import normlab
from harness import TINY, StopAt, assert_equal_runs, kill_everywhere, work
from normlab import recipes
from normlab.config import RunConfig, StudyConfig
from normlab.data import apply_splits, load
from normlab.errors import InterruptedRunError, NormlabError, RunError, UsageError
from normlab.inference.evaluate import to_input
from normlab.network.model import Network
from normlab.report.card import model_card
from normlab.report.run_page import write_report
from normlab.report.study_page import write_study_report
from normlab.study import compare as comparing
from normlab.study.record import Study
from normlab.training import teachers
from normlab.training.batches import Batches
from normlab.training.precision import products_in
from normlab.training.step import TrainStep
from small_study import run_here

LINE = "C:4 P C:6 P GAP FC"
CONFIG = RunConfig(
    network=LINE, dataset="digits", recipe="demo", epochs=2, train_images=300, batch_size=32
)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A finished run on the digits, larger than its students."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    config = dataclasses.replace(CONFIG, network="C:8 P C:12 P GAP FC", seed=3)
    return normlab.train(config, out, quiet=True).path


def taught(teacher, **settings):
    return dataclasses.replace(CONFIG, teacher=str(teacher), **settings)


def train(config, out, **options):
    return normlab.train(config, out, quiet=True, **options)


def weights(run):
    return run.network().state_dict()


def assert_equal_weights(one, other):
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


# The loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_matches_the_formula_in_float64(smoothing):
    """Hinton et al. 2015, section 2: the gradients of a step and its loss."""
    recipe = recipes.Recipe(
        epochs=1,
        batch_size=16,
        learning_rate=0.1,
        schedule="step",
        momentum=0.0,
        label_smoothing=smoothing,
    )
    draws = torch.Generator().manual_seed(0)
    inputs = torch.rand(16, 3, 32, 32, generator=draws)
    labels = torch.randint(10, (16,), generator=draws)
    logits = 4 * torch.randn(16, 10, generator=draws)
    net = Network(LINE, norm="bn", classes=10, seed=1).train()
    exact = Network(LINE, norm="bn", classes=10, seed=1).double().train()
    weight, temperature, rate = 0.7, 3.0, 0.1
    own = exact(inputs.double())
    q, p = (
        (each.double() / temperature).exp() / (each.double() / temperature).exp().sum(1)[:, None]
        for each in (own, logits)
    )
    divergence = (p * (p / q).log()).sum(1).mean()
    log_q = own.log_softmax(1)
    picked = log_q[torch.arange(16), labels]
    labels_loss = -((1 - smoothing) * picked + smoothing * log_q.mean(1)).mean()
    expected = (1 - weight) * labels_loss + weight * temperature**2 * divergence
    expected.backward()
    step = TrainStep(net, recipe, "float32", teacher_weight=weight, temperature=temperature)
    loss, _ = step.step(rate, inputs, labels, logits)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for (name, found), reference in zip(net.named_parameters(), exact.parameters(), strict=True):
        moved = reference.detach() - rate * reference.grad
        torch.testing.assert_close(found.double(), moved, rtol=1e-4, atol=1e-5, msg=name)


def test_a_batch_has_the_logits_of_the_views_that_it_shows():
    """Each output is a fingerprint of its view: here, of two of its pixels."""
    data = apply_splits(load("digits"), CONFIG)
    corners = lambda x: x[..., 16, 4].float() - x[..., 16, 27].float()  # noqa: E731
    images = torch.from_numpy(data.train.images)
    views = torch.stack([corners(images)[:, 0], corners(images.flip(3))[:, 0]], 1)
    table = views[:, :, None].expand(-1, -1, 10).to(torch.float16).numpy()
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, taught=table))
    recipe = dataclasses.replace(recipes.find("demo"), mirror=True, augment=())
    batches = Batches(data, recipe, 5, CPU)
    shown = set()
    for epoch in range(2):
        for step in range(batches.steps):
            inputs, _ = batches(epoch, step)
            found = batches.taught(epoch, step)[:, 0]
            assert torch.equal(found, corners((inputs * 255).round())[:, 0])
            shown |= set(torch.sign(found).tolist())
    assert shown >= {-1.0, 1.0}  # both views were there


# Runs


def test_a_taught_run_learns_from_the_teacher_and_records_it(teacher, tmp_path):
    run = train(taught(teacher), tmp_path / "taught")
    plain = train(CONFIG, tmp_path / "plain")
    assert run.last.train_loss != plain.last.train_loss
    assert len(run.teacher.weights) == len(run.teacher.outputs) == 64
    assert not (run.path / teachers.TABLE).exists()  # like the checkpoint
    opened = normlab.Run.open(run.path)
    assert opened.teacher == run.teacher
    assert opened.digest == run.digest


@pytest.mark.slow(1)
def test_opening_and_showing_a_taught_run_needs_no_teacher(teacher, tmp_path):
    gone = shutil.copytree(teacher, tmp_path / "gone")
    run = train(taught(gone), tmp_path / "taught")
    shutil.rmtree(gone)
    run = normlab.Run.open(run.path)
    run.network()
    card = model_card([run])
    assert run.teacher.name in card
    assert run.teacher.weights in card
    assert "knowledge distillation" in card
    page = write_report([run]).read_text()
    assert run.teacher.weights in page
    assert "temperature 2" in page


def test_a_teacher_trained_in_bfloat16_computes_in_it(tmp_path):
    """The embedded digits have 10 classes; bfloat16 has 8 bits of precision."""
    own = train(dataclasses.replace(CONFIG, precision="bfloat16"), tmp_path / "teacher")
    data = apply_splits(load("digits"), CONFIG)
    found = teachers.find(str(own.path)).teach(
        data, held_out=0, split_seed=0, mirror=True, device=CPU
    )
    images = torch.from_numpy(data.train.images)
    for view, seen in enumerate((images, images.flip(3))):
        network, taught = own.network(), torch.from_numpy(found.train.taught[:, view])
        with torch.no_grad():
            in_float32 = network(to_input(seen)).half()
            with products_in("bfloat16", CPU):
                expected = network(to_input(seen)).half()
        torch.testing.assert_close(taught, expected, rtol=0, atol=1e-4)
        assert (taught - in_float32).abs().max() > 1e-3


def test_a_teacher_of_weight_0_changes_nothing(teacher, tmp_path):
    one = train(taught(teacher, teacher_weight=0.0), tmp_path / "a")
    other = train(CONFIG, tmp_path / "b")
    assert_equal_weights(one, other)
    assert one.last.train_loss == other.last.train_loss


def test_without_a_teacher_a_run_is_recorded_as_before(tmp_path):
    run = train(CONFIG, tmp_path / "a")
    content = json.loads((run.path / "config.json").read_text())
    assert not any(name.startswith("teacher") for name in (*content, *content["run"]))


def test_a_taught_run_records_its_weight_and_temperature(teacher, tmp_path):
    run = train(taught(teacher), tmp_path / "a")
    content = json.loads((run.path / "config.json").read_text())["run"]
    assert (content["teacher_weight"], content["teacher_temperature"]) == (0.9, 2.0)


@pytest.mark.slow(1)
@pytest.mark.parametrize("place", [(0, 4), (1, 3)])
def test_a_stopped_run_ends_the_same_without_its_teacher(teacher, tmp_path, place):
    gone = shutil.copytree(teacher, tmp_path / "gone")
    config = taught(gone)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "stopped", callbacks=[StopAt(*place)])
    shutil.rmtree(gone)
    resumed = normlab.resume(tmp_path / "stopped", quiet=True)
    assert_equal_weights(whole, resumed)
    assert not (resumed.path / teachers.TABLE).exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_a_run_is_not_resumed_with_other_outputs(teacher, tmp_path, damage):
    with pytest.raises(InterruptedRunError):
        train(taught(teacher), tmp_path / "a", callbacks=[StopAt(1, 2)])
    table = tmp_path / "a" / teachers.TABLE
    content = table.read_bytes()
    table.unlink()
    if damage == "cut":
        table.write_bytes(content[:100])
    if damage == "changed":
        table.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=teachers.TABLE) as error:
        normlab.resume(tmp_path / "a", quiet=True)
    assert "\n" not in str(error.value)


@pytest.mark.slow(9)
def test_a_run_that_was_killed_at_any_moment_ends_the_same(teacher, tmp_path):
    """Also between the table and the first checkpoint, and between the weights and its removal."""
    config = dataclasses.replace(TINY, teacher=str(teacher))
    whole = work(tmp_path / "whole", config, report=False)
    moments = set()
    for out, call in kill_everywhere(tmp_path, config, ("replace", "unlink"), report=False):
        moments.add(call)
        work(out, config, report=False)
        assert_equal_runs(out, whole.path)
        assert sorted(file.name for file in out.iterdir()) == sorted(
            file.name for file in whole.path.iterdir()
        )
    assert moments >= {f"replace {teachers.TABLE}", f"unlink {teachers.TABLE}"}


def test_taught_or_not_runs_with_one_seed_see_the_same_batches(teacher, tmp_path):
    class Inputs(normlab.Callback):
        """Keeps the inputs of the second step."""

        def __init__(self):
            self.seen = []

        def on_step_end(self, state):
            if (state.epoch, state.step) == (0, 1):
                state.network.register_forward_pre_hook(
                    lambda _, inputs: self.seen.append(inputs[0].clone())
                )

    seen = []
    for number, config in enumerate((CONFIG, taught(teacher), taught(teacher, norm="ln"))):
        inputs = Inputs()
        train(dataclasses.replace(config, epochs=1), tmp_path / str(number), callbacks=[inputs])
        seen.append(inputs.seen)
    assert len(seen[0]) > 1
    for others in seen[1:]:
        assert all(torch.equal(one, other) for one, other in zip(seen[0], others, strict=True))


def test_a_function_can_teach(tmp_path, monkeypatch):
    (tmp_path / "by_brightness.py").write_text(
        "import torch\n"
        "def logits(images):\n"
        "    assert images.dtype == torch.uint8 and images.shape[1:] == (1, 32, 32)\n"
        "    return images.float().mean((1, 2, 3))[:, None] / 255 * torch.arange(10)\n"
        "def few(images):\n"
        "    return torch.zeros(len(images), 3)\n"
        "def wild(images):\n"
        "    return torch.full((len(images), 10), 1e9).numpy()\n"
        "def broken(images):\n"
        "    raise KeyError('weights\\nare missing')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "by_brightness", raising=False)
    run = train(taught("by_brightness:logits"), tmp_path / "run")
    assert run.teacher.name == "by_brightness:logits"
    assert run.teacher.weights == ""
    for name, problem in {
        "few": r"\[300, 3\], expected images × classes, \[300, 10\]",
        "wild": "not finite, or above",
        "broken": "KeyError",
        "absent": "no function absent",
    }.items():
        with pytest.raises(UsageError, match=problem) as error:
            train(taught(f"by_brightness:{name}"), tmp_path / name)
        assert "\n" not in str(error.value)
        assert not (tmp_path / name).exists()
    with pytest.raises(UsageError, match="no_such_module"):
        train(taught("no_such_module:logits"), tmp_path / "absent")


# What is refused


def test_a_teacher_that_does_not_fit_is_refused_in_one_line(teacher, tmp_path):
    with pytest.raises(InterruptedRunError):
        train(CONFIG, tmp_path / "stopped", callbacks=[StopAt(1, 2)])
    whole = load("digits")
    labels = whole.train.labels.copy()
    labels[0] = (labels[0] + 1) % 10
    other = dataclasses.replace(
        whole, train=dataclasses.replace(whole.train, labels=labels), fingerprint=""
    )
    five = dataclasses.replace(whole, classes=tuple("abcdefghij"))
    refused = [
        (taught(tmp_path / "nowhere"), None, "there is no such folder"),
        (taught(tmp_path), None, "is not a run's folder"),
        (taught(tmp_path / "stopped"), None, "is not finished"),
        (taught("teacher"), None, "normlab train teacher"),
        (taught("micro"), None, r"than digits \(airplane, automobile, bird …, not 0, 1, 2 …\)"),
        (taught(teacher), five, r"has other classes than digits \(0, 1, 2 …, not a, b, c …\)"),
        (taught(teacher), other, "was trained on other data"),
        (taught(teacher, holdout=100), None, "--holdout 100"),
        (taught(teacher, teacher_weight=1.5), None, "--teacher-weight must be"),
        (taught(teacher, teacher_temperature=0.0), None, "--teacher-temperature must be"),
        (dataclasses.replace(CONFIG, teacher_weight=0.5), None, "needs a --teacher"),
    ]
    for number, (config, dataset, problem) in enumerate(refused):
        with pytest.raises(NormlabError, match=problem) as error:
            train(config, tmp_path / str(number), dataset=dataset)
        assert "\n" not in str(error.value)
        assert not (tmp_path / str(number)).exists()


def test_a_teacher_that_held_out_the_same_images_is_taken(tmp_path):
    held = dataclasses.replace(CONFIG, holdout=100, epochs=1)
    train(held, tmp_path / "teacher")
    config = dataclasses.replace(held, teacher=str(tmp_path / "teacher"))
    assert train(config, tmp_path / "a").teacher is not None
    with pytest.raises(UsageError, match="--holdout 100 --split-seed 1"):
        train(dataclasses.replace(config, split_seed=1), tmp_path / "b")


# Studies

STUDY = StudyConfig(
    network=LINE,
    norms=("bn", "ln"),
    seeds=1,
    dataset="digits",
    recipe="demo",
    epochs=1,
    batch_sizes=(64,),
    train_images=(300,),
)


@pytest.fixture
def here(monkeypatch):
    """Runs of studies in this process."""
    monkeypatch.setattr("normlab.study.local.run_jobs", run_here)


@pytest.mark.slow(2)
@pytest.mark.usefixtures("here")
def test_a_study_computes_the_outputs_once_for_all_its_runs(teacher, tmp_path):
    config = dataclasses.replace(STUDY, teacher=str(teacher))
    study = comparing.compare(config, tmp_path / "a", quiet=True)
    assert [result.state for result in study.results] == ["done", "done"]
    assert Study.open(study.path).teacher == study.teacher
    runs = [study.run(result) for result in study.results]
    assert len({run.teacher.outputs for run in runs}) == 1
    assert {run.teacher.weights for run in runs} == {study.teacher.weights}
    table = np.load(study.path / teachers.TABLE)
    assert table.shape == (len(load("digits").train), 1, 10)  # this recipe mirrors nothing
    images = torch.from_numpy(load("digits").train.images[:20])
    with torch.no_grad():
        expected = normlab.Run.open(teacher).network()(to_input(images))
    torch.testing.assert_close(
        torch.from_numpy(table[:20, 0]).float(), expected, rtol=2e-3, atol=2e-3
    )
    assert not any((run.path / teachers.TABLE).exists() for run in runs)
    page = write_study_report(study).read_text()
    assert study.teacher.weights in page
    # More seeds learn from the same outputs, also where the table was left out.
    for seeds, left_out in ((2, False), (3, True)):
        if left_out:
            (study.path / teachers.TABLE).unlink()
        more = comparing.compare(dataclasses.replace(config, seeds=seeds), study.path, quiet=True)
        assert more.teacher == study.teacher
        assert {more.run(result).teacher.outputs for result in more.results} == {
            runs[0].teacher.outputs
        }


@pytest.mark.usefixtures("here")
def test_a_study_refuses_another_teacher(teacher, tmp_path):
    mine = shutil.copytree(teacher, tmp_path / "mine")
    config = dataclasses.replace(STUDY, norms=("bn",), teacher=str(mine))
    comparing.compare(config, tmp_path / "a", quiet=True)
    shutil.rmtree(mine)
    train(dataclasses.replace(CONFIG, network="C:8 P C:12 P GAP FC", seed=3, epochs=1), mine)
    with pytest.raises(RunError, match="learned from other weights"):
        comparing.compare(dataclasses.replace(config, seeds=2), tmp_path / "a", quiet=True)
    for tune in ((), ("lr",)):
        holdout = 0 if tune else 50
        with pytest.raises(UsageError, match="saw images that are held out"):
            comparing.compare(
                dataclasses.replace(config, tune=tune, holdout=holdout),
                tmp_path / "b",
                quiet=True,
            )
    assert not (tmp_path / "b").exists()
