"""A run's folder: what was set (config.json), what was measured (metrics.jsonl), what was learned.

config.json         all that decides the numbers, the data's fingerprint, the machines
metrics.jsonl       a line an epoch
model.safetensors   the weights, once the last epoch is done
checkpoint.pt       while the run can be resumed
report.html, figures/
"""

import dataclasses
import hashlib
import inspect
import json
import os
import reprlib
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_type_hints

from typeguard import TypeCheckError, check_type

from normlab import notation, recipes
from normlab.config import RunConfig
from normlab.data import apply_splits, load_for
from normlab.data.dataset import Dataset, SplitName
from normlab.errors import NormlabError, RunError, UsageError
from normlab.storage.checksums import PARSE_ERRORS, add_checksum, read, verify_checksum
from normlab.storage.files import write_atomically

if TYPE_CHECKING:
    from normlab.network.model import Network
    from normlab.network.summary import Summary

SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One line of metrics.jsonl. Accuracies are shares from 0 to 1, losses mean nats an image.

    Attributes:
        epoch: Counted from 1.
        train_loss: What was minimized, mean over the epoch's training images, as augmented, while
            the weights changed; with label smoothing that of smoothed labels.
        train_accuracy: Likewise.
        split: What `loss` and `accuracy` were measured on after the epoch: `test` or `holdout`; or
            `train`, where there is neither: they are then `train_loss` and `train_accuracy`.
        loss: Mean negative log-likelihood on that split.
        accuracy: Share of right answers on that split.
        learning_rate: The epoch's last one.
        seconds: Time of training and evaluation, a resumed epoch's parts added up.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    split: SplitName
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """The data a run was trained on, as far as its record needs it.

    Attributes:
        fingerprint: SHA-256 of the pixels and labels, before any hold-out.
        classes: The classes' names.
        train: Training images, after any hold-out.
        holdout: Images held out of the training split.
        test: Test images.
        mean: Of the training images' channels, 0–1 scale: the network's input is normalized by it.
        std: Likewise, standard deviation.
        notes: The data set's own.
    """

    fingerprint: str
    classes: tuple[str, ...]
    train: int
    holdout: int
    test: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What computed a part of a run: figures differ in the last bits from machine to machine.

    Attributes:
        from_epoch: The first epoch it worked on, counted from 1.
        processor: The CPU's name.
        capability: The instructions torch uses: `AVX2`, `AVX512`, …
        device: `cpu`, `cuda (NVIDIA H100)`, `mps`.
        threads: torch's CPU threads.
        kernels: Whose normalization layers ran: `compiled` for normlab's own, else `torch`.
        python: Its version.
        torch: Its version.
        normlab: Its version.
    """

    from_epoch: int
    processor: str
    capability: str
    device: str
    threads: int
    kernels: Literal["compiled", "torch"]
    python: str
    torch: str
    normlab: str


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, read from its folder by `Run.open`.

    Attributes:
        path: The folder.
        config: What was asked for.
        recipe: The recipe in force, the configuration's own settings put in.
        layout: The network's line, every width written out but the classifier's.
        data: What it was trained on.
        machines: What computed it, in order.
        epochs: What was measured, in order.
    """

    path: Path
    config: RunConfig
    recipe: recipes.Recipe
    layout: str
    data: DataCard
    machines: tuple[Machine, ...]
    epochs: tuple[Epoch, ...] = ()

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """Reads a run's folder.

        Raises:
            RunError: It is no run's folder, it is damaged, a newer normlab wrote it, or it names
                somebody's own normalization for which nobody vouches.
        """
        path = Path(path)
        config = path / "config.json"
        content = read(config, SCHEMA, "run")
        try:
            content = verify_checksum(content)
            run = cls(
                path=path,
                config=build(RunConfig, content["run"]),
                recipe=build(recipes.Recipe, content["recipe"]),
                layout=notation.format(notation.parse(content["layout"])),
                data=build(DataCard, content["data"]),
                machines=tuple(build(Machine, machine) for machine in content["machines"]),
                epochs=read_metrics(path / "metrics.jsonl"),
            )
            if len(set(run.data.classes)) < len(run.data.classes):
                raise ValueError("two of its classes have one name")
        except notation.LayoutError as error:
            raise RunError(f"{config} is damaged: {error.problem}") from None
        except PARSE_ERRORS as error:
            raise RunError(f"{config} is damaged: {error}") from None
        _refuse_unknown_code(run)
        # Weights that somebody passed on, with config.json alone, need no metrics.
        measured = (path / "metrics.jsonl").exists()
        if run.finished and measured and len(run.epochs) < run.recipe.epochs:
            raise RunError(
                f"{path / 'metrics.jsonl'} is damaged: it holds {len(run.epochs)} of "
                f"{run.recipe.epochs} epochs, and the run is finished"
            )
        return run

    def write_config(self) -> None:
        """Writes config.json."""
        machines = [dataclasses.asdict(machine) for machine in self.machines]
        content = self._decided | {"machines": machines}
        write_atomically(
            self.path / "config.json", json.dumps(add_checksum(content), indent=2) + "\n"
        )

    def write_metrics(self) -> None:
        """Writes metrics.jsonl anew, with the epochs of this object."""
        write_atomically(self.path / "metrics.jsonl", "".join(map(_line, self.epochs)))

    @property
    def _decided(self) -> dict[str, Any]:
        """What config.json holds but for the machines: all that decides the numbers."""
        return {
            "schema": SCHEMA,
            "run": dataclasses.asdict(self.config),
            "recipe": dataclasses.asdict(self.recipe),
            "layout": self.layout,
            "data": dataclasses.asdict(self.data),
        }

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that decides the numbers, by which a checkpoint knows its run."""
        return hashlib.sha256(json.dumps(self._decided).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def split(self) -> SplitName:
        """What the curve is measured on: `holdout` where images were held out, else `test`.

        `train` where there are no test images either: nothing is measured but the training itself.
        """
        if self.data.holdout:
            return "holdout"
        return "test" if self.data.test else "train"

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done and the weights are written."""
        return (self.path / "model.safetensors").exists()

    @property
    def last(self) -> Epoch:
        """The last epoch: the one to report."""
        if not self.epochs:
            raise RunError(
                f"{self.path} has no metrics.jsonl: how accurate it is, is not known"
                if self.finished  # weights that somebody passed on
                else f"{self.path} has not finished its first epoch"
            )
        return self.epochs[-1]

    @property
    def best(self) -> Epoch:
        """The epoch of highest accuracy (the first of equals): chosen on the split it reports."""
        return max(self.epochs, key=lambda e: (e.accuracy, -e.epoch), default=None) or self.last

    def first_above(self, accuracy: float) -> Epoch | None:
        """The first epoch whose accuracy is above this share, or None."""
        return next((e for e in self.epochs if e.accuracy > accuracy), None)

    @property
    def seconds(self) -> float:
        """Time of training and evaluation, in all."""
        return sum(e.seconds for e in self.epochs)

    @cached_property
    def summary(self) -> "Summary":
        """The layer table.

        Raises:
            RunError: Layout, normalization and classes make no network here.
        """
        from normlab.network.summary import summarize

        try:
            return summarize(self.layout, norm=self.config.norm, classes=len(self.data.classes))
        except UsageError as error:
            problem = error.problem if isinstance(error, notation.LayoutError) else error
            raise RunError(f"{self.path / 'config.json'} makes no network: {problem}") from None

    def network(self) -> "Network":
        """The trained network, on the CPU, ready to evaluate.

        Raises:
            RunError: The run is not finished, or the weights are damaged or another network's.
        """
        from normlab.network.model import Network
        from normlab.runs.checkpoint import load_weights

        weights, least = self.path / "model.safetensors", 4 * self.summary.parameters
        if weights.is_file() and weights.stat().st_size < least:  # before memory is asked for
            raise RunError(
                f"{weights} is damaged or another network's: its size is "
                f"{weights.stat().st_size:,} bytes, the layout's parameters take {least:,}"
            )
        network = Network(self.layout, norm=self.config.norm, classes=len(self.data.classes))
        load_weights(weights, network)
        if not (network.input_std > 0).all():  # what comes in is divided by it
            raise RunError(f"{weights} is damaged: input_std has a value that is not above 0")
        return network.eval()

    def dataset(self, data_root: Path | None = None) -> Dataset:
        """The data set it was trained on, split as it was then.

        Args:
            data_root: Where CIFAR-10 lies, as in `Execution`; where the pictures of a folder lie
                now, if they have moved.

        Raises:
            DataError: The data is not there.
            RunError: The data found has another fingerprint.
        """
        config = self.config
        name = config.dataset
        if name.startswith("folder:") and data_root is not None:
            name, data_root = f"folder:{data_root}", None
        dataset = load_for(dataclasses.replace(config, dataset=name), data_root)
        if dataset.fingerprint != self.data.fingerprint:
            raise RunError(
                f"{config.dataset} as found has fingerprint {dataset.fingerprint[:12]}…, the run "
                f"{self.path} was trained on {self.data.fingerprint[:12]}…: give its own data"
            )
        return apply_splits(dataset, config)


