"""Faults that can happen to a run, and their outcomes: docs/reliability.md has the table.

Run by `make faults`. After each fault the run resumes to the same end, bit for bit, or one line
says what is damaged. A wrong number or a traceback fails the test.
"""

import dataclasses
import os
import random
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from harness import (
    CONFIG,
    EXECUTION,
    TINY,
    AtStep,
    ExitAt,
    assert_equal_runs,
    kill_everywhere,
    measured,
    problem,
    start,
    work,
)
from normlab.config import StudyConfig
from normlab.errors import DataError, NormlabError
from normlab.report.study_page import write_study_report
from normlab.runs.run import Run
from normlab.study.compare import compare
from normlab.training.loop import resume, train

FILES = (
    *("config.json", "metrics.jsonl", "model.safetensors", "report.html"),
    *("checkpoint.pt", "checkpoint-before.pt"),
)
DAMAGE = ("cut short", "a bit flipped", "emptied", "deleted")


# Killed at any moment


def seconds_of_a_run(tmp_path):
    begun = time.monotonic()
    process = start(tmp_path / "timed")
    process.join()
    assert process.exitcode == 0
    return time.monotonic() - begun


def test_a_run_killed_at_a_hundred_moments_ends_the_same(whole, tmp_path):
    """In a step, while a checkpoint is written, in the report: wherever the moment falls."""
    length = seconds_of_a_run(tmp_path)
    moments = random.Random(0)
    seen = set()
    for k in count():
        if k >= 100 and len(seen) >= 4:  # not begun, begun, two checkpoints, finished
            break
        out = tmp_path / str(k)
        process = start(out)
        time.sleep(moments.uniform(0, length))
        process.kill()
        process.join()
        state = sorted(path.name for path in out.glob("*.*")) if out.exists() else []
        seen.add(tuple(state))
        assert problem(out) is None, (k, state)
        assert_equal_runs(out, whole)
        assert (out / "report.html").exists()
        shutil.rmtree(out)


def test_a_run_killed_before_each_lasting_change_ends_the_same(tmp_path):
    """Before each sync and rename of a file, and each sync of its folder; page and figures too."""
    whole = tmp_path / "whole"
    work(whole, TINY)
    figures = {path.name for path in (whole / "figures").iterdir()}
    killed = []
    for out, call in kill_everywhere(tmp_path, TINY, ("fsync", "replace", "unlink")):
        killed.append(call)
        assert problem(out, TINY) is None, call
        assert_equal_runs(out, whole)
        assert (out / "report.html").read_text().rstrip().endswith("</html>")
        for name in figures:
            assert (out / "figures" / name).read_bytes() == (whole / "figures" / name).read_bytes()
        shutil.rmtree(out)
    for name in ("config.json", "model.safetensors", "report.html", "checkpoint.pt", *figures):
        assert {f"fsync {name}", f"replace {name}"} <= set(killed)
    assert "fsync metrics.jsonl" in killed
    # Not counted: checkpoint.pt to checkpoint-before.pt, just before the next rename.
    renamings = sum(call.startswith("replace") for call in killed) - 1
    assert killed.count("fsync folder") == renamings


def test_a_run_killed_again_and_again_ends_the_same(whole, tmp_path):
    out = tmp_path / "run"
    length = seconds_of_a_run(tmp_path)
    moments = random.Random(1)
    for _ in range(20):
        process = start(out)
        time.sleep(moments.uniform(0.1, 0.6) * length)
        process.kill()
        process.join()
    assert problem(out) is None
    assert_equal_runs(out, whole)


# Damaged files


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed in its third epoch."""
    out = tmp_path_factory.mktemp("faults") / "stopped"
    with pytest.raises(SystemExit):
        train(CONFIG, out, EXECUTION, callbacks=[ExitAt(2, 5)], quiet=True)
    return out


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_or_not_needed(whole, stopped, tmp_path, name, kind):
    """Ten places in each file, of a finished run and of a stopped one."""
    draw = random.Random(f"{name} {kind}")
    for source in (whole, stopped):
        if not (source / name).exists():
            continue
        for _ in range(10 if kind in ("cut short", "a bit flipped") else 1):
            out = tmp_path / "damaged"
            shutil.copytree(source, out)
            damage(out / name, kind, draw)
            message = problem(out, report=source == whole)
            if message is None:
                assert_equal_runs(out, whole)
                page = out / "report.html"
                assert not page.exists() or page.read_text().rstrip().endswith("</html>")
            else:
                assert name in message or str(out) in message
            shutil.rmtree(out)


STUDY = StudyConfig(
    network=TINY.network,
    norms=("bn", "ln"),
    seeds=1,
    dataset="digits",
    recipe="demo",
    epochs=1,
    train_images=(64,),
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study without faults, with its page."""
    study = compare(STUDY, tmp_path_factory.mktemp("faults") / "study", EXECUTION, quiet=True)
    write_study_report(study)
    return study


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize(
    "name",
    [
        *("study.json", "study.csv", "report.html", "runs/bn-0/answers.npz"),
        *("runs/bn-0/config.json", "runs/bn-0/metrics.jsonl", "runs/bn-0/model.safetensors"),
    ],
)
def test_a_damaged_file_of_a_study_is_named_or_written_again(study, tmp_path, name, kind):
    """Three places in each file."""
    draw = random.Random(f"{name} {kind}")
    for _ in range(3 if kind in ("cut short", "a bit flipped") else 1):
        out = tmp_path / "damaged"
        shutil.copytree(study.path, out)
        damage(out / name, kind, draw)
        try:
            again = compare(STUDY, out, EXECUTION, quiet=True)
            if name in ("report.html", "runs/bn-0/answers.npz"):  # the page and its source
                write_study_report(again)
        except NormlabError as error:
            assert re.fullmatch(rf".*({Path(name).name}|{re.escape(str(out))}).*", str(error))
        else:
            assert len((out / "study.csv").read_text().splitlines()) == 1 + len(study.results)
            assert (out / "report.html").read_text().rstrip().endswith("</html>")
            for result, expected in zip(again.results, study.results, strict=True):
                if result.state == "failed":
                    if (Path(name).name, kind) == ("model.safetensors", "deleted"):
                        message = "runs/bn-0 has no checkpoint.pt to resume from"
                        assert result.problem == message
                    else:
                        assert Path(name).name in result.problem
                    assert result.arm == "bn"
                else:
                    assert result == expected
        shutil.rmtree(out)


