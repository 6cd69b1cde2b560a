"""Runs and studies that start from a trained network's weights, on the embedded digits."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import normlab
from harness import StopAt
from normlab import recipes
from normlab.config import RunConfig, StudyConfig, recorded
from normlab.data import from_arrays
from normlab.errors import InterruptedRunError, RunError, UsageError
from normlab.inference.predict import find_model
from normlab.network.model import Network
from normlab.report.card import model_card
from normlab.report.run_page import write_report
from normlab.study.job import Job
from normlab.study.record import Study
from normlab.training.seen_images import refuse_seen_images
from normlab.training.setup import new_network
from normlab.training.starts import copy_weights
from small_study import run_here

LINE = "C:4 P C:6 P GAP FC"
CONFIG = RunConfig(
    network=LINE, dataset="digits", recipe="demo", epochs=2, train_images=300, batch_size=32
)
OF_FIVE = from_arrays(  # another data set: other classes, in colour
    np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8),
    np.arange(40) % 5,
)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A finished run on the digits."""
    out = tmp_path_factory.mktemp("start") / "run"
    return normlab.train(dataclasses.replace(CONFIG, seed=3), out, quiet=True)


def started(run, **settings):
    return dataclasses.replace(CONFIG, start_from=str(run.path), **settings)


def train(config, out, **options):
    return normlab.train(config, out, quiet=True, **options)


