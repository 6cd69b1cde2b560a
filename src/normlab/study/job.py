"""One run of a study, carried out in a process of its own: here, or anywhere that sees the folder.

    python -m normlab.study.job < WORK

reads a Job as JSON in one line. When its standard input ends, because the process that gave the
work is gone, the run stops after its step, to be resumed.
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
from normlab.errors import DivergedError, NormlabError, RunError
from normlab.storage.files import locked
from normlab.study import predictions

if TYPE_CHECKING:
    from normlab.runs.run import Run

DIVERGED = 3  # exit code, beside the command line's

PATIENCE = 30  # seconds: as long as runs may take to stop whose study was killed


@dataclass(frozen=True, kw_only=True)
class Job:
    """A run to be carried out.

    Attributes:
        config: Of the run.
        out: Its folder.
        data: Where `data.shared` wrote the data set, divided as the run wants it.
        device: As `Execution` takes it.
    """

    config: RunConfig
    out: Path
    data: Path
    device: str = "cpu"

    @property
    def done(self) -> bool:
        """Whether the run and its answers are there."""
        return all((self.out / name).exists() for name in ("model.safetensors", "answers.npz"))

    def to_json(self) -> str:
        """In one line."""
        content = dataclasses.asdict(self)
        return json.dumps(content | {"out": str(self.out), "data": str(self.data)})

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """From what `to_json` gives."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            config=RunConfig(**content["config"]),
            out=Path(content["out"]),
            data=Path(content["data"]),
            device=content["device"],
        )


def differences(before: object, now: object) -> list[str]:
    """In what two dataclasses of a kind differ: `epochs was 2, is 3`."""
    return [
        f"{field.name.replace('_', ' ')} was {old!r}, is {new!r}"
        for field in dataclasses.fields(now)  # type: ignore[arg-type]
        if (old := getattr(before, field.name)) != (new := getattr(now, field.name))
    ]


def refuse_other(run: "Run", config: RunConfig) -> None:
    """Refuses a run that is not what a configuration comes to by today's recipes and layouts.

    Raises:
        RunError: With what differs.
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


def in_a_line(error: NormlabError) -> str:
    """An error in a line, as a study's runs have it: other advice than a run alone gets."""
    if isinstance(error, DivergedError):
        what, _, _ = str(error).partition(";")
        return f"{what}: a lower --learning-rate may train it, and --tune lr looks for one"
    return str(error).partition("\n")[0]  # the others are of a layout


def run_job(job: Job) -> None:
    """Trains a run, or goes on with it, and writes its answers.

    Raises:
        RunError: The folder holds another run.
        NormlabError: As `train` and `resume` do.
    """
    with locked(job.out, PATIENCE):  # an older task of a Ray cluster may still be at it
        _run_job(job)


def _run_job(job: Job) -> None:
    from normlab.data import shared
    from normlab.inference.evaluate import evaluate
    from normlab.layers import norms
    from normlab.network import zoo
    from normlab.runs import machine
    from normlab.runs.run import Run, custom_normalizations
    from normlab.training.loop import resume, train

    if job.done:
        return
    for name in custom_normalizations(job.config.norm, zoo.find(job.config.network)):
        norms.find(name)  # imported, so that a run's folder may name it
    dataset = shared.read(job.data)
    execution = Execution(device=job.device, threads=1)  # type: ignore[arg-type]
    trains = True
    if (job.out / "config.json").exists():
        run = Run.open(job.out)
        trains = not run.finished
        refuse_other(run, job.config)
        if trains:
            run = resume(job.out, execution, dataset=dataset, quiet=True)
    else:
        run = train(job.config, job.out, execution, dataset=dataset, quiet=True)
    device = machine.prepare(execution)
    evaluation = evaluate(run.network().to(device), dataset, run.split)
    memory = machine.peak_memory() if trains else 0  # of evaluation alone it would mislead
    predictions.write(predictions.of(evaluation, memory), job.out / "answers.npz")


def main() -> None:
    """Carries out the work on standard input; exits as the command line does, or with DIVERGED."""
    job = Job.from_json(sys.stdin.readline())

    def stop_when_left_alone() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_left_alone, daemon=True).start()
    try:
        run_job(job)
    except NormlabError as error:
        print(in_a_line(error), file=sys.stderr)
        sys.exit(DIVERGED if isinstance(error, DivergedError) else error.exit_code)


if __name__ == "__main__":
    main()
