"""A study's folder: its record (study.json), a table (study.csv) and its runs.

study.json    the configuration, the arms, the trials of the search, the results; everything that
              depends on the clock or the machine is under `costs`
study.csv     one row per run
runs/         one folder per run, named ARM-SEED
tuning/       one folder per trial of the search
start/        the network that the runs start from, if they do
teacher.npy   the logits that the runs learn from, if they have a teacher
report.html   the page; figures/ has its figures as PNG
"""

import csv
import dataclasses
import io
import json
import os
import reprlib
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from normlab.config import UNSTATED, RunConfig, StudyConfig, recorded
from normlab.errors import RunError, UsageError
from normlab.ranges import LARGEST, Count, Range, Seconds, Share
from normlab.recipes import Recipe
from normlab.runs.provenance import Start, Teacher
from normlab.runs.run import Run
from normlab.storage.cells import cell
from normlab.storage.checksums import add_checksum, read_json, verify_checksum
from normlab.storage.files import write_atomically
from normlab.storage.records import MalformedError, build, check_range, entry, stated
from normlab.study import contrasts, predictions
from normlab.study.job import refuse_other_run
from normlab.study.plan import Arm, Setting, are_planned, settings, varying
from normlab.study.predictions import Predictions
from normlab.study.tuning import Trial, is_value, rounds

