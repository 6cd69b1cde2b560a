"""The progress display of a study, in a terminal and in a pipe."""

import io

import pytest
from rich.console import Console

from made_up import epochs, run
from normlab.config import RunConfig
from normlab.study.display import StudyDisplay
from normlab.study.job import Job
from normlab.study.local import Outcome, Progress


@pytest.fixture
def jobs(tmp_path):
    """Twelve runs of 20 epochs: four ended, two running, six waiting."""
    names = [f"bn-{seed}" for seed in range(12)]
    created = [
        Job(config=RunConfig(network="nano"), out=tmp_path / name, data=tmp_path) for name in names
    ]
    for k, job in enumerate(created[:6]):
        job.out.mkdir()
        count = 20 if k < 4 else 5
        run(job.out, curve=epochs([0.7 + 0.001 * k] * count)).write_metrics()
    return created


def shown(jobs, terminal):
    """The output to a terminal or a pipe after three reports."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, height=40)
    seconds = dict.fromkeys(jobs, 1060.0)
    display = StudyDisplay(console, dict.fromkeys(jobs, 20), seconds, images=10_000)
    with display:
        display.update(Progress(tuple(jobs[:4])))
        ended = {job: Outcome() for job in jobs[:3]}
        display.update(Progress(tuple(jobs[3:5]), ended | {jobs[3]: Outcome("no space")}))
        display.update(Progress(tuple(jobs[4:6])))
        display.live.refresh()
        return file.getvalue()


def test_the_live_table_shows_state_epoch_accuracy_and_time_left(jobs):
    caption = "3 done, 1 failed, 2 running, 6 waiting; about 71 min left"
    last = shown(jobs, True).rpartition(caption)[2]  # a thread draws the table, too, at any time
    lines = [" ".join(line.split()) for line in last.splitlines()]
    rows = [line for line in lines if line.startswith("bn-") or " more " in line]
    assert rows == [
        "1 more ended",
        "bn-1 done 20/20 70.10% –",
        "bn-2 done 20/20 70.20% –",
        "bn-3 failed 20/20 70.30% –",
        "bn-4 running 5/20 70.40% 18 min",
        "bn-5 running 5/20 70.50% 18 min",
        "bn-6 waiting 0/20 – 18 min",
        "bn-7 waiting 0/20 – 18 min",
        "bn-8 waiting 0/20 – 18 min",
        "3 more waiting",
    ]


def test_an_ended_run_keeps_its_row_without_its_file(jobs):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    seconds = dict.fromkeys(jobs, 1060.0)
    with StudyDisplay(console, dict.fromkeys(jobs, 20), seconds, images=10_000) as display:
        display.update(Progress((jobs[4],), {jobs[0]: Outcome()}))
        for job in (jobs[0], jobs[4]):
            (job.out / "metrics.jsonl").unlink()
        console.file.truncate(0)
        display.update(Progress((jobs[4],)))
        display.live.refresh()
        lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "bn-0 done 20/20 70.00% –" in lines
    assert [line for line in lines if line.startswith("bn-4 running 0/20")]


def test_a_pipe_gets_no_live_table(jobs):
    assert "waiting" not in shown(jobs, False)


def test_a_run_that_ended_gets_one_line(jobs):
    console = Console(file=io.StringIO(), width=100)
    with StudyDisplay(console, {jobs[0]: 20}, {jobs[0]: 9.0}, images=10_000) as display:
        display.update(Progress((), {jobs[0]: Outcome()}))
    assert console.file.getvalue() == "[1/1] bn-0  test accuracy 70.00%  1060 s\n"