def damage(path, kind, draw):
    content = bytearray(path.read_bytes())
    match kind:
        case "cut short":
            del content[draw.randrange(len(content)) :]
        case "a bit flipped":
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        case "emptied":
            content.clear()
        case "deleted":
            path.unlink()
            return
    path.write_bytes(content)


# The disk


@contextmanager
def small_disk(folder, size):
    """Mounts a file system of a given size; skips the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root, and not everywhere, may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_reported_and_the_run_resumes_once_there_is_room(whole, tmp_path):
    page = 4096  # tmpfs allocates pages
    with small_disk(tmp_path / "disk", 500 * page) as disk:
        out, ballast = disk / "run", disk / "ballast"
        messages = []
        for pages in range(2, 40):  # from no room at all to room for all but the report
            shutil.rmtree(out, ignore_errors=True)
            ballast.write_bytes(bytes((498 - pages) * page))
            trouble = problem(out)
            ballast.unlink()
            if trouble is not None:
                messages.append(trouble)
                assert "No space left on device" in trouble
            assert problem(out) is None
            assert_equal_runs(out, whole)
        assert len({line.partition(" ")[0] for line in messages}) > 2  # different files


def test_a_read_only_folder_is_reported_and_nothing_is_lost(whole, stopped, tmp_path):
    with small_disk(tmp_path / "disk", 4_000_000) as disk:
        out = disk / "run"
        shutil.copytree(stopped, out)
        remount = ["mount", "-o", "remount,ro", str(disk)]
        subprocess.run(remount, check=True)
        assert "Read-only file system" in problem(out)
        subprocess.run([*remount[:2], "remount,rw", str(disk)], check=True)
        assert problem(out) is None
        assert_equal_runs(out, whole)


# The rest


def test_a_clock_that_goes_back_changes_nothing(whole, tmp_path, monkeypatch):
    clock = iter(range(2_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    assert problem(tmp_path / "run") is None
    assert_equal_runs(tmp_path / "run", whole)
    assert all(epoch.seconds > 0 for epoch in Run.open(tmp_path / "run").epochs)


def test_data_deleted_during_training_is_reported_once_it_is_needed(tmp_path, monkeypatch):
    for split in ("train", "test"):
        for label in ("dark", "light"):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for k in range(20):
                shade = 4 * k + (128 if label == "light" else 0)
                Image.new("RGB", (32, 32), (shade, shade, shade)).save(folder / f"{k}.png")

    def delete(state):
        shutil.rmtree(tmp_path / "pictures", ignore_errors=True)
        if (state.epoch, state.step) == (1, 1) and not (tmp_path / "again").exists():
            raise SystemExit

    config = dataclasses.replace(CONFIG, dataset=f"folder:{tmp_path / 'pictures'}", batch_size=8)
    shutil.copytree(tmp_path / "pictures", tmp_path / "kept")
    with pytest.raises(SystemExit):
        train(config, tmp_path / "run", EXECUTION, callbacks=[AtStep(delete)], quiet=True)
    with pytest.raises(DataError, match="pictures"):
        resume(tmp_path / "run", EXECUTION, quiet=True)
    (tmp_path / "again").touch()
    shutil.copytree(tmp_path / "kept", tmp_path / "pictures")
    # Deleted again while the run is resumed: by then the pictures are in memory.
    run = resume(tmp_path / "run", EXECUTION, callbacks=[AtStep(delete)], quiet=True)
    assert len(measured(run.path)) == CONFIG.epochs
    with pytest.raises(NormlabError, match="pictures"):
        work(tmp_path / "run")
