"""Environments that broke other tools, tried on a small run."""

import os
import resource
import signal
import sys
from functools import partial
from pathlib import Path

import pytest

import normlab as normlab_package
from environments import COMPARE, NETWORK, TRAIN, assert_one_line, normlab
from normlab.network.checks import MAX_PARAMETERS
from normlab.runs.checkpoint import LARGEST
from normlab.runs.run import Run

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
OPTIMIZED = (sys.executable, "-OO", "-P", "-m", "normlab")
TREE = Path(normlab_package.__file__).parents[1]  # -I ignores PYTHONPATH, which may name it
RUN = "import runpy; runpy.run_module('normlab', run_name='__main__')"
ISOLATED = (sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(TREE)!r}); {RUN}")


def limit(kind, value):
    """Limits what a process may use."""
    return partial(resource.setrlimit, kind, (value, value))


def train(folder, **options):
    """Trains, without a word on the standard error."""
    process = normlab(*TRAIN, "--out", "run", cwd=folder, **options)
    assert (process.returncode, process.stderr) == (0, ""), process.stdout
    assert Run.open(folder / "run").finished
    assert (folder / "run" / "report.html").exists()


@pytest.mark.slow(5)
def test_a_run_trains_with_unusual_variables(tmp_path):
    train(
        tmp_path,
        PYTHONWARNINGS="error",
        PYTHONIOENCODING="ascii:strict",
        PYTHONPYCACHEPREFIX="/nonexistent",
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


@pytest.mark.slow(5)
def test_a_run_trains_without_unicode_in_a_terminal_of_one_column(tmp_path):
    train(tmp_path, TERM="dumb", COLUMNS="1", LINES="1", FORCE_COLOR="1", **ASCII)


@pytest.mark.slow(5)
@pytest.mark.parametrize("command", [OPTIMIZED, ISOLATED], ids=["-OO", "-I"])
def test_a_run_trains_in_an_unusual_python(command, tmp_path):
    train(tmp_path, command=command)
    process = normlab("train", "--help", cwd=tmp_path, command=command)
    assert process.returncode == 0
    assert "--learning-rate" in process.stdout


def unusual_process():
    """Few files, little memory, and signals as some parents leave them."""
    limit(resource.RLIMIT_NOFILE, 40)()
    limit(resource.RLIMIT_AS, 4 << 30)()
    os.umask(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


@pytest.mark.slow(5)
@pytest.mark.parametrize("before", [unusual_process, partial(os.umask, 0o077)])
def test_a_run_trains_in_an_unusual_process(before, tmp_path):
    train(tmp_path, before=before)


@pytest.mark.slow(8)
def test_so_does_a_study(tmp_path):
    process = normlab(*COMPARE, "--out", "study", cwd=tmp_path, before=unusual_process)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.slow(5)
def test_a_device_that_does_not_exist_is_not_chosen(tmp_path):
    command = [*TRAIN, "--out", "run"]
    command[command.index("--device") + 1] = "auto"
    process = normlab(*command, cwd=tmp_path, CUDA_VISIBLE_DEVICES="nonsense")
    assert (process.returncode, process.stderr) == (0, "")
    assert Run.open(tmp_path / "run").machines[0].device == "cpu"


@pytest.mark.slow(3)
def test_files_that_may_not_grow_are_one_line(tmp_path):
    before = limit(resource.RLIMIT_FSIZE, 3_000)
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, before=before)
    assert_one_line(process)
    assert "checkpoint.pt cannot be written: File too large" in process.stderr


@pytest.mark.slow(3)
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


@pytest.mark.slow(1)
def test_a_working_folder_that_was_deleted_is_one_line(tmp_path):
    for command in ((sys.executable, "-m", "normlab"), OPTIMIZED):
        process = normlab(
            *("-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh", *command, "zoo"),
            cwd=tmp_path,
            command=("sh",),
        )
        assert_one_line(process)
        assert "the working folder was deleted" in process.stderr


@pytest.mark.slow(3)
def test_names_that_are_long_or_not_plain(tmp_path):
    for name in ("x" * 230, "a b\n cé"):
        process = normlab("data", "--dataset", "digits", "--out", f"{name}.html", cwd=tmp_path)
        assert (process.returncode, process.stderr) == (0, "")
        assert (tmp_path / f"{name}.html").exists()
    process = normlab(*TRAIN, "--out", "x" * 300, cwd=tmp_path)
    assert_one_line(process)
    assert "File name too long" in process.stderr


@pytest.mark.slow(1)
@pytest.mark.parametrize("columns", ["0", "-5", "abc", "1"])
def test_a_width_that_is_none(columns, tmp_path):
    process = normlab("summary", NETWORK, cwd=tmp_path, COLUMNS=columns)
    assert (process.returncode, process.stderr) == (0, "")
    assert "318" in process.stdout


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
