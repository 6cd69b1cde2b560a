"""Environments that broke other tools, tried on a small run."""

import os
import resource
import sys
from functools import partial
from pathlib import Path

import pytest

import normlab as normlab_package
from environments import NETWORK, TRAIN, assert_one_line, limit, normlab, unusual_process
from normlab.network.checks import MAX_PARAMETERS
from normlab.runs.checkpoint import LARGEST
from normlab.runs.run import Run

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OPTIMIZED = (sys.executable, "-OO", "-P", "-m", "normlab")
TREE = Path(normlab_package.__file__).parents[1]  # -I ignores PYTHONPATH, which may name it
RUN = "import runpy; runpy.run_module('normlab', run_name='__main__')"
ISOLATED = (sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(TREE)!r}); {RUN}")


def train(folder, *arguments, **options):
    """Trains, without a word on the standard error."""
    process = normlab(*TRAIN, *arguments, "--out", "run", cwd=folder, **options)
    assert (process.returncode, process.stderr) == (0, ""), process.stdout
    run = Run.open(folder / "run")
    assert run.finished
    assert (folder / "run" / "report.html").exists()
    return run


@pytest.mark.slow(5)
def test_a_run_trains_with_unusual_variables_and_without_a_device_that_does_not_exist(tmp_path):
    run = train(
        tmp_path,
        *("--device", "auto"),
        PYTHONWARNINGS="error",
        PYTHONIOENCODING="ascii:strict",
        TMPDIR="/nonexistent",
        OMP_NUM_THREADS="1000000",
        MKL_THREADING_LAYER="nonsense",
        ALL_PROXY="socks5://127.0.0.1:1",
        HTTPS_PROXY="::::",
        NO_PROXY="[",
        TZ="nonsense/zone",
        LC_NUMERIC="de_DE.UTF-8",
        CUDA_VISIBLE_DEVICES="nonsense",
    )
    assert run.machines[0].device == "cpu"


@pytest.mark.slow(8)
@pytest.mark.parametrize(
    ("command", "unusual"),
    [
        (OPTIMIZED, {"PYTHONPYCACHEPREFIX": "/nonexistent"}),
        (ISOLATED, {"before": partial(os.umask, 0o077)}),
    ],
    ids=["-OO", "-I"],
)
def test_a_run_trains_in_an_unusual_python(command, unusual, tmp_path):
    train(tmp_path, command=command, **unusual)
    process = normlab("train", "--help", cwd=tmp_path, command=command)
    assert process.returncode == 0
    assert "--learning-rate" in process.stdout


@pytest.mark.slow(8)
def test_a_run_trains_in_an_unusual_process_without_unicode_in_one_column(tmp_path):
    terminal = {"TERM": "dumb", "COLUMNS": "1", "LINES": "1", "FORCE_COLOR": "1"}
    train(tmp_path, before=unusual_process, **terminal, **ASCII)


@pytest.mark.slow(3)
def test_files_that_may_not_grow_are_one_line(tmp_path):
    before = limit(resource.RLIMIT_FSIZE, 3_000)
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, before=before)
    assert_one_line(process)
    assert "checkpoint.pt cannot be written: File too large" in process.stderr


@pytest.mark.slow(14)
def test_too_little_memory_is_one_line(tmp_path):
    before = limit(resource.RLIMIT_AS, 4 << 30)
    network = "C:4096 C:4096 C:4096 GAP FC"  # a gigabyte for its weights, as much for gradients
    process = normlab(
        *("train", network, "--dataset", "digits", "--recipe", "demo", "--threads", "1"),
        *("--device", "cpu", "--out", "run"),
        cwd=tmp_path,
        before=before,
    )
    assert_one_line(process)
    assert "there is too little memory" in process.stderr


def test_a_working_folder_that_was_deleted_is_one_line(tmp_path):
    for command in ((sys.executable, "-m", "normlab"), OPTIMIZED):
        process = normlab(
            *("-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", *command, "zoo"),
            cwd=tmp_path,
            command=("sh",),
        )
        assert_one_line(process)
        assert "the working folder was deleted" in process.stderr


def test_names_that_are_long_or_not_plain(tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x" * 230, "a b\n cé"):
        code, _, errors = cli("data", "--dataset", "digits", "--out", f"{name}.html")
        assert (code, errors) == (0, "")
        assert (tmp_path / f"{name}.html").exists()
    code, _, errors = cli(*TRAIN, "--out", "x" * 300)
    assert (code, errors.count("\n")) == (1, 1)
    assert "File name too long" in errors


@pytest.mark.parametrize("columns", ["0", "-5", "abc", "1"])
def test_a_width_that_is_none(columns, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code, output, errors = cli("summary", NETWORK)
    assert (code, errors) == (0, "")
    assert "318" in output


@pytest.mark.slow(2)
def test_a_network_whose_checkpoints_could_not_be_read_is_refused_before_it_takes_memory(tmp_path):
    wide = " ".join(["C:4096"] * 5)
    arguments = [f"{wide} P GAP FC" if each == NETWORK else each for each in TRAIN]
    before = limit(resource.RLIMIT_AS, 4 << 30)  # its weights alone take 2.3 GiB
    process = normlab(*arguments, "--out", "run", cwd=tmp_path, before=before)
    assert_one_line(process, 2)
    assert "at most 500,000,000 can be trained" in process.stderr
    assert not (tmp_path / "run").exists()
    assert 8 * MAX_PARAMETERS < LARGEST - 2**20  # a weight and its momentum, in float32