def own_normalizations(norm: str, line: str) -> list[str]:
    """Those of a network that are not normlab's, each `module:Class`."""
    names = {norm, *(block.norm or "" for block in notation.parse(line))}
    return sorted(name for name in names if ":" in name)


def _refuse_unknown_code(run: Run) -> None:
    """To import a module is to run it, and a run's folder can be anybody's.

    What it names must have been imported already, or stand in the environment's NORMLAB_NORMS.
    """
    trusted = {*sys.modules, *os.environ.get("NORMLAB_NORMS", "").split()}
    for name in own_normalizations(run.config.norm, run.layout):
        module = name.partition(":")[0]
        if module not in trusted:
            raise RunError(
                f"{run.path} names the normalization {name}, which is code: if you trust what "
                f"{module} is here, put NORMLAB_NORMS={module} before the command "
                f"(in Python: import {module})"
            )


def read_metrics(path: Path) -> tuple[Epoch, ...]:
    """Reads metrics.jsonl; a last line that was cut off is left out: its epoch is done again.

    Raises:
        RunError: Another line is damaged, or a newer normlab wrote it.
    """
    try:
        lines = path.read_text().splitlines(keepends=True)
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
            content = json.loads(line)
            schema = content["schema"]
            if schema != SCHEMA:
                raise RunError(f"{path} has schema {schema!r}, this normlab reads schema {SCHEMA}")
            content = verify_checksum(content)
            del content["schema"]
            epochs.append(build(Epoch, content))
            if epochs[-1].epoch != number:
                raise ValueError(f"epoch {epochs[-1].epoch} stands in its place")
        except PARSE_ERRORS as error:
            raise RunError(f"{path}, line {number}, is damaged: {error}") from None
    return tuple(epochs)


def append_metrics(path: Path, epoch: Epoch) -> None:
    """Adds a line to metrics.jsonl, on disk when this returns.

    Raises:
        NormlabError: It cannot be written; a part of a line is left out when the file is read.
    """
    try:
        with path.open("a") as file:
            file.write(_line(epoch))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise NormlabError(f"{path} cannot be written: {error.strerror}") from error


def _line(epoch: Epoch) -> str:
    content = add_checksum({"schema": SCHEMA} | dataclasses.asdict(epoch))
    return json.dumps(content, allow_nan=False) + "\n"


T = TypeVar("T")


def build(kind: type[T], content: dict[str, Any]) -> T:
    """A dataclass from its fields' values, their types checked; TypeError where one is wrong."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    hints = get_type_hints(kind)
    for name, value in fields.items():
        if name not in hints:
            raise TypeError(f"{kind.__name__} has no {reprlib.repr(name)}")
        try:
            check_type(value, hints[name])
        except TypeCheckError:
            wanted = inspect.formatannotation(hints[name])
            raise TypeError(f"{name} must be {wanted}, not {reprlib.repr(value)}") from None
    return kind(**fields)
