"""Runs killed, interrupted or started twice, in real processes. `make faults` does more."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from harness import (
    EXECUTION,
    TINY,
    TRAIN,
    assert_equal_runs,
    assert_interrupted,
    kill_everywhere,
    problem,
    start,
    start_command,
    wait_until_it_stands_still,
)
from normlab.errors import RunError
from normlab.training.loop import resume, train

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process does")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run without faults."""
    return train(TINY, tmp_path_factory.mktemp("stopping") / "whole", EXECUTION, quiet=True).path


@pytest.mark.slow(5)
def test_a_run_killed_before_each_rename_and_removal_ends_the_same(tiny, tmp_path):
    """There is a checkpoint until the weights are written, and none is left afterwards."""
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


def test_an_interrupt_within_a_python_callback_is_not_lost():
    """Python swallows what a callback raises. Other errors are reported as usual."""
    code = """if True:
        import signal, time, normlab.__main__
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
        class Raises:
            def __init__(self, kind): self.kind = kind
            def __del__(self): raise self.kind("lost")
        try:
            Raises(ValueError)
            Raises(KeyboardInterrupt)
            time.sleep(60)
        except KeyboardInterrupt:
            print("heard")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n")
    assert "ValueError: lost" in done.stderr
    assert "KeyboardInterrupt" not in done.stderr


def test_a_second_process_in_the_folder_is_refused_and_changes_nothing(tiny, tmp_path):
    out = tmp_path / "run"
    process = start(out, TINY, report=False, halt=(0, 2))
    wait_until_it_stands_still(process)
    try:
        before = {path.name: path.read_bytes() for path in out.iterdir()}
        with pytest.raises(
            RunError, match=r"^another process is working in [^\n]*: wait until it ends$"
        ):
            resume(out, EXECUTION, quiet=True)
        with pytest.raises(RunError, match=r"^[^\n]* holds a run that can be resumed: [^\n]*$"):
            train(TINY, out, EXECUTION, quiet=True)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    finally:
        os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0
    assert_equal_runs(out, tiny)


@pytest.mark.slow(15)
def test_a_run_interrupted_at_any_moment_says_so_in_one_line_and_ends_the_same(tiny, tmp_path):
    """In a step, while a file is written, in the page: wherever the moment falls."""
    begun = time.monotonic()
    process = start_command(tmp_path / "log", *TRAIN, str(tmp_path / "timed"))
    process.join()
    length = time.monotonic() - begun
    assert process.exitcode == 0
    draw = random.Random(0)
    interrupted = []
    for k, moment in enumerate((0, draw.uniform(0, length), draw.uniform(0, length))):
        out, log = tmp_path / f"run {k}", tmp_path / f"log {k}"
        process = start_command(log, *TRAIN, str(out))
        time.sleep(moment)
        with contextlib.suppress(ProcessLookupError):  # it had finished
            os.kill(process.pid, signal.SIGINT)
        process.join()
        interrupted.append(assert_interrupted(process.exitcode, log.read_text()))
        assert problem(out, TINY, report=False) is None
        assert_equal_runs(out, tiny)
    assert interrupted[0]
