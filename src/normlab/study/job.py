"""One run of a study, in a process of its own: here, or anywhere that sees the folder.

    python -m normlab.study.job < JOB

reads a Job as one line of JSON. If its standard input ends, because the process that started it is
gone, the run stops after its step, to be resumed.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normlab.config import Execution, RunConfig
from normlab.errors import DivergedError, NormlabError, RunError, printable
from normlab.garbage import collect_rarely
from normlab.storage.files import locked
from normlab.storage.records import build
from normlab.study import predictions
from normlab.wording import spaced

if TYPE_CHECKING:
    from normlab.runs.run import Run

DIVERGED = 3  # exit code, in addition to the command line's

PATIENCE = 30  # seconds that runs may take to stop after their study was killed


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to execute.

    Attributes:
        config: The run's configuration.
        out: The run's folder.
        data: The folder where `data.shared` wrote the data set, with the run's splits.
        device: As in `Execution`.
        start: The folder in the study with the network that the run starts from, if any.
    """

    config: RunConfig
    out: Path
    data: Path
    device: str = "cpu"
    start: Path | None = None

    @property
    def done(self) -> bool:
        """Whether it is finished: predictions are written last. Weights may be left out later."""
        return (self.out / "answers.npz").exists()

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), default=str)  # paths as text

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """The inverse of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            config=build(RunConfig, content["config"]),
            out=Path(content["out"]),
            data=Path(content["data"]),
            device=content["device"],
            start=content["start"] and Path(content["start"]),
        )


def differences(before: object, now: object) -> list[str]:
    """The differences of two dataclasses of one type: `epochs was 2, is 3`."""

    def text(value: object) -> str:
        if isinstance(value, tuple):
            return " ".join(map(str, value)) or "none"
        return "not given" if value is None else repr(value)

    return [
        f"{spaced(field.name)} was {text(old)}, is {text(new)}"
        for field in dataclasses.fields(now)  # type: ignore[arg-type]
        if (old := getattr(before, field.name)) != (new := getattr(now, field.name))
    ]


def refuse_other_run(run: "Run", config: RunConfig) -> None:
    """Refuses a run that differs from a configuration, with today's recipes and layouts.

    Raises:
        RunError: With the differences.
    """
    from normlab import notation, recipes
    from normlab.network import zoo

    differing = differences(run.config, config) or differences(run.recipe, recipes.resolve(config))
    line = notation.format(notation.parse(zoo.find(config.network)))
    if run.layout != line:
        differing.append(f"layout was {run.layout!r}, is {line!r}")
    if differing:
        raise RunError(
            f"{run.path} holds another run: {'; '.join(differing)}. Delete it, or move it"
        )


def with_advice(error: NormlabError) -> str:
    """An error on one line, with advice for a study, which differs from advice for a run."""
    if isinstance(error, DivergedError):
        what, _, _ = str(error).partition(";")
        return f"{what}: a lower --learning-rate may train it, and --tune lr looks for one"
    return printable(str(error).partition("\n")[0])  # only a layout's error has more


def run_job(job: Job) -> None:
    """Trains or resumes a run, and writes its predictions.

    Raises:
        RunError: The folder holds another run.
        NormlabError: As in `train` and `resume`.
    """
    with locked(job.out, PATIENCE):  # an older task of a Ray cluster may still run
        _run_job(job)


def _run_job(job: Job) -> None:
    from normlab.data import shared
    from normlab.inference.evaluate import evaluate
    from normlab.network import zoo
    from normlab.own_code import import_module
    from normlab.runs import machine
    from normlab.runs.run import Run
    from normlab.runs.trust import custom_code
    from normlab.training.loop import resume, train

    if job.done:
        return
    for code in custom_code(job.config.norm, zoo.find(job.config.network)):
        import_module(code.module, code.name)  # the run's folder may name it then
    dataset = shared.read(job.data)
    execution = Execution(device=job.device, threads=1)  # type: ignore[arg-type]
    trains = True
    if (job.out / "config.json").exists():
        run = Run.open(job.out)
        trains = not run.finished
        refuse_other_run(run, job.config)
        if trains:
            run = resume(job.out, execution, dataset=dataset, quiet=True)
    else:
        start = None if job.start is None else Run.open(job.start)
        run = train(job.config, job.out, execution, dataset=dataset, start=start, quiet=True)
    device = machine.prepare(execution)
    evaluation = evaluate(run.network().to(device), dataset, run.split)
    memory = machine.peak_memory() if trains else 0  # evaluation alone takes less
    predictions.write(predictions.of(evaluation, memory), job.out / "answers.npz")


def main() -> None:
    """Runs the job on standard input; exits as the command line does, or with DIVERGED."""
    collect_rarely()
    job = Job.from_json(sys.stdin.readline())

    def stop_when_orphaned() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_orphaned, daemon=True).start()
    try:
        run_job(job)
    except NormlabError as error:
        print(with_advice(error), file=sys.stderr)
        sys.exit(DIVERGED if isinstance(error, DivergedError) else error.exit_code)


if __name__ == "__main__":
    main()
