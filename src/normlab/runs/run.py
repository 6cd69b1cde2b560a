"""A run's folder: its settings, its measurements and its weights.

config.json         all settings that decide the numbers, the data's fingerprint, the machines
metrics.jsonl       one line per epoch
model.safetensors   the weights, written after the last epoch
checkpoint.pt       present while the run can be resumed
teacher.npy         if the run learns from a teacher: its logits, until it is finished
report.html, figures/
"""

import dataclasses
import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from normlab import notation, recipes
from normlab.config import UNSTATED, Execution, RunConfig, recorded
from normlab.data import apply_splits, load_recorded
from normlab.data.dataset import Dataset, SplitName
from normlab.errors import RunError, UsageError
from normlab.notes import note
from normlab.ranges import Range
from normlab.runs.metrics import SCHEMA, Epoch, as_line, read_metrics
from normlab.runs.provenance import DataCard, Machine, Start, Teacher, read_machine
from normlab.runs.trust import custom_code, custom_networks, refuse_untrusted_code
from normlab.storage.checksums import add_checksum, read_json, verify_checksum
from normlab.storage.files import write_atomically
from normlab.storage.records import MalformedError, build, check_range, entry, stated

if TYPE_CHECKING:
    from torch import Tensor

    from normlab.network.model import Network
    from normlab.network.summary import Summary

CLASSES = Range(at_least=1, at_most=2**16)  # a study keeps predictions in 16 bits
# Copies of CIFAR-10 in its order, of runs that did not record that yet.
COPIES_IN_ORDER = {"c15e494b489960635fdca678140d000bf6ce4452f684494a4369b351d71b5b5a"}


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
        start: The network whose weights it started from, if any. Only training needs it.
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
        refuse_untrusted_code(path, run.config.norm, run.layout)
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
        content = self._settings | {"machines": [stated(m, "processes") for m in self.machines]}
        if self.stopped_after is not None:
            content["stopped_after"] = self.stopped_after
        text = json.dumps(add_checksum(content), indent=2)
        write_atomically(self.path / "config.json", text + "\n")

    def write_metrics(self) -> None:
        """Writes metrics.jsonl anew, with the epochs of this run."""
        write_atomically(self.path / "metrics.jsonl", "".join(map(as_line, self.epochs)))

    @property
    def _settings(self) -> dict[str, Any]:
        """The part of config.json that decides the numbers; the digest depends on its order."""
        return {
            "schema": SCHEMA,
            "run": recorded(self.config),
            "recipe": dataclasses.asdict(self.recipe),
            "layout": self.layout,
            "data": stated(self.data, "in_order"),
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
            found = len(dataset.splits.get(split, ()))
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
            "machines": tuple(map(read_machine, entry(content, "machines", list))),
            "stopped_after": stopped_after,
            "parameters": parameters,
            "teacher": teacher,
            "start": start,
        }
    except notation.LayoutError as error:
        raise MalformedError(error.problem) from None