def copied(run, line=LINE, **settings):
    """A new network, what it was before, and the record of its start."""
    network = Network(line, **{"classes": 5, "shape": (1, 32, 32)} | settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    return network.state_dict(), before, copy_weights(network, run, "--start-from it")


def assert_equal_weights(one, other):
    theirs = other.network().state_dict()
    for name, value in one.network().state_dict().items():
        assert torch.equal(value, theirs[name]), name


# What is kept


def test_all_but_the_classifier_is_kept(trained_run):
    state, before, start = copied(trained_run)
    source = trained_run.network().state_dict()
    for name, value in state.items():
        kept = name.startswith(("blocks.0.", "blocks.2."))
        assert torch.equal(value, (source if kept else before)[name]), name
    assert start.name == "layout-0c7cda-bn-3"
    weights = (trained_run.path / "model.safetensors").read_bytes()
    assert start.weights == hashlib.sha256(weights).hexdigest()
    assert start.kept == 9 * 4 + 8 + 9 * 4 * 6 + 12
    assert start.note == "new: the classifier"


def test_a_block_of_which_a_convolution_does_not_fit_is_new_as_a_whole_and_named(trained_run):
    state, before, start = copied(trained_run, "C:4 P C:8 P GAP FC")
    for name in state:
        if name.startswith("blocks.2."):
            assert torch.equal(state[name], before[name]), name
    assert start.kept == 9 * 4 + 8
    assert start.note == "new: the classifier and block 3 (C:8)"


def test_of_another_normalization_what_fits_is_kept_and_the_rest_named(trained_run):
    state, _, start = copied(trained_run, norm="gn=2")
    source = trained_run.network().state_dict()
    shared = [name for name in state if name.startswith("blocks.0.")]
    assert all(torch.equal(state[name], source[name]) for name in shared)
    assert start.note == "new: the classifier; without its running mean and running var"
    _, _, wide = copied(trained_run, norm="ln-full")
    assert wide.kept == 9 * 4 + 9 * 4 * 6
    assert "the normalization of 2 blocks in part" in wide.note


def test_a_longer_network_keeps_what_stands_in_the_same_place(trained_run):
    _, _, longer = copied(trained_run, f"{LINE.removesuffix('GAP FC')}C:8 GAP FC")
    assert longer.note == "new: the classifier and block 5 (C:8)"
    _, _, narrow = copied(trained_run, f"{LINE.removesuffix('GAP FC')}c:8 c:6 GAP FC")
    assert narrow.note == "new: the classifier, block 5 (c:8) and block 6 (c:6)"
    _, _, shorter = copied(trained_run, "C:4 P GAP FC")
    assert shorter.note == "new: the classifier; without 1 further block that it has"


def test_an_image_in_grey_gives_the_same_in_a_network_for_colour_and_back(trained_run):
    """The digits are grey: equal in all colours."""
    grey = trained_run.network()
    colour = Network(LINE, classes=10, shape=(3, 32, 32))
    there = copy_weights(colour, trained_run, "it")
    assert there.note == "new: the classifier; divided among the colours: the first convolution"
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    first, other = grey.blocks[0].eval(), colour.blocks[0].eval()
    torch.testing.assert_close(other(x.expand(-1, 3, -1, -1)), first(x))


def test_colour_is_summed_for_a_network_of_grey():
    state, _, start = copied(normlab.Run.open(find_model("nano")), "nano")
    kernel = normlab.load(model="nano").network.state_dict()["blocks.0.conv.weight"]
    torch.testing.assert_close(state["blocks.0.conv.weight"], kernel.sum(1, keepdim=True))
    assert start.note.endswith("; summed over the colours: the first convolution")


@pytest.mark.parametrize("size", [16, 48])
def test_images_of_another_size_lose_only_what_has_a_size(trained_run, size):
    _, _, plain = copied(trained_run, shape=(1, size, size))
    assert plain.note == "new: the classifier"


@pytest.mark.parametrize("norm", ["dyt", "evonorm-s0", "none"])
def test_new_normalizations_make_up_once_for_what_muon_does_to_the_weights(trained_run, norm):
    """What a start gives is scaled to the norm that Muon keeps, and computes the same."""
    settings = {"norm": norm, "start_from": "it", "recipe": "own", "activation": None}
    config = dataclasses.replace(trained_run.config, **settings)
    network, start = new_network(config, recipes.resolve(config), trained_run.data, trained_run)
    plain = Network(LINE, norm=norm, classes=10, seed=config.seed, shape=(1, 32, 32))
    assert copy_weights(plain, trained_run, "--start-from it") == start
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    bodies = [torch.nn.Sequential(*[*each.blocks][:4]).eval() for each in (network, plain)]
    assert not torch.equal(network.blocks[2].conv.weight, plain.blocks[2].conv.weight)
    torch.testing.assert_close(*(body(x) for body in bodies), rtol=1e-3, atol=1e-4)


# Runs


@pytest.mark.slow(2)
def test_a_run_starts_from_the_weights_and_records_them(trained_run, tmp_path, capsys):
    config = started(trained_run, seed=5)
    run = normlab.train(config, tmp_path / "a")
    assert (
        f"started from layout-0c7cda-bn-3 (--start-from {trained_run.path})"
        in capsys.readouterr().out
    )
    plain = train(dataclasses.replace(CONFIG, seed=5), tmp_path / "b")
    assert run.last.train_loss != plain.last.train_loss
    opened = normlab.Run.open(run.path)
    assert opened.start == run.start
    assert opened.digest == run.digest
    assert run.start.weights in write_report([opened]).read_text()
    assert run.start.weights in model_card([opened])
    content = json.loads((plain.path / "config.json").read_text())
    assert not any("start" in name for name in (*content, *content["run"]))


def test_a_stopped_run_ends_the_same_without_its_start(trained_run, tmp_path):
    gone = shutil.copytree(trained_run.path, tmp_path / "gone")
    config = dataclasses.replace(CONFIG, start_from=str(gone))
    whole = train(config, tmp_path / "whole")
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "stopped", callbacks=[StopAt(1, 3)])
    shutil.rmtree(gone)
    assert_equal_weights(whole, normlab.resume(tmp_path / "stopped", quiet=True))


def test_a_network_of_other_classes_is_a_start(tmp_path):
    config = RunConfig(network="nano", recipe="own", epochs=1, start_from="nano")
    run = train(config, tmp_path / "a", dataset=OF_FIVE)
    assert run.start.name == "nano-bn-0"
    assert run.start.note == "new: the classifier"


