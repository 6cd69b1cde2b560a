"""Runs that are killed, in real processes. `make faults` does more."""

import sys

import pytest

from harness import (
    EXECUTION,
    TINY,
    assert_equal_runs,
    kill_everywhere,
    problem,
)
from normlab.training import train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process does")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The run that nothing disturbs."""
    return train(TINY, tmp_path_factory.mktemp("stopping") / "whole", EXECUTION, quiet=True).path


def test_killed_before_each_renaming_and_removal_it_ends_the_same(tiny, tmp_path):
    """Until the weights are there, a checkpoint is; and none stays."""
    killed = []
    for out, call in kill_everywhere(tmp_path, TINY, ("replace", "unlink"), report=False):
        killed.append(call)
        assert problem(out, TINY, report=False) is None, call
        assert_equal_runs(out, tiny)
        assert {path.name for path in out.iterdir()} == {path.name for path in tiny.iterdir()}
    assert killed == [
        *("replace checkpoint.pt", "replace config.json", "replace metrics.jsonl"),
        *("replace checkpoint-before.pt", "replace checkpoint.pt", "replace model.safetensors"),
        *("unlink checkpoint.pt", "unlink checkpoint-before.pt"),
    ]
