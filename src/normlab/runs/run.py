"""A run's folder: its settings, its measurements and its weights.

config.json         all settings that decide the numbers, the data's fingerprint, the machines
metrics.jsonl       one line per epoch
model.safetensors   the weights, written after the last epoch
checkpoint.pt       present while the run can be resumed
teacher.npy         likewise, if the run learns from a teacher: the teacher's logits
report.html, figures/
"""

import dataclasses
import hashlib
import json
import os
import re
import reprlib
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from normlab import notation, recipes
from normlab.config import UNSTATED, Execution, RunConfig, TrainingConfig, recorded
from normlab.data import apply_splits, load_recorded
from normlab.data.dataset import Dataset, SplitName
from normlab.errors import RunError, UsageError
from normlab.notes import note
from normlab.ranges import Count, Positive, Range, Seconds, Share
from normlab.storage.checksums import add_checksum, read_json, verify_checksum
from normlab.storage.files import append, write_atomically
from normlab.storage.reading import read_text
from normlab.storage.records import MalformedError, build, check_range, entry, parse

if TYPE_CHECKING:
    from torch import Tensor

    from normlab.network.model import Network
    from normlab.network.summary import Summary

SCHEMA = 2
CLASSES = Range(at_least=1, at_most=2**16)  # a study keeps predictions in 16 bits
KERNELS = re.compile(r"torch|(gcc|clang|compiled|prebuilt-[a-z0-9-]+)(, one thread)?")
# Copies of CIFAR-10 in its order, of runs that did not record that yet.
COPIES_IN_ORDER = {"c15e494b489960635fdca678140d000bf6ce4452f684494a4369b351d71b5b5a"}
LARGEST_LOSS = 3.5e38  # a float32's
Loss = Annotated[float, Range(at_least=0, at_most=LARGEST_LOSS)]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of metrics.jsonl. Accuracies are shares from 0 to 1, losses are in nats per image.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean training loss over the epoch's augmented images, measured while the weights
            changed; with label smoothing, the loss against smoothed labels; with a teacher, the
            weighted sum of both losses; with balanced classes, the mean weighted by class.
        train_accuracy: Training accuracy, measured in the same way.
        split: The split that `loss` and `accuracy` were measured on after the epoch: `test` or
            `holdout`; `train` where there is neither: then they equal the training's.
        loss: Mean negative log-likelihood on that split.
        accuracy: Share of images classified correctly on that split.
        learning_rate: Learning rate of the epoch's last step.
        seconds: Time for training and evaluation; the parts of a resumed epoch are added up.
        without_recalibration: Accuracy before running statistics were measured anew; None if they
            were not.
    """

    epoch: Positive
    train_loss: Loss
    train_accuracy: Share
    split: SplitName
    loss: Loss
    accuracy: Share
    learning_rate: Annotated[float, Range(at_least=0)]
    seconds: Seconds
    without_recalibration: Share | None = None


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """What a run records of its data.

    Attributes:
        fingerprint: SHA-256 of the pixels and labels, before any hold-out.
        classes: The classes' names.
        train: Number of training images, after any hold-out.
        holdout: Number of images held out of the training split.
        test: Number of test images.
        mean: Mean of each channel of the training images, on the 0–1 scale. The network normalizes
            its input with it.
        std: Standard deviation of each channel, likewise.
        notes: The data set's notes.
        in_order: Whether it is a copy of a published data set with the images in their order.
    """

    fingerprint: str
    classes: tuple[str, ...]
    train: Positive
    holdout: Count
    test: Count
    mean: tuple[Share, ...]
    std: Annotated[tuple[float, ...], Range(above=0, at_most=1)]
    notes: tuple[str, ...] = ()
    in_order: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that computed a part of a run. Numbers differ in the last bits between machines.

    Attributes:
        from_epoch: The first epoch that it computed, from 1.
        processor: Name of the CPU.
        capability: The instruction set that torch uses: `AVX2`, `AVX512`, …
        device: `cpu`, `cuda (NVIDIA H100)`, `mps`.
        threads: torch's CPU threads.
        kernels: `gcc` or `clang` if normlab's compiled passes ran, built there by that compiler;
            `prebuilt-…` if they were a wheel's, for that kind of processor; `, one thread` follows
            where torch had no OpenMP library. `torch` if PyTorch's layers ran instead. Older runs
            have `compiled` for passes that GCC built.
        python: Version of Python.
        torch: Version of torch.
        normlab: Version of normlab.
    """

    from_epoch: Positive
    processor: str
    capability: str
    device: str
    threads: Positive
    kernels: str
    python: str
    torch: str
    normlab: str


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The network that a run learned from.

    Attributes:
        name: Network, normalization and seed: `micro-bn-0`. For a function, its `module:function`.
        weights: SHA-256 (hex) of its model.safetensors; empty for a function.
        outputs: SHA-256 (hex) of its logits for the training images, as the run used them.
    """

    name: str
    weights: str
    outputs: str


def taught_by(teacher: Teacher, config: TrainingConfig) -> str:
    """A teacher and how it taught, in words."""
    weights = f", SHA-256 of its weights {teacher.weights}" if teacher.weights else ""
    return (
        f"{teacher.name} (--teacher {config.teacher}), weight {config.teacher_weight:g}, "
        f"temperature {config.teacher_temperature:g}{weights}"
    )


@dataclass(frozen=True, kw_only=True)
class Start:
    """The trained network that a run started from.

    Attributes:
        name: Network, normalization and seed: `micro-bn-0`.
        weights: SHA-256 (hex) of its model.safetensors.
        kept: How many parameters the run took from it. A study does not record it: its runs do.
        note: What the run did not take, in words; likewise.
    """

    name: str
    weights: str
    kept: Count = 0
    note: str = ""


def started_from(start: Start, config: TrainingConfig) -> str:
    """A start and what was kept of it, in words."""
    kept = f", {start.kept:,} parameters ({start.note})" if start.kept else ""
    return (
        f"{start.name} (--start-from {config.start_from}){kept}, SHA-256 of its weights "
        f"{start.weights}"
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, read from its folder by `Run.open`.

    Attributes:
        path: The folder.
        config: The settings that were asked for.
        recipe: The recipe in force: the named one with the settings of `config`.
        layout: The network's line, with every width but the classifier's; the `module:function` of
            a custom network.
        data: The data it was trained on.
        machines: The machines that computed it, in order.
        epochs: The epochs measured so far, in order.
        stopped_after: The last epoch, if a callback ended the run before its recipe did.
        parameters: Number of parameters of a custom network, whose function may change; None for a
            layout, which says it.
        teacher: The network that it learned from, if any. Only training needs it.
        start: The network whose weights it started from, if any; likewise.
    """

    path: Path
    config: RunConfig
    recipe: recipes.Recipe
    layout: str
    data: DataCard
    machines: tuple[Machine, ...]
    epochs: tuple[Epoch, ...] = ()
    stopped_after: int | None = None
    parameters: int | None = None
    teacher: Teacher | None = None
    start: Start | None = None

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Reads a run's folder.

        Raises:
            RunError: It is not a run's folder, it is damaged, a newer normlab wrote it, or it names
                a custom normalization or network whose code is not trusted.
        """
        path = Path(path)
        recorded = _parse_config(path / "config.json")
        run = cls(path=path, epochs=read_metrics(path / "metrics.jsonl"), **recorded)
        _refuse_untrusted_code(run)
        _refuse_other_metrics(run, path / "metrics.jsonl")
        return run

    def refuse_unreadable(self) -> None:
        """Refuses a run whose config.json, once it is written, could not be read.

        Raises:
            UsageError: It could not; with the reason.
        """
        try:
            _fields_of(json.loads(json.dumps(self._settings | {"machines": []})))
        except MalformedError as error:
            raise UsageError(f"a run of this could not be read again: {error}") from None

    def write_config(self) -> None:
        """Writes config.json."""
        content = self._settings | {"machines": [dataclasses.asdict(m) for m in self.machines]}
        if self.stopped_after is not None:
            content["stopped_after"] = self.stopped_after
        text = json.dumps(add_checksum(content), indent=2)
        write_atomically(self.path / "config.json", text + "\n")

    def write_metrics(self) -> None:
        """Writes metrics.jsonl anew, with the epochs of this run."""
        write_atomically(self.path / "metrics.jsonl", "".join(map(_line, self.epochs)))

    @property
    def _settings(self) -> dict[str, Any]:
        """The part of config.json that decides the numbers; the digest depends on its order."""
        data = dataclasses.asdict(self.data)
        if not self.data.in_order:
            del data["in_order"]  # older runs lack it
        return {
            "schema": SCHEMA,
            "run": recorded(self.config),
            "recipe": dataclasses.asdict(self.recipe),
            "layout": self.layout,
            "data": data,
            **({} if self.parameters is None else {"parameters": self.parameters}),
            **({"teacher": dataclasses.asdict(self.teacher)} if self.teacher else {}),
            **({"start": dataclasses.asdict(self.start)} if self.start else {}),
        }

    @property
    def network_settings(self) -> dict[str, Any]:
        """What makes its layout a network."""
        return {
            "norm": self.config.norm,
            "activation": self.config.activation,
            "classes": len(self.data.classes),
            "shape": self.config.shape,
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the settings: a checkpoint carries it to name its run."""
        return hashlib.sha256(json.dumps(self._settings).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def trusting(self) -> str:
        """What stands before a command that opens it, if it has custom code; else nothing."""
        modules: dict[str, set[str]] = {}
        for code in custom_code(self.config.norm, self.layout):
            modules.setdefault(code.variable, set()).add(code.module)
        return "".join(
            f"{variable}={shlex.quote(' '.join(sorted(names)))} "
            for variable, names in modules.items()
        )

    @property
    def split(self) -> SplitName:
        """The split that the curve is measured on.

        `holdout` if images were held out, else `test`; `train` if there are no test images: then
        only the training itself is measured.
        """
        if self.data.holdout:
            return "holdout"
        return "test" if self.data.test else "train"

    @property
    def planned_epochs(self) -> int:
        """Epochs of the whole run: the recipe's, unless a callback ended the run before."""
        return self.recipe.epochs if self.stopped_after is None else self.stopped_after

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done and the weights are written."""
        return (self.path / "model.safetensors").exists()

    @property
    def last(self) -> Epoch:
        """The last epoch: the one to report."""
        if not self.epochs:
            raise RunError(
                f"{self.path} has no metrics.jsonl: its accuracy is not known"
                if self.finished  # weights that were passed on without it
                else f"{self.path} has not finished its first epoch"
            )
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The epoch of highest accuracy, the first of equals; chosen on the split it reports."""
        return max(self.epochs, key=lambda e: (e.accuracy, -e.epoch), default=None) or self.last

    def first_above(self, accuracy: float) -> Epoch | None:
        """The first epoch whose accuracy is above this share, or None."""
        return next((e for e in self.epochs if e.accuracy > accuracy), None)

    @property
    def seconds(self) -> float:
        """Total time of training and evaluation."""
        return sum(e.seconds for e in self.epochs)

    @cached_property
    def summary(self) -> "Summary":
        """The layer table.

        Raises:
            RunError: Layout, normalization and classes do not make a network, or a custom network
                is not the one that was trained.
        """
        from normlab.network.summary import summarize

        try:
            table = summarize(self.layout, **self.network_settings)
        except UsageError as error:
            problem = error.problem if isinstance(error, notation.LayoutError) else error
            raise RunError(f"{self.path / 'config.json'} makes no network: {problem}") from None
        if self.parameters not in (None, table.parameters):
            raise RunError(
                f"{self.layout} makes {table.parameters:,} parameters, the run in {self.path} has "
                f"{self.parameters:,}: its code has changed since"
            )
        return table

    def weights_digest(self) -> str:
        """SHA-256 (hex) of the file of weights, which identifies a finished run."""
        return hashlib.sha256((self.path / "model.safetensors").read_bytes()).hexdigest()

    def network(self) -> "Network":
        """The trained network, on the CPU, ready to evaluate.

        Raises:
            RunError: The run is not finished, or the weights are damaged or another network's.
        """
        from normlab.network.model import Network
        from normlab.runs.checkpoint import load_weights
        from normlab.runs.isolation import isolated

        weights = self.path / "model.safetensors"
        if not self.finished and (self.path / "checkpoint.pt").exists():
            raise RunError(
                f"{self.path} is not finished: resume it with {self.trusting}"
                f"{resume_command(self.path)}"
            )
        with isolated():
            self._refuse_other_shapes(weights)
            network = Network(self.layout, **self.network_settings)
            load_weights(weights, network)
        if not (network.input_std > 0).all():  # the input is divided by it
            raise RunError(f"{weights} is damaged: input_std has a value that is not above 0")
        return network.eval()

    def _refuse_other_shapes(self, weights: Path) -> None:
        """Compares a file's header with the layout, before memory is allocated for either.

        Raises:
            RunError: The weights are damaged or another network's.
        """
        import torch

        from normlab.layers import norms
        from normlab.network.model import Network
        from normlab.network.shapes import norms_of
        from normlab.runs.checkpoint import header, refuse_another

        tensors = header(weights)
        self._refuse_fewer_numbers(weights, tensors)
        blocks = notation.parse(self.layout)
        used = norms_of(blocks, self.config.norm)
        if not blocks[0].custom and all(
            norms.find(name)[0].layer.startswith("normlab.") for name in used
        ):
            with torch.device("meta"):  # shapes only; code that is not ours may need values
                shapes = Network(self.layout, **self.network_settings)
            refuse_another(weights, tensors, shapes)

    def _refuse_fewer_numbers(self, file: Path, tensors: "dict[str, Tensor]") -> None:
        """Refuses tensors that cannot be the network's, before memory is allocated for it.

        Raises:
            RunError: They hold fewer numbers than the layout has parameters.
        """
        numbers = sum(tensor.numel() for tensor in tensors.values())
        if numbers < self.summary.parameters:
            raise RunError(
                f"{file} is damaged or another network's: it holds {numbers:,} numbers, "
                f"the layout's parameters take {self.summary.parameters:,}"
            )

    def trained_on_copy_of(self, dataset: Dataset) -> bool:
        """Whether a data set and the run's own are copies of CIFAR-10.

        Their training images have the same labels in the same order, so splits of one seed have
        the same pictures. Some pixels may differ, and the order of the test images.
        """
        in_order = self.data.in_order or self.data.fingerprint in COPIES_IN_ORDER
        return dataset.name == self.config.dataset and in_order and dataset.in_order

    def dataset(self, data_root: Path | None = None, *, any_copy: bool = False) -> Dataset:
        """The data set that the run was trained on, with the same splits.

        Args:
            data_root: The folder that holds CIFAR-10, as in `Execution`; for a run on a folder of
                pictures that has moved, the folder's new place.
            any_copy: Whether another copy of CIFAR-10 will do (`trained_on_copy_of`). A note on the
                standard error says that it is one.

        Raises:
            DataError: The data is missing.
            RunError: The data found is not the run's, by its fingerprint, and no copy that will do.
        """
        config = self.config
        dataset = load_recorded(config, data_root)
        is_own = dataset.fingerprint == self.data.fingerprint
        if not (is_own or (any_copy and self.trained_on_copy_of(dataset))):
            raise RunError(
                f"{config.dataset} as found here has fingerprint {dataset.fingerprint[:12]}…, but "
                f"the run {self.path} was trained on {self.data.fingerprint[:12]}…: give the run's "
                "own data"
            )
        dataset = apply_splits(dataset, config)
        for split in ("train", "holdout", "test"):
            found = len(getattr(dataset, split) or ())
            if found != (stated := getattr(self.data, split)):
                raise RunError(
                    f"{self.path / 'config.json'} is damaged: it states {stated:,} {split} images, "
                    f"{config.dataset} has {found:,}"
                )
        if len(dataset.classes) != len(self.data.classes):
            raise RunError(
                f"{self.path / 'config.json'} is damaged: it states {len(self.data.classes):,} "
                f"classes, {config.dataset} has {len(dataset.classes):,}"
            )
        if not is_own:
            note(another_copy(config.dataset, self.path))
        return dataset


def resume_command(
    folder: Path,
    execution: Execution = Execution(),  # noqa: B008 — it is frozen
) -> str:
    """The command that resumes the run in a folder where, and how, it is computed."""
    command = ["normlab", "train", "--resume", str(folder)]
    if execution.data_root is not None:
        command += ["--data-root", str(execution.data_root)]
    if execution.device != "auto":
        command += ["--device", execution.device]
    if execution.threads is not None:
        command += ["--threads", str(execution.threads)]
    return shlex.join(command)


def another_copy(dataset: str, trained: object) -> str:
    """What is said of a copy that is not the one that something was trained on."""
    return (
        f"this copy of {dataset} is not the one that {trained} was trained on: the training labels "
        "are the same, but pixels or the order of the test images differ"
    )


def _refuse_other_metrics(run: Run, file: Path) -> None:
    """Raises RunError if metrics are not those of a run's configuration."""
    count, planned = len(run.epochs), run.planned_epochs
    # Weights that were passed on with config.json alone need no metrics.
    if count > planned or (count < planned and run.finished and file.exists()):
        finished = ", and the run is finished" if count < planned else ""
        raise RunError(f"{file} is damaged: it holds {count} of {planned} epochs{finished}")
    for epoch in run.epochs:
        if epoch.split != run.split:
            raise RunError(
                f"{file}, line {epoch.epoch}, is damaged: it was measured on {epoch.split}, "
                f"and config.json says {run.split}"
            )


def custom_normalizations(norm: str, line: str) -> list[str]:
    """The network's custom normalizations, each `module:Class`."""
    names = {norm, *(block.norm or "" for block in notation.parse(line))}
    return sorted(name for name in names if ":" in name)


def custom_networks(line: str) -> list[str]:
    """The custom network that a line names, `module:function`; none if it is a layout."""
    return [block.kind for block in notation.parse(line) if block.custom]


@dataclass(frozen=True)
class CustomCode:
    """A part of a run that is the user's own code.

    Attributes:
        what: The kind of part.
        name: Its name, `module:name`.
        variable: The environment variable that says which modules of this kind are trusted.
    """

    what: str
    name: str
    variable: str

    @property
    def module(self) -> str:
        """The module that is imported for it."""
        return self.name.partition(":")[0]


def custom_code(norm: str, line: str) -> list[CustomCode]:
    """The parts of a run that are the user's own code."""
    return [
        *(
            CustomCode("normalization", n, "NORMLAB_NORMS")
            for n in custom_normalizations(norm, line)
        ),
        *(CustomCode("network", name, "NORMLAB_NETWORKS") for name in custom_networks(line)),
    ]


def _refuse_untrusted_code(run: Run) -> None:
    """Refuses a custom normalization or network unless its module is trusted.

    A run's folder can come from anyone, and importing a module runs its code. A module is trusted
    if it was imported already, or if the environment names it.
    """
    for code in custom_code(run.config.norm, run.layout):
        module, variable = code.module, code.variable
        if module not in {*sys.modules, *os.environ.get(variable, "").split()}:
            raise RunError(
                f"{run.path} names the {code.what} {code.name}, which is code: if you trust the "
                f"module {module} on this machine, put {variable}={module} before the command "
                f"(in Python: import {module})"
            )


def _parse_config(file: Path) -> dict[str, Any]:
    """The fields of `Run` that config.json holds.

    Raises:
        RunError: The file is missing, damaged, or another normlab wrote it.
    """
    content = read_json(file, SCHEMA, "run")
    try:
        return _fields_of(verify_checksum(content))
    except MalformedError as error:
        raise RunError(f"{file} is damaged: {error}") from None


def _fields_of(content: dict[str, Any]) -> dict[str, Any]:
    """The fields of `Run` in config.json's content, each checked; MalformedError if one is not."""
    try:
        line = entry(content, "layout", str)
        recipe = build(recipes.Recipe, entry(content, "recipe", dict))
        config = build(RunConfig, UNSTATED | entry(content, "run", dict))
        data = build(DataCard, entry(content, "data", dict))
        check_range("number of classes", len(data.classes), CLASSES)
        if len(set(data.classes)) < len(data.classes):
            raise MalformedError("two of its classes have one name")
        for values in (data.mean, data.std):
            if len(values) != config.shape[0]:
                raise MalformedError(f"{config.channels} images, and {len(values)} channels")
        if data.holdout != config.holdout:
            raise MalformedError(f"it holds out {config.holdout} images, and {data.holdout}")
        teacher = build(Teacher, entry(content, "teacher", dict)) if config.teacher else None
        start = build(Start, entry(content, "start", dict)) if config.start_from else None
        stopped_after = None
        if "stopped_after" in content:
            stopped_after = entry(content, "stopped_after", int)
            if not 0 < stopped_after < recipe.epochs:
                raise MalformedError(f"stopped after {stopped_after} of {recipe.epochs} epochs")
        layout = notation.format(notation.parse(line))
        parameters = entry(content, "parameters", int) if custom_networks(layout) else None
        return {
            "config": config,
            "recipe": recipe,
            "layout": layout,
            "data": data,
            "machines": tuple(map(_machine, entry(content, "machines", list))),
            "stopped_after": stopped_after,
            "parameters": parameters,
            "teacher": teacher,
            "start": start,
        }
    except notation.LayoutError as error:
        raise MalformedError(error.problem) from None


def _machine(content: Any) -> Machine:
    machine = build(Machine, content)
    if KERNELS.fullmatch(machine.kernels) is None:
        raise MalformedError(f"no kernels are called {reprlib.repr(machine.kernels)}")
    return machine


def read_metrics(path: Path) -> tuple[Epoch, ...]:
    """Reads metrics.jsonl. A last line that was cut off is left out: its epoch is trained again.

    Raises:
        RunError: Another line is damaged, or a newer normlab wrote it.
    """
    try:
        lines = read_text(path).splitlines(keepends=True)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    epochs: list[Epoch] = []
    for number, line in enumerate(lines, start=1):
        try:
            epochs.append(_parse_epoch(line, number, path))
        except MalformedError as error:
            raise RunError(f"{path}, line {number}, is damaged: {error}") from None
    return tuple(epochs)


def _parse_epoch(line: str, number: int, path: Path) -> Epoch:
    content = parse(line)
    schema = entry(content, "schema", object)
    if schema != SCHEMA:
        written = reprlib.repr(schema)
        raise RunError(f"{path} has schema {written}, this normlab reads schema {SCHEMA}")
    content = verify_checksum(content)
    del content["schema"]
    epoch = build(Epoch, content)
    if epoch.epoch != number:
        raise MalformedError(f"epoch {epoch.epoch} stands in its place")
    return epoch


def append_metrics(path: Path, epoch: Epoch) -> None:
    """Appends a line to metrics.jsonl. It is on disk when this returns.

    Raises:
        NormlabError: It cannot be written. A partial line is left out when the file is read.
    """
    append(path, _line(epoch))


def _line(epoch: Epoch) -> str:
    content = {"schema": SCHEMA} | dataclasses.asdict(epoch)
    if epoch.without_recalibration is None:
        del content["without_recalibration"]
    return json.dumps(add_checksum(content), allow_nan=False) + "\n"
