"""Copies of CIFAR-10: those that others made differ in the pixels of a few images."""

import dataclasses
import shutil

import numpy as np
import pytest

import normlab
from cifar10_files import MadeUp, write_all
from normlab.data import load
from normlab.data.cifar import layouts
from normlab.errors import RunError, UsageError
from normlab.serve.examples import load_examples
from normlab.study.record import Study

CONFIG = normlab.RunConfig(
    network="C:4s2 P GAP FC", recipe="demo", epochs=1, holdout=20, batch_size=16
)


@pytest.fixture
def own(made_up, monkeypatch):
    """Invented files that count as CIFAR-10: its published labels are theirs."""
    labels = layouts.labels_digest(made_up.labels[:5].ravel())
    published = dataclasses.replace(layouts.CIFAR10, labels=labels)
    monkeypatch.setattr("normlab.data.sources.cifar10.CIFAR10", published)
    return made_up


def write(files: MadeUp, folder):
    shutil.rmtree(folder, ignore_errors=True)
    write_all(folder, files.binary())
    return folder


def other_copy(files: MadeUp):
    """Other pixels in one training image, and the test images in another order."""
    pixels, labels = files.pixels.copy(), files.labels.copy()
    pixels[2, 3, 100:200] ^= 1
    order = np.random.default_rng(1).permutation(len(labels[5]))
    pixels[5], labels[5] = pixels[5, order], labels[5, order]
    return MadeUp(pixels, labels)


def other_labels(files: MadeUp):
    labels = files.labels.copy()
    labels[0] = np.roll(labels[0], 1)
    return MadeUp(files.pixels, labels)


@pytest.fixture
def run(own, tmp_path):
    """Trained on the own copy, with images held out."""
    execution = normlab.Execution(data_root=write(own, tmp_path / "own"))
    return normlab.train(CONFIG, tmp_path / "run", execution, quiet=True)


def test_a_run_is_evaluated_and_exported_on_another_copy_with_a_note(
    run, own, tmp_path, cli, capsys
):
    root = write(other_copy(own), tmp_path / "other")
    code, output, errors = cli("evaluate", run.path, "--data-root", root, "--split", "holdout")
    assert code == 0
    assert "the same" in output
    assert errors.count("is not the one that") == 1
    code, _, errors = cli(
        "export", run.path, "--to", "pt2", "--data-root", root, "--out", tmp_path / "model.pt2"
    )
    assert code == 0
    assert errors.count("is not the one that") == 1
    made = normlab.export_run(run, "c", tmp_path / "c", unproved=True, data_root=root)
    assert made.path.is_dir()
    pictures = load_examples(run, root)
    assert len(pictures) == 20
    capsys.readouterr()
    code, _, errors = cli("evaluate", run.path, "--data-root", write(own, tmp_path / "own"))
    assert code == 0
    assert "is not the one that" not in errors


def test_its_splits_have_the_same_pictures(run, own, tmp_path):
    first = run.dataset(write(own, tmp_path / "own"))
    second = run.dataset(write(other_copy(own), tmp_path / "other"), any_copy=True)
    assert (first.train.labels == second.train.labels).all()
    assert (first.holdout.labels == second.holdout.labels).all()
    differing = (first.train.images != second.train.images).any((1, 2, 3)).sum()
    assert differing + (first.holdout.images != second.holdout.images).any((1, 2, 3)).sum() == 1


def test_files_with_other_labels_are_another_data_set(run, own, tmp_path):
    root = write(other_labels(own), tmp_path / "other")
    for any_copy in (False, True):
        with pytest.raises(RunError, match="give the run's own data"):
            run.dataset(root, any_copy=any_copy)


def test_a_run_on_other_labels_has_no_copies(own, tmp_path):
    """The published order would put other pictures into its splits."""
    for name, files in (("shuffled", other_labels(own)), ("own", own)):
        write(files, tmp_path / name)
    execution = normlab.Execution(data_root=tmp_path / "shuffled")
    shuffled = normlab.train(CONFIG, tmp_path / "shuffled-run", execution, quiet=True)
    with pytest.raises(RunError, match="give the run's own data"):
        shuffled.dataset(tmp_path / "own", any_copy=True)
    config = dataclasses.replace(CONFIG, teacher=str(shuffled.path))
    execution = normlab.Execution(data_root=tmp_path / "own")
    with pytest.raises(UsageError, match="trained on other data"):
        normlab.train(config, tmp_path / "taught", execution, quiet=True)


def test_a_run_of_arrays_has_no_copies(own, tmp_path):
    """Its settings name CIFAR-10, as no other data set was named."""
    whole = load("cifar10", data_root=write(own, tmp_path / "own"))
    arrays = dataclasses.replace(whole, train=whole.train.take(range(60)), fingerprint="")
    arrays = dataclasses.replace(arrays, in_order=False)
    run = normlab.train(CONFIG, tmp_path / "arrays", dataset=arrays.hold_out(20), quiet=True)
    with pytest.raises(RunError, match="give the run's own data"):
        run.dataset(tmp_path / "own", any_copy=True)


def test_what_must_repeat_to_the_bit_takes_no_other_copy(run, own, tmp_path, cli):
    """A resumed run ends as if it had never stopped, and a page states its figures."""
    root = write(other_copy(own), tmp_path / "other")
    with pytest.raises(RunError, match="give the run's own data"):
        run.dataset(root)
    code, _, errors = cli("report", run.path, "--data-root", root)
    assert code == 1
    assert "give the run's own data" in errors


@pytest.mark.slow(5)
def test_a_study_takes_its_data_from_where_it_is_told(own, tmp_path, cli):
    settings = ("--recipe", "demo", "--epochs", "1", "--batch-sizes", "16", "--seeds", "1")
    command = ("compare", CONFIG.network, "--norms", "bn", "ln", *settings)
    command += ("--out", tmp_path / "study")
    code, _, errors = cli(*command)
    assert code == 1, errors
    assert "--data-root" in errors
    code, _, errors = cli(*command, "--data-root", write(own, tmp_path / "own"))
    assert code == 0, errors
    assert [result.state for result in Study.open(tmp_path / "study").results] == ["done", "done"]


def test_a_teacher_may_have_learned_from_another_copy(run, own, tmp_path, capsys):
    capsys.readouterr()

    def student(seed, **settings):
        config = dataclasses.replace(run.config, teacher=str(run.path), seed=seed, **settings)
        execution = normlab.Execution(data_root=tmp_path / "other")
        return normlab.train(config, tmp_path / f"taught-{seed}", execution, quiet=True)

    write(other_copy(own), tmp_path / "other")
    assert student(1).finished
    assert "is not the one that the teacher" in capsys.readouterr().err
    with pytest.raises(UsageError, match="saw images that are held out"):
        student(2, split_seed=5)
    write(other_labels(own), tmp_path / "other")
    with pytest.raises(UsageError, match="trained on other data"):
        student(3)
