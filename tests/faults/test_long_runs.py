"""Long runs and long studies use no more memory, threads or files at their end than early on."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import CONFIG, held, start_watched
from normlab.runs.run import Run
from normlab.study.record import Study

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc says what a process holds")


# Narrow where the maps are large, wide where they are small: half a second per epoch, and a
# checkpoint (39,000 parameters with their momentum) large enough to be noticed if it leaked.
LONG = dataclasses.replace(CONFIG, network="C:4s2 P C:32 P C:128 GAP FC", epochs=200, batch_size=64)


def test_200_epochs_do_not_make_a_run_grow(tmp_path):
    """After 20 epochs all that a run needs is there.

    If it kept a checkpoint of each epoch (0.3 MB) it would grow by 58 MB from there on, with a
    batch of each (0.8 MB) by 140 MB. It grows by less than 1 MB: it keeps what it measured.
    """
    process = start_watched(tmp_path / "run", LONG, log=tmp_path / "held")
    process.join()
    assert process.exitcode == 0
    assert len(Run.open(tmp_path / "run").epochs) == 200
    epochs = json.loads((tmp_path / "held").read_text())
    for epoch in (1, 20, 100, 200):
        print(f"after {epoch} epochs: {epochs[epoch - 1]}")
    assert max(e["memory"] for e in epochs[20:]) < epochs[19]["memory"] + 10
    assert max(e["threads"] for e in epochs[20:]) == epochs[19]["threads"]
    assert max(e["open"] for e in epochs[20:]) == epochs[19]["open"]


RUNS = 200
WORKERS = min(4, os.cpu_count() or 1)

STUDY = f"""
from normlab import StudyConfig, compare
config = StudyConfig(
    network="C:4 GAP FC", norms=("bn", "ln"), seeds={RUNS // 2},
    dataset="digits", recipe="demo", epochs=1, train_images=(64,),
)
compare(config, "study", workers={WORKERS}, quiet=True)
"""


def test_a_study_of_200_runs_does_not_grow(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", STUDY], cwd=tmp_path)
    seen = {}  # number of finished runs: the most that was used then
    while process.poll() is None:
        done = len(list(tmp_path.glob("study/runs/*/answers.npz")))
        try:
            now = held(process.pid) | {"processes": len(children_of(process.pid))}
        except (OSError, KeyError):  # it has just ended
            break
        seen[done] = {name: max(now[name], seen.get(done, now)[name]) for name in now}
        time.sleep(0.1)
    assert process.wait() == 0
    for done in sorted(seen)[:: len(seen) // 10]:
        print(f"after {done} runs: {seen[done]}")
    study = Study.open(tmp_path / "study")
    assert [result.state for result in study.results] == ["done"] * RUNS
    early = [seen[done] for done in seen if RUNS // 20 <= done <= RUNS // 5]
    late = [seen[done] for done in seen if done > RUNS // 5]
    assert len(early) > 5
    assert len(late) > 5
    assert max(s["processes"] for s in (*early, *late)) <= WORKERS
    # A short-lived file may have been missed early. One leaked file per run would be 160.
    for name, more in (("open", 3), ("threads", 1), ("memory", 10)):
        assert max(s[name] for s in late) <= max(s[name] for s in early) + more


def children_of(process):
    """The child processes that still run or wait to be collected."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == process:
            children.append(int(path.parent.name))
    return children
