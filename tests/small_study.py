"""A small study on the embedded digits, and the part of its record that is reproducible."""

import json

from normlab.config import StudyConfig
from normlab.errors import DivergedError, NormlabError
from normlab.study.job import run_job, with_advice
from normlab.study.local import Outcome, Progress

LINE = "C:4 P C:6 P GAP FC"
CONFIG = StudyConfig(
    network=LINE,
    norms=("bn", "ln"),
    seeds=2,
    dataset="digits",
    recipe="demo",
    epochs=2,
    batch_sizes=(32,),
)


def run_here(jobs, workers, keep_open=None):
    """Like `local.run_jobs`, but in this process: starting a process per job takes seconds."""
    for job in jobs:
        try:
            run_job(job)
        except NormlabError as error:
            outcome = Outcome(with_advice(error), isinstance(error, DivergedError))
        else:
            outcome = Outcome()
        yield Progress((), {job: outcome})


def content(path):
    """study.json without the costs, which depend on the clock."""
    read = json.loads((path / "study.json").read_text())
    return {key: value for key, value in read.items() if key != "costs"}