SCHEMA = 3
State = Literal["waiting", "stopped", "done", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A run of a study.

    Attributes:
        arm: Its arm's name.
        seed: Its seed.
        state: `stopped` can be resumed.
        problem: Why it failed; empty if it did not.
        accuracies: Accuracy after each epoch, 0 to 1.
        parameters: Number of parameters of the network; 0 while it is unknown.
        without_recalibration: Accuracy before running statistics were measured anew; None if they
            were not.
    """

    arm: str
    seed: Count
    state: State = "waiting"
    problem: str = ""
    accuracies: tuple[Share, ...] = ()
    parameters: Annotated[int, Range(at_least=0, below=2**63)] = 0
    without_recalibration: Share | None = None

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{self.arm}-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Costs:
    """The costs of a run. They vary between machines, and from one time to the next.

    Attributes:
        seconds: Total time of training and evaluation.
        peak_memory: Peak memory of its process in bytes; 0 if unknown.
    """

    seconds: Seconds
    peak_memory: Annotated[int, Range(at_least=0, below=2**63)]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study, read from its folder by `Study.open`.

    Attributes:
        path: The folder.
        config: The configuration.
        arms: The arms, with the settings in force.
        images: Number of images that accuracy is measured on.
        fingerprint: Fingerprint of the data set.
        trials: Trials of the search for settings.
        results: Results, by arm and seed, in order.
        costs: Costs, by the name of the run's folder.
        earlier_seeds: Numbers of seeds that were planned before seeds were added, each below the
            next.
        teacher: The network that the runs learn from, if any.
        start: The network that the runs start from, if any.
    """

    path: Path
    config: StudyConfig
    arms: tuple[Arm, ...]
    images: int
    fingerprint: str
    trials: tuple[Trial, ...] = ()
    results: tuple[Result, ...] = ()
    costs: dict[str, Costs] = field(default_factory=dict)
    earlier_seeds: tuple[int, ...] = ()
    teacher: Teacher | None = None
    start: Start | None = None

    @classmethod
    def open(cls, path: Path | str) -> "Study":
        """Reads a study's folder.

        Raises:
            RunError: It is not a study's folder, it is damaged, or a newer normlab wrote it.
        """
        path = Path(path)
        file = path / "study.json"
        content = read_json(file, SCHEMA, "study")
        try:
            return cls._from(path, content)
        except MalformedError as error:
            raise RunError(f"{file} is damaged: {error}") from None

    @classmethod
    def _from(cls, path: Path, content: dict[str, Any]) -> "Study":
        """The study in study.json's content; MalformedError if it is none."""
        costs = verify_checksum(entry(content, "costs", dict))
        del content["costs"]
        content = verify_checksum(content)
        study = cls(
            path=path,
            config=_config(entry(content, "study", dict)),
            arms=tuple(map(_arm, entry(content, "arms", list))),
            images=entry(content, "images", int),
            fingerprint=entry(content, "fingerprint", str),
            trials=tuple(build(Trial, trial) for trial in entry(content, "trials", list)),
            results=tuple(build(Result, result) for result in entry(content, "results", list)),
            costs={name: build(Costs, cost) for name, cost in costs.items()},
            earlier_seeds=tuple(
                entry({"earlier seeds": seeds}, "earlier seeds", int)
                for seeds in entry({"earlier_seeds": []} | content, "earlier_seeds", list)
            ),
            teacher=(
                build(Teacher, entry(content, "teacher", dict)) if "teacher" in content else None
            ),
            start=build(Start, entry(content, "start", dict)) if "start" in content else None,
        )
        study._check()
        return study

    def refuse_unreadable(self) -> None:
        """Refuses a study whose study.json, once it is written, could not be read.

        Raises:
            UsageError: It could not; with the reason.
        """
        try:
            self._from(self.path, json.loads(self._text()))
        except MalformedError as error:
            raise UsageError(f"a study of this could not be read again: {error}") from None

    def _check(self) -> None:
        """Raises MalformedError if the parts of the record do not fit together."""
        check_range("images", self.images, Range(at_least=1, at_most=LARGEST))
        if not self.arms or not are_planned(self.arms, self.config):
            raise MalformedError("its arms are not those of its configuration")
        epochs = {arm.name: arm.recipe.epochs for arm in self.arms}
        for name in epochs:
            if Path(name).name != name or "\\" in name or name.startswith("."):
                raise MalformedError(f"{reprlib.repr(name)} is not the name of a folder")
        if len(epochs) < len(self.arms):
            raise MalformedError("two of its arms have one name")
        runs = {result.name: result for result in self.results}
        expected = ((name, seed) for name in epochs for seed in range(self.config.seeds))
        if not len(runs) == len(self.results) == len(epochs) * self.config.seeds or any(
            (result.arm, result.seed) != run
            for result, run in zip(self.results, expected, strict=True)
        ):
            raise MalformedError("its results are not one for each arm and seed, in order")
        for name, result in runs.items():
            if len(result.accuracies) > epochs[result.arm]:
                raise MalformedError(f"{name} has more accuracies than epochs")
            if result.state == "done" and not (result.accuracies and name in self.costs):
                raise MalformedError(f"{name} is done, but has no accuracies or no costs")
        if not self.costs.keys() <= runs.keys():
            raise MalformedError("it has the costs of a run that it does not list")
        trials = {
            (trial.arm, trial.round, trial.rung, trial.value, trial.seed) for trial in self.trials
        }
        if len(trials) < len(self.trials) or any(
            trial.arm not in epochs
            or trial.round not in rounds(self.config)
            or not is_value(trial.what, trial.value)
            for trial in self.trials
        ):
            raise MalformedError("its trials are not those of its search")
        planned = (0, *self.earlier_seeds, self.config.seeds)
        if any(more <= fewer for fewer, more in pairwise(planned)):
            raise MalformedError("its numbers of seeds do not increase")
        try:
            _ = self.family  # refuses contrasts that are not those of its arms
        except UsageError as error:
            raise MalformedError(str(error)) from None

    @cached_property
    def axes(self) -> list[str]:
        """The axes along which its arms' settings differ, by their names in `Setting`."""
        return varying(settings(self.arms))

    @cached_property
    def family(self) -> tuple[contrasts.Contrast, ...]:
        """The contrasts that it tests."""
        return contrasts.family(self.config, self.arms)

    @property
    def tested_seeds(self) -> int:
        """The number of seeds that tests are over: those of the last look that has a share."""
        looks = (*self.earlier_seeds, self.config.seeds)
        return looks[min(len(looks), self.config.looks) - 1]

    def with_seeds(self, seeds: int) -> "Study":
        """The study with more seeds. It records the change, unless no run is finished."""
        known = {(result.arm, result.seed): result for result in self.results}
        runs = [(arm.name, seed) for arm in self.arms for seed in range(seeds)]
        seen = any(result.state == "done" for result in self.results)
        return dataclasses.replace(
            self,
            config=dataclasses.replace(self.config, seeds=seeds),
            results=tuple(known.get(run) or Result(arm=run[0], seed=run[1]) for run in runs),
            earlier_seeds=(*self.earlier_seeds, *([self.config.seeds] if seen else [])),
        )

    def write(self) -> None:
        """Writes study.json and study.csv."""
        write_atomically(self.path / "study.json", self._text() + "\n")
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows(map(cell, row) for row in self._rows())
        write_atomically(self.path / "study.csv", file.getvalue())

    def _text(self) -> str:
        """The content of study.json."""
        content = add_checksum(
            {
                "schema": SCHEMA,
                "study": recorded(self.config),
                "arms": [
                    dataclasses.asdict(arm) | {"config": recorded(arm.config)} for arm in self.arms
                ],
                "images": self.images,
                "fingerprint": self.fingerprint,
                "trials": [stated(trial, "turn", "seed") for trial in self.trials],
                "results": [stated(result, "without_recalibration") for result in self.results],
                **({"earlier_seeds": self.earlier_seeds} if self.earlier_seeds else {}),
                **({"teacher": dataclasses.asdict(self.teacher)} if self.teacher else {}),
                **({"start": dataclasses.asdict(self.start)} if self.start else {}),
            }
        )
        # Costs have a checksum of their own: the rest of two equal studies is equal to the byte.
        costs = add_checksum({name: dataclasses.asdict(cost) for name, cost in self.costs.items()})
        return json.dumps(content | {"costs": costs}, indent=1)

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    def folder(self, result: Result) -> Path:
        """The run's folder."""
        return self.path / "runs" / result.name

    def run(self, result: Result) -> Run:
        """A finished run.

        Raises:
            RunError: It is missing or damaged, or it is another run than the record says.
        """
        run = Run.open(self.folder(result))
        config = self.arm(result.arm).run_config(result.seed)
        found = run.config, run.data.fingerprint, getattr(run.data, run.split)
        if found != (config, self.fingerprint, self.images):
            raise RunError(f"{run.path} is not the run that {self.path / 'study.json'} states")
        return run

    def of(self, arm: Arm) -> list[Result]:
        """The finished runs of an arm, by seed."""
        return [r for r in self.results if r.arm == arm.name and r.state == "done"]

    def failed(self, result: Result, problem: str) -> Result:
        """The result of the same run if it failed. Paths are relative: the folder may be moved."""
        relative = problem.replace(f"{self.path}{os.sep}", "")
        return Result(arm=result.arm, seed=result.seed, state="failed", problem=relative)

    def with_result(self, result: Result, costs: Costs | None = None) -> "Study":
        """The study with a new result of a run."""
        results = tuple(
            result if (r.arm, r.seed) == (result.arm, result.seed) else r for r in self.results
        )
        known = self.costs if costs is None else self.costs | {result.name: costs}
        # In the order of the runs, not in the order in which they ended.
        order = [r.name for r in results]
        return dataclasses.replace(
            self, results=results, costs={name: known[name] for name in order if name in known}
        )

    def _rows(self) -> Iterator[list[object]]:
        recipe = [f.name for f in dataclasses.fields(Recipe)]
        # The batch size, for one, has its column as the recipe's.
        axes = [f.name for f in dataclasses.fields(Setting) if f.name not in recipe]
        yield [
            *("arm", "norm", *axes, *recipe),
            *("seed", "state"),
            *("parameters", "epochs_done", "last_accuracy", "best_accuracy", "seconds", "problem"),
            *(["without_recalibration"] if self.config.recalibrate else []),
        ]
        for result in self.results:
            arm, costs = self.arm(result.arm), self.costs.get(result.name)
            measured = result.accuracies
            yield [
                *(arm.name, arm.norm, *(getattr(arm.setting, name) for name in axes)),
                *(" ".join(v) if isinstance(v, tuple) else v for v in astuple(arm.recipe)),
                *(result.seed, result.state, result.parameters or "", len(measured)),
                *((measured[-1], max(measured)) if measured else ("", "")),
                *(f"{costs.seconds:.1f}" if costs else "", result.problem),
                *([result.without_recalibration] if self.config.recalibrate else []),
            ]


def collect(
    study: Study, result: Result, folder: Path, config: RunConfig
) -> tuple[Result, Costs | None]:
    """The result and the costs of a run that ended, from its folder.

    A run that is damaged, or that has another configuration, has failed.
    """
    try:
        return _measured(result, folder, config)
    except RunError as error:
        return study.failed(result, str(error)), None


def _measured(result: Result, folder: Path, config: RunConfig) -> tuple[Result, Costs]:
    run = Run.open(folder)
    refuse_other_run(run, config)
    if not run.epochs:
        raise RunError(
            f"{folder} has no metrics.jsonl: delete the folder, and normlab compare trains the run "
            "again"
        )
    done = dataclasses.replace(
        result,
        state="done",
        problem="",
        accuracies=tuple(epoch.accuracy for epoch in run.epochs),
        parameters=run.summary.parameters,
        without_recalibration=run.last.without_recalibration,
    )
    return done, Costs(seconds=run.seconds, peak_memory=predictions_of(run).peak_memory)


def predictions_of(run: Run) -> Predictions:
    """The predictions of a study's run; RunError if they are missing, damaged or another's."""
    images: int = getattr(run.data, run.split)
    return predictions.read(run.path / "answers.npz", images=images, classes=len(run.data.classes))


def _config(content: dict[str, Any]) -> StudyConfig:
    """The configuration; searches of older studies tried each value with one seed."""
    return build(StudyConfig, {"tune_seeds": 1} | content if content.get("tune") else content)


def _arm(content: dict[str, Any]) -> Arm:
    return Arm(
        name=entry(content, "name", str),
        norm=entry(content, "norm", str),
        setting=build(Setting, entry(content, "setting", dict)),
        config=build(RunConfig, UNSTATED | entry(content, "config", dict)),
        recipe=build(Recipe, entry(content, "recipe", dict)),
    )
