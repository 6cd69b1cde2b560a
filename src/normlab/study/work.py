"""One run of a study, carried out in a process of its own: here, or anywhere that sees the folder.

    python -m normlab.study.work < WORK

reads a Work as JSON in one line. When its standard input ends, because the process that gave the
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
from typing import Any

from normlab.config import Execution, RunConfig
from normlab.errors import DivergedError, NormlabError, RunError
from normlab.files import locked
from normlab.study import answers

DIVERGED = 3  # exit code, beside the command line's


PATIENCE = 30  # seconds: as long as runs may take to stop whose study was killed


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run to be carried out.

    Attributes:
        config: Of the run.
        out: Its folder.
        data: Where `data.shared` wrote the data set, divided as the run wants it.
        device: As `Execution` takes it.
        threads: torch's CPU threads; None for torch's choice.
    """

    config: RunConfig
    out: Path
    data: Path
    device: str = "cpu"
    threads: int | None = 1

    @property
    def done(self) -> bool:
        """Whether the run and its answers are there."""
        return all((self.out / name).exists() for name in ("model.safetensors", "answers.npz"))

    def to_json(self) -> str:
        """In one line."""
        content = dataclasses.asdict(self)
        return json.dumps(content | {"out": str(self.out), "data": str(self.data)})

    @classmethod
    def from_json(cls, text: str) -> "Work":
        """From what `to_json` gives."""
        content: dict[str, Any] = json.loads(text)
        return cls(
            config=RunConfig(**content["config"]),
            out=Path(content["out"]),
            data=Path(content["data"]),
            device=content["device"],
            threads=content["threads"],
        )


def carry_out(work: Work) -> None:
    """Trains a run, or goes on with it, and writes its answers.

    Raises:
        RunError: The folder holds another run.
        NormlabError: As `train` and `resume` do.
    """
    with locked(work.out, PATIENCE):  # an older task of a Ray cluster may still be at it
        _carry_out(work)


def _carry_out(work: Work) -> None:
    from normlab import machine, norms, zoo
    from normlab.data import shared
    from normlab.evaluation import evaluate
    from normlab.run import Run, own_normalizations
    from normlab.training import resume, train

    if work.done:
        return
    for name in own_normalizations(work.config.norm, zoo.find(work.config.network)):
        norms.find(name)  # imported, so that a run's folder may name it
    dataset = shared.read(work.data)
    execution = Execution(device=work.device, threads=work.threads)  # type: ignore[arg-type]
    trains = True
    if (work.out / "config.json").exists():
        run = Run.open(work.out)
        trains = not run.finished
        if run.config != work.config:
            raise RunError(f"{work.out} holds a run with other settings: delete it, or move it")
        if trains:
            run = resume(work.out, execution, dataset=dataset, quiet=True)
    else:
        run = train(work.config, work.out, execution, dataset=dataset, quiet=True)
    device = machine.prepare(execution)
    evaluation = evaluate(run.network().to(device), dataset, run.split)
    memory = machine.peak_memory() if trains else 0  # of evaluation alone it would mislead
    answers.write(answers.of(evaluation, memory), work.out / "answers.npz")


def main() -> None:
    """Carries out the work on standard input; exits as the command line does, or with DIVERGED."""
    work = Work.from_json(sys.stdin.readline())

    def stop_when_left_alone() -> None:
        sys.stdin.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_left_alone, daemon=True).start()
    try:
        carry_out(work)
    except NormlabError as error:
        print(str(error).partition("\n")[0], file=sys.stderr)  # the others are of a layout
        sys.exit(DIVERGED if isinstance(error, DivergedError) else error.exit_code)


if __name__ == "__main__":
    main()
