"""Variables of launchers: torchrun's, and what others leave in the environment."""

import sys

import pytest

from environments import TRAIN, assert_one_line, normlab

BAD = "C:12 Q c"


@pytest.mark.parametrize("rank", ["0", "3", "abc"])
def test_a_process_that_fails_says_why_and_which_it_is(rank, cli, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    code, _, errors = cli("summary", BAD)
    assert code == 2
    assert errors.startswith(f"normlab: rank {rank}: unknown block 'Q'")


def test_without_a_launcher_there_is_no_rank(cli, monkeypatch):
    monkeypatch.setenv("RANK", "")
    assert cli("summary", BAD)[2].startswith("normlab: unknown block 'Q'")


@pytest.mark.slow(10)
def test_a_rank_that_fails_alone_says_why(tmp_path):
    """Its working folder is the other's, its NORMLAB_DATA is not."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.argv[sys.argv.index('digits')] = 'folder:/nonexistent'\n"
        "from normlab.__main__ import main\n"
        "main()\n"
    )
    process = normlab(
        *("--nproc-per-node", "2", script, *TRAIN, "--out", tmp_path / "run"),
        cwd=tmp_path,
        command=[sys.executable, "-m", "torch.distributed.run"],
    )
    assert process.returncode != 0
    assert "normlab: rank 1: " in process.stderr
    assert "/nonexistent" in process.stderr


@pytest.mark.parametrize("size", ["abc", "-1", "0", "1.5", "2"])
def test_what_is_no_launch_is_refused_in_one_line(size, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    code, _, errors = cli(*TRAIN, "--out", tmp_path / "run")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"normlab: WORLD_SIZE='{size}' with RANK='' does not come from torchrun" in errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("rank", ["2", "-1", "x"])
def test_a_rank_beyond_the_number_of_processes_is_refused(rank, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    code, _, errors = cli(*TRAIN, "--out", tmp_path / "run")
    assert (code, errors.count("\n")) == (2, 1)
    assert f"normlab: rank {rank}: WORLD_SIZE='2' with RANK='{rank}'" in errors


@pytest.mark.slow(3)
def test_a_launch_without_an_address_is_refused_in_one_line(tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert_one_line(process, 2)
    assert "the processes of torchrun cannot be connected" in process.stderr


@pytest.mark.slow(5)
def test_what_other_launchers_leave_changes_nothing(tmp_path):
    variables = {
        "WORLD_SIZE": "1",
        "RANK": "0",
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "4",
        "PMI_RANK": "3",
        "OMPI_COMM_WORLD_RANK": "3",
        "MKL_NUM_THREADS": "",
        "KMP_AFFINITY": "nonsense",
        "GOMP_CPU_AFFINITY": "0-99",
    }
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, **variables)
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "run" / "report.html").exists()


def test_empty_variables_of_a_launcher_are_none(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "")
    monkeypatch.setenv("RANK", "")
    code, _, errors = cli(*TRAIN, "--dry-run", "--out", tmp_path / "run")
    assert (code, errors) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="torch has another OpenMP library")
@pytest.mark.slow(3)
@pytest.mark.parametrize(
    ("variables", "count"),
    [({}, "5000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, "0")],
)
def test_threads_that_wait_give_up_their_core_soon_unless_the_user_says_how(
    variables, count, tmp_path, monkeypatch
):
    """As libgomp itself reports it when it is loaded."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    process = normlab("summary", "line", cwd=tmp_path, OMP_DISPLAY_ENV="verbose", **variables)
    assert process.returncode == 0, process.stderr
    assert f"GOMP_SPINCOUNT = '{count}'" in process.stderr
