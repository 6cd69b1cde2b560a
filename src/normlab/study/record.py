"""A study's folder: what was compared (study.json), a row a run (study.csv), the runs themselves.

study.json    what was asked for, the arms, the trials of the search, what each run measured; all
              that depends on the clock or the machine is under `costs`
study.csv     a row a run
runs/         a folder a run, named ARM-SEED
tuning/       a folder a trial of the search
report.html   and figures/, its figures as PNG
"""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

from normlab.config import RunConfig, StudyConfig
from normlab.errors import RunError
from normlab.recipes import Recipe
from normlab.runs.run import Run
from normlab.storage.checksums import add_checksum, read_json, verify_checksum
from normlab.storage.files import write_atomically
from normlab.storage.records import MalformedError, build, entry
from normlab.study import predictions
from normlab.study.job import refuse_other
from normlab.study.plan import Arm, Setting
from normlab.study.tuning import Trial

SCHEMA = 3
State = Literal["waiting", "stopped", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run of a study.

    Attributes:
        arm: Its arm's name.
        seed: Its seed.
        state: `stopped`: it can go on.
        problem: Why it failed; empty where it did not.
        accuracies: After each epoch, shares from 0 to 1.
        parameters: What the network learns; 0 while it is not known.
    """

    arm: str
    seed: int
    state: State = "waiting"
    problem: str = ""
    accuracies: tuple[float, ...] = ()
    parameters: int = 0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a run cost. It differs from machine to machine and from time to time.

    Attributes:
        seconds: Training and evaluation, in all.
        peak_memory: Of its process, in bytes; 0 where it is not known.
    """

    seconds: float
    peak_memory: int


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, read from its folder by `Study.open`.

    Attributes:
        path: The folder.
        config: What was asked for.
        arms: What is repeated with every seed, settings in force.
        images: On how many images accuracy is measured.
        fingerprint: Of the data set.
        trials: Of the search for settings.
        results: By arm and seed, in order.
        costs: By the run's folder.
    """

    path: Path
    config: StudyConfig
    arms: tuple[Arm, ...]
    images: int
    fingerprint: str
    trials: tuple[Trial, ...] = ()
    results: tuple[Result, ...] = ()
    costs: dict[str, Costs] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str) -> "Study":
        """Reads a study's folder.

        Raises:
            RunError: It is no study's folder, it is damaged, or a newer normlab wrote it.
        """
        path = Path(path)
        file = path / "study.json"
        content = read_json(file, SCHEMA, "study")
        try:
            costs = verify_checksum(entry(content, "costs", dict))
            del content["costs"]
            content = verify_checksum(content)
            return cls(
                path=path,
                config=build(StudyConfig, entry(content, "study", dict)),
                arms=tuple(map(_arm, entry(content, "arms", list))),
                images=entry(content, "images", int),
                fingerprint=entry(content, "fingerprint", str),
                trials=tuple(build(Trial, trial) for trial in entry(content, "trials", list)),
                results=tuple(build(Result, result) for result in entry(content, "results", list)),
                costs={name: build(Costs, cost) for name, cost in costs.items()},
            )
        except MalformedError as error:
            raise RunError(f"{file} is damaged: {error}") from None

    def write(self) -> None:
        """Writes study.json and study.csv."""
        content = add_checksum(
            {
                "schema": SCHEMA,
                "study": self.config.to_dict(),
                "arms": [_to_dict(arm) for arm in self.arms],
                "images": self.images,
                "fingerprint": self.fingerprint,
                "trials": [dataclasses.asdict(trial) for trial in self.trials],
                "results": [dataclasses.asdict(result) for result in self.results],
            }
        )
        # Apart, so that the rest of two equal studies is equal, checksum included.
        costs = add_checksum({name: dataclasses.asdict(cost) for name, cost in self.costs.items()})
        text = json.dumps(content | {"costs": costs}, indent=1)
        write_atomically(self.path / "study.json", text + "\n")
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(self._rows())
        write_atomically(self.path / "study.csv", file.getvalue())

    def arm(self, name: str) -> Arm:
        """The arm of a name."""
        return next(arm for arm in self.arms if arm.name == name)

    def folder(self, result: Result) -> Path:
        """The run's folder."""
        return self.path / "runs" / f"{result.arm}-{result.seed}"

    def of(self, arm: Arm) -> list[Result]:
        """The finished runs of an arm, by seed."""
        return [r for r in self.results if r.arm == arm.name and r.state == "done"]

    def failed(self, result: Result, problem: str) -> Result:
        """The same run, had it failed; a folder may be moved, so paths begin in the study's."""
        said = problem.replace(f"{self.path}{os.sep}", "")
        return Result(arm=result.arm, seed=result.seed, state="failed", problem=said)

    def with_result(self, result: Result, costs: Costs | None = None) -> "Study":
        """The study with what is now known of a run."""
        results = tuple(
            result if (r.arm, r.seed) == (result.arm, result.seed) else r for r in self.results
        )
        name = f"{result.arm}-{result.seed}"
        known = self.costs if costs is None else self.costs | {name: costs}
        # In the runs' order, whatever the order in which they ended.
        order = [f"{r.arm}-{r.seed}" for r in results]
        return dataclasses.replace(
            self, results=results, costs={name: known[name] for name in order if name in known}
        )

    def _rows(self) -> Iterator[list[object]]:
        # The batch size of the setting is the recipe's too.
        settings = [f.name for f in dataclasses.fields(Setting) if f.name != "batch_size"]
        yield [
            *("arm", "norm", *settings, *(f.name for f in dataclasses.fields(Recipe))),
            *("seed", "state"),
            *("parameters", "epochs_done", "last_accuracy", "best_accuracy", "seconds", "problem"),
        ]
        for result in self.results:
            arm, costs = self.arm(result.arm), self.costs.get(f"{result.arm}-{result.seed}")
            measured = result.accuracies
            yield [
                *(arm.name, arm.norm, *(getattr(arm.setting, name) for name in settings)),
                *(" ".join(v) if isinstance(v, tuple) else v for v in astuple(arm.recipe)),
                *(result.seed, result.state, result.parameters or "", len(measured)),
                *((measured[-1], max(measured)) if measured else ("", "")),
                *(f"{costs.seconds:.1f}" if costs else "", result.problem),
            ]


def measured(result: Result, folder: Path, config: RunConfig) -> tuple[Result, Costs]:
    """A run's result and costs, from its folder.

    Raises:
        RunError: The run is not finished, damaged, or not the one of this configuration.
    """
    run = Run.open(folder)
    refuse_other(run, config)
    if not run.epochs:
        raise RunError(
            f"{folder} has no metrics.jsonl: delete the folder, and normlab compare trains it anew"
        )
    done = dataclasses.replace(
        result,
        state="done",
        problem="",
        accuracies=tuple(epoch.accuracy for epoch in run.epochs),
        parameters=run.summary.parameters,
    )
    memory = predictions.read(folder / "answers.npz").peak_memory
    return done, Costs(seconds=run.seconds, peak_memory=memory)


def _to_dict(arm: Arm) -> dict[str, Any]:
    return dataclasses.asdict(arm) | {"config": arm.config.to_dict()}


def _arm(content: dict[str, Any]) -> Arm:
    return Arm(
        name=entry(content, "name", str),
        norm=entry(content, "norm", str),
        setting=build(Setting, entry(content, "setting", dict)),
        config=build(RunConfig, entry(content, "config", dict)),
        recipe=build(Recipe, entry(content, "recipe", dict)),
    )