def test_a_run_that_lost_its_start_is_damaged(trained_run, tmp_path):
    run = train(started(trained_run, epochs=1), tmp_path / "a")
    dataclasses.replace(run, start=None).write_config()
    with pytest.raises(RunError, match=r"config\.json is damaged: .*start"):
        normlab.Run.open(run.path)


# Refused in a line


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"start_from": "nowhere"}, "--start-from nowhere: there is no such folder; expected the"),
        ({"start_from": "line"}, "--start-from line: this network does not come trained with"),
        ({"start_from": "micro"}, 'none of its weights fits this network; they fit "C:'),
        ({"start_from": "nano", "branches": "repvgg"}, "--start-from and --branches repvgg excl"),
    ],
)
def test_what_cannot_be_a_start_is_refused_in_a_line(tmp_path, settings, problem):
    with pytest.raises(UsageError, match=problem) as error:
        train(dataclasses.replace(CONFIG, **settings), tmp_path / "a")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a").exists()


def test_a_start_without_its_setting_or_with_branches_is_refused(trained_run, tmp_path):
    with pytest.raises(UsageError, match="but the configuration has no start_from"):
        train(CONFIG, tmp_path / "a", start=trained_run)
    branched = dataclasses.replace(CONFIG, start_from="elsewhere", branches="repvgg")
    with pytest.raises(UsageError, match="--start-from and --branches repvgg exclude each other"):
        train(branched, tmp_path / "a", start=trained_run)
    assert not (tmp_path / "a").exists()


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"config\.json") as error:
        train(dataclasses.replace(CONFIG, start_from=str(tmp_path / "empty")), tmp_path / "a")
    assert "\n" not in str(error.value)
    with pytest.raises(InterruptedRunError):
        train(CONFIG, tmp_path / "stopped", callbacks=[StopAt(0, 2)])
    with pytest.raises(RunError, match=r"--start-from .*stopped is not finished: resume it"):
        train(dataclasses.replace(CONFIG, start_from=str(tmp_path / "stopped")), tmp_path / "a")


def test_a_start_that_saw_held_out_images_is_refused(trained_run, tmp_path):
    with pytest.raises(UsageError, match=r"saw images that are held out here .*--holdout 100"):
        train(started(trained_run, holdout=100), tmp_path / "a")


def noise(path, train=20, test=0, classes=2):
    """A file of arrays, and the settings of a run on it."""
    draw = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", train), ("test", test)):
        if count:
            arrays[f"x_{name}"] = draw.integers(0, 256, (count, 32, 32), np.uint8)
            arrays[f"y_{name}"] = np.arange(count) % classes
    np.savez(path, **arrays)
    return RunConfig(network=LINE, dataset=f"npz:{path}", recipe="demo", epochs=1)


def test_a_start_that_saw_the_test_split_that_is_drawn_is_refused(tmp_path):
    config = noise(tmp_path / "a.npz")
    first = train(config, tmp_path / "first")
    again = dataclasses.replace(config, start_from=str(first.path))
    assert train(again, tmp_path / "again").start.kept
    other_seed = dataclasses.replace(again, split_seed=1)
    with pytest.raises(
        UsageError, match="saw test images of the split that is drawn here: give --split-"
    ):
        train(other_seed, tmp_path / "b")
    noise(tmp_path / "a.npz", train=22)  # the first 20 are the same, the test split is not
    with pytest.raises(UsageError, match="drawn here: give the test images a split of their own"):
        train(again, tmp_path / "b")


def test_a_start_on_fewer_images_is_taken_where_the_test_split_is_its_own(tmp_path):
    config = noise(tmp_path / "a.npz", test=6)
    first = train(config, tmp_path / "first")
    noise(tmp_path / "a.npz", train=30, test=6)
    config = dataclasses.replace(config, start_from=str(first.path), split_seed=1)
    assert train(config, tmp_path / "again").start.kept
    with pytest.raises(UsageError, match=r"saw images that are held out here .*: train it with"):
        train(dataclasses.replace(config, holdout=4), tmp_path / "b")


