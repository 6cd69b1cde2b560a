"""Variables of launchers: torchrun's, and what others leave in the environment."""

import sys

import pytest

from environments import TRAIN, assert_one_line, normlab

BAD = "C:12 Q c"


@pytest.mark.slow(1)
@pytest.mark.parametrize("rank", ["0", "3", "abc"])
def test_a_process_that_fails_says_why_and_which_it_is(rank, tmp_path):
    process = normlab("summary", BAD, cwd=tmp_path, RANK=rank)
    assert process.returncode == 2
    assert process.stderr.startswith(f"normlab: rank {rank}: unknown block 'Q'")


@pytest.mark.slow(1)
def test_without_a_launcher_there_is_no_rank(tmp_path):
    process = normlab("summary", BAD, cwd=tmp_path, RANK="")
    assert process.stderr.startswith("normlab: unknown block 'Q'")


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


@pytest.mark.slow(3)
@pytest.mark.parametrize("size", ["abc", "-1", "0", "1.5", "2"])
def test_what_is_no_launch_is_refused_in_one_line(size, tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, WORLD_SIZE=size)
    assert_one_line(process, 2)
    assert f"WORLD_SIZE='{size}' with RANK='' is no launch by torchrun" in process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow(3)
@pytest.mark.parametrize("rank", ["2", "-1", "x"])
def test_a_rank_beyond_the_number_of_processes_is_refused(rank, tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, WORLD_SIZE="2", RANK=rank)
    assert_one_line(process, 2)
    assert f"rank {rank}: WORLD_SIZE='2' with RANK='{rank}'" in process.stderr


@pytest.mark.slow(3)
def test_a_launch_without_an_address_is_refused_in_one_line(tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, WORLD_SIZE="2", RANK="0")
    assert_one_line(process, 2)
    assert "torchrun's processes cannot be connected" in process.stderr


@pytest.mark.slow(5)
@pytest.mark.parametrize(("size", "rank"), [("", ""), ("1", "0")])
def test_what_other_launchers_leave_changes_nothing(size, rank, tmp_path):
    variables = {
        "WORLD_SIZE": size,
        "RANK": rank,
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
