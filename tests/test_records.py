"""The page of records, and the command that makes it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import made_up

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "results/published-networks.csv"


def make(results, out):
    command = [sys.executable, ROOT / "benchmarks/records.py", "--results", results, "--out", out]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow(4)
def test_the_page_in_docs_is_what_the_command_makes_of_the_results(tmp_path):
    """If this fails, studies were added: make the page anew."""
    done = make(ROOT / "results", tmp_path / "records.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "records.md").read_text() == (ROOT / "docs/records.md").read_text()
    assert (tmp_path / "records.svg").read_text().startswith("<?xml")
    page = (tmp_path / "records.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `micro` | `bn` |"))
    of_micro = (
        "| `micro` | `bn` | 48,746 | 7,321,616 | 73,621 (88.12%) | 19 | 128 | 3 | 88.38 ± 0.09 | "
    )
    assert row == f"{of_micro}[micro](../results/micro/report.html) |"


@pytest.mark.slow(4)
def test_only_whole_trainings_measured_on_test_images_count(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    shutil.copy(PUBLISHED, results)
    common = {"norms": ("bn", "ln"), "seeds": 3, "trials": False, "dataset": "cifar10"}
    made_up.study(results / "whole", network="nano", **common)
    made_up.study(results / "fewer", network="line-5k", train_images=(1000,), **common)
    made_up.study(results / "held-out", network="line", holdout=500, **common)
    ghosts = common | {"norms": ("ghost-bn=2", "ghost-bn")}
    made_up.study(results / "ghosts", network="sprint", **ghosts)
    done = make(results, tmp_path / "records.md")
    assert done.returncode == 0, done.stderr
    ours, _, others = (tmp_path / "records.md").read_text().partition("## Published by others")
    rows = [line.split(" | ") for line in ours.splitlines() if line.startswith("| `")]
    assert [(row[0], row[1]) for row in rows] == [("| `nano`", "`bn`"), ("| `nano`", "`ln`")]
    assert others.count("<https://") == len(PUBLISHED.read_text().splitlines()) - 1


@pytest.mark.slow(2)
def test_a_folder_without_studies_is_refused(tmp_path):
    done = make(tmp_path, tmp_path / "records.md")
    assert done.returncode == 2
    assert "has no study of CIFAR-10 with finished runs" in done.stderr
    assert not (tmp_path / "records.md").exists()