def test_a_start_on_smaller_images_needs_the_same_images_held_out(tmp_path):
    config = noise(tmp_path / "a.npz")
    first = train(config, tmp_path / "first")
    larger = dataclasses.replace(config, size=48, start_from=str(first.path))
    assert train(larger, tmp_path / "larger").start.kept
    larger = dataclasses.replace(larger, holdout=4)
    with pytest.raises(UsageError, match=r"saw images that are held out here .*--holdout 4"):
        train(larger, tmp_path / "b")
    second = train(dataclasses.replace(config, holdout=4), tmp_path / "second")
    larger = dataclasses.replace(larger, start_from=str(second.path))
    assert train(larger, tmp_path / "b").start.kept


def test_a_start_with_other_labels_holds_other_images_out(trained_run):
    """Fine and coarse labels stratify the same images differently."""
    data = dataclasses.replace(OF_FIVE, name="cifar100:coarse", drawn=())
    fine = dataclasses.replace(trained_run.config, dataset="cifar100", holdout=10)
    run = dataclasses.replace(
        trained_run, config=fine, data=dataclasses.replace(trained_run.data, holdout=10)
    )
    config = dataclasses.replace(fine, dataset=data.name, start_from="fine")
    refuse_seen_images(run, dataclasses.replace(config, holdout=0), data, held_out=0)
    with pytest.raises(UsageError, match="train it on cifar100:coarse with --holdout 10"):
        refuse_seen_images(run, config, data, held_out=10)


def test_a_folder_of_the_same_name_and_other_classes_has_other_pictures(tmp_path, monkeypatch):
    for place, classes in (("a", ("ant", "bee")), ("b", ("cat", "dog"))):
        for k, name in enumerate(6 * classes):
            folder = tmp_path / place / "photos" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("L", (32, 32), 9 * k).save(folder / f"{k}.png")
    config = RunConfig(network=LINE, dataset="folder:photos", epochs=1, channels="grey")
    monkeypatch.chdir(tmp_path / "a")
    run = train(config, tmp_path / "first")
    monkeypatch.chdir(tmp_path / "b")
    config = dataclasses.replace(config, start_from=str(run.path), split_seed=1)
    assert train(config, tmp_path / "second").start.kept


# Studies


@pytest.mark.slow(4)
def test_all_runs_of_a_study_start_from_its_network(trained_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("normlab.study.local.run_jobs", run_here)
    gone = shutil.copytree(trained_run.path, tmp_path / "gone")
    config = StudyConfig(
        **{name: recorded(CONFIG)[name] for name in ("network", "dataset", "recipe", "epochs")},
        norms=("bn", "gn"),
        seeds=1,
        train_images=(300,),
        start_from=str(gone),
    )
    study = normlab.compare(config, tmp_path / "study")
    out = capsys.readouterr().out
    assert "started from" in out
    assert "(new: the classifier)" in out
    assert [result.state for result in study.results] == ["done"] * 2
    assert Study.open(study.path).start == study.start
    assert {study.run(result).start.weights for result in study.results} == {study.start.weights}
    more = normlab.compare(dataclasses.replace(config, seeds=2), study.path, quiet=True)
    assert {more.run(result).start.weights for result in more.results} == {study.start.weights}
    other = train(dataclasses.replace(CONFIG, seed=4), tmp_path / "other")
    shutil.rmtree(gone)
    more = normlab.compare(dataclasses.replace(config, seeds=3), study.path, quiet=True)
    assert {more.run(result).start.weights for result in more.results} == {study.start.weights}
    with pytest.raises(UsageError, match="there is no such folder"):  # of a new study
        normlab.compare(config, tmp_path / "new", quiet=True)
    shutil.copytree(other.path, gone)
    with pytest.raises(RunError, match="started from other weights"):
        normlab.compare(dataclasses.replace(config, seeds=4), study.path, quiet=True)


def test_a_job_tells_its_start(tmp_path):
    for start in (None, tmp_path / "start"):
        job = Job(config=CONFIG, out=tmp_path / "a", data=tmp_path / "b", start=start)
        assert Job.from_json(job.to_json()) == job
