"""Ctrl-C at any moment gives one line and exit code 130, and no process is left running."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from itertools import count

import pytest

from harness import (
    TINY,
    TRAIN,
    assert_equal_runs,
    assert_interrupted,
    problem,
    processes_of,
    work,
)

# The command, with a line of output once it handles Ctrl-C itself.
MAIN = "print('begun', flush=True); from normlab.__main__ import main; main()"

COMPARE = (
    *("compare", TINY.network, "--dataset", "digits", "--recipe", "demo", "--epochs", "2"),
    *("--norms", "bn", "ln", "--seeds", "1", "--workers", "2", "--out"),
)


class Command:
    """A command in a process of its own, which knows all processes that it started."""

    def __init__(self, *arguments, **environment):
        self.mark = f"MARK={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment | {name: value},
        )
        assert self.process.stdout.readline() == "begun\n"

    def processes(self):
        return processes_of(self.mark)

    def interrupt(self):
        """Interrupts it; False if it had finished. Checks that no process is left running."""
        self.process.send_signal(signal.SIGINT)
        output, message = self.process.communicate()
        if self.process.returncode == -signal.SIGINT:  # Python was shutting down
            assert "report: " in output
            self.process.returncode = 0
        interrupted = assert_interrupted(self.process.returncode, message)
        end = time.monotonic() + 60
        while left := self.processes():
            assert time.monotonic() < end, left
            time.sleep(0.1)
        return interrupted


def seconds_of(*arguments):
    command = Command(*arguments)
    begun = time.monotonic()
    _, message = command.process.communicate()
    assert command.process.returncode == 0, message
    return time.monotonic() - begun


def test_training_interrupted_at_random_moments_ends_the_same(tmp_path):
    """During imports, in a step, while a file is written, while the page is made."""
    whole = tmp_path / "whole"
    length = seconds_of(*TRAIN, whole)
    moments = random.Random(0)
    interrupted = 0
    for k in count():
        if interrupted == 12:  # the others had finished before
            break
        out = tmp_path / str(k)
        command = Command(*TRAIN, out)
        time.sleep(moments.uniform(0, length))
        interrupted += command.interrupt()
        assert problem(out, TINY) is None
        assert_equal_runs(out, whole)


def test_an_interrupt_during_compilation_leaves_nothing_behind(tmp_path):
    work(tmp_path / "whole", TINY)
    command = Command(*TRAIN, tmp_path / "run", XDG_CACHE_HOME=str(tmp_path / "cache"))
    while not any((tmp_path / "cache" / "normlab").glob("building-*")):  # while the compiler runs
        if command.process.poll() is not None:
            pytest.skip("there is no gcc here")
        time.sleep(0.01)
    assert command.interrupt()
    assert not list((tmp_path / "cache" / "normlab").iterdir())
    assert problem(tmp_path / "run", TINY) is None
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


def results(out):
    """study.json without the parts that depend on the clock."""
    content = json.loads((out / "study.json").read_text())
    return {key: value for key, value in content.items() if key != "costs"}


def test_a_study_interrupted_at_any_moment_ends_the_same(tmp_path):
    whole = tmp_path / "whole"
    length = seconds_of(*COMPARE, whole)
    moments = random.Random(0)
    interrupted = 0
    for k in count():
        if interrupted == 3:
            break
        out = tmp_path / str(k)
        command = Command(*COMPARE, out)
        time.sleep(moments.uniform(0, length))
        interrupted += command.interrupt()
        seconds_of(*COMPARE, out)
        assert results(out) == results(whole)
