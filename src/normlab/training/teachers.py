"""A teacher: a trained network whose outputs a run learns from, beside the labels.

Hinton, Vinyals & Dean 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531.

The teacher computes its logits once, for each training image and, where the recipe mirrors, for its
mirror image. Training reads them from this table, so the teacher costs it next to nothing. The
other steps of augmentation have too many views (`shift`: 25 of an image and 25 of its mirror
image): there the logits are those of the image before these steps.
"""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normlab import own_code
from normlab.config import TrainingConfig
from normlab.data import Dataset
from normlab.errors import RunError, UsageError, printable
from normlab.inference.evaluate import to_input
from normlab.inference.predict import MODELS, named_run
from normlab.network import zoo
from normlab.notes import note_once
from normlab.runs.provenance import Teacher
from normlab.runs.run import Run, another_copy
from normlab.storage.files import write_atomically
from normlab.storage.reading import read_bytes
from normlab.storage.records import MalformedError
from normlab.training.precision import products_in
from normlab.wording import shape_text

TABLE = "teacher.npy"  # in the folder of a run, or of a study for all its runs
LARGEST = 2**32  # bytes
BATCH = 500

Logits = Callable[[Tensor, torch.device], Tensor]


@dataclass(frozen=True)
class TeacherNetwork:
    """A network that can teach.

    Attributes:
        text: What --teacher named.
        name: As in `Teacher`.
        weights: As in `Teacher`.
        logits: From images, uint8 N × C × S × S, and a device to logits, N × classes.
        run: The run that trained it; None for a function.
    """

    text: str
    name: str
    weights: str
    logits: Logits
    run: Run | None = None

    def check(self, dataset: Dataset, *, held_out: int, split_seed: int) -> None:
        """Refuses a teacher that does not fit the data.

        What a function learned from is not known; its outputs are checked when they are computed.

        Args:
            dataset: The student's data set.
            held_out: How many images are held out of its training split, to choose settings by.
            split_seed: Seed of that split.

        Raises:
            UsageError: It has other classes, learned from other data, or saw the held-out images.
        """
        if self.run is None:
            return
        data, shape = self.run.data, self.run.config.shape
        if data.classes != dataset.classes:
            theirs = _some_missing(data.classes, dataset.classes)
            own = _some_missing(dataset.classes, data.classes)
            raise UsageError(
                f"--teacher {self.text} has other classes than {dataset.name} ({theirs}, "
                f"not {own}): choose a teacher trained on the same data"
            )
        if shape != dataset.shape:
            raise UsageError(
                f"--teacher {self.text} sees images of {shape_text(shape)}, the student of "
                f"{shape_text(dataset.shape)}: give both the same --size and --channels"
            )
        if data.fingerprint != dataset.fingerprint:
            if not self.run.trained_on_copy_of(dataset):
                raise UsageError(
                    f"--teacher {self.text} was trained on other data (fingerprint "
                    f"{data.fingerprint[:12]}…, {dataset.name} has {dataset.fingerprint[:12]}…): "
                    "choose a teacher trained on the same data"
                )
            note_once(another_copy(dataset.name, f"the teacher {self.text}"))
        if held_out and (data.holdout, self.run.config.split_seed) != (held_out, split_seed):
            seed = f" --split-seed {split_seed}" if split_seed else ""
            raise UsageError(
                f"--teacher {self.text} saw images that are held out here to choose settings by: "
                f"train it with --holdout {held_out}{seed}"
            )

    def teach(
        self,
        dataset: Dataset,
        *,
        held_out: int,
        split_seed: int,
        mirror: bool,
        device: torch.device,
    ) -> Dataset:
        """The data set with the teacher's logits for its training images.

        Args:
            dataset: The student's data set.
            held_out: As in `check`.
            split_seed: As in `check`.
            mirror: Whether there are logits for the mirror images, too.
            device: The device that computes them.

        Raises:
            UsageError: The teacher does not fit the data, or its logits are not finite.
        """
        self.check(dataset, held_out=held_out, split_seed=split_seed)
        images = torch.from_numpy(dataset.train.images)
        parts = []
        for batch in torch.split(images, BATCH):
            views = [batch, batch.flip(3)] if mirror else [batch]
            parts.append(torch.stack([self._checked(view, dataset, device) for view in views], 1))
        train = replace(dataset.train, taught=torch.cat(parts).numpy())
        return replace(dataset, train=train, teacher=(self.name, self.weights))

    @torch.no_grad()
    def _checked(self, images: Tensor, dataset: Dataset, device: torch.device) -> Tensor:
        """Logits as float16 on the CPU; UsageError if they are not those of a classifier."""
        logits = self.logits(images, device).to("cpu", torch.float16)
        shape = len(images), len(dataset.classes)
        if logits.shape != shape:
            raise UsageError(
                f"--teacher {self.text}: its outputs for {len(images)} images have the shape "
                f"{list(logits.shape)}, expected images × classes, {list(shape)}"
            )
        if not logits.isfinite().all():
            raise UsageError(
                f"--teacher {self.text}: an output is not finite, or above 65,504 in size: "
                "expected logits"
            )
        return logits


def _some_missing(classes: Sequence[str], others: Sequence[str]) -> str:
    """The first classes that others lack; the first of all if only their order differs."""
    names = [name for name in classes if name not in others] or classes
    return ", ".join(shorten(name, 30) for name in names[:3]) + " …" * (len(names) > 3)


def check_settings(config: TrainingConfig) -> None:
    """Raises UsageError if a teacher's settings have no teacher."""
    if config.teacher is None:
        for name in ("teacher_weight", "teacher_temperature"):
            if getattr(config, name) != TrainingConfig.__dataclass_fields__[name].default:
                raise UsageError(f"--{name.replace('_', '-')} needs a --teacher")


def find(text: str) -> TeacherNetwork:
    """The teacher that `--teacher` names.

    Args:
        text: A finished run's folder; the name of a network that comes with normlab; or
            `module:function`, which gets images, uint8 N × C × S × S on the CPU, and returns
            logits, N × classes, as a tensor or an array.

    Raises:
        UsageError: There is no such folder, name or function.
        RunError: The folder is not a run's, or the run is not finished or damaged.
    """
    if (run := named_run(text, "--teacher")) is not None:
        return _from_run(text, run)
    if ":" in text:
        return _from_function(text)
    raise UsageError(
        f"--teacher {text}: there is no such folder; expected the folder of a finished run, "
        f"{', '.join(MODELS)} or module:function"
    )


def _from_run(text: str, run: Run) -> TeacherNetwork:
    network = run.network()
    config = run.config

    def logits(images: Tensor, device: torch.device) -> Tensor:
        network.to(device)
        with products_in(config.precision, device):  # as in its training
            outputs: Tensor = network(to_input(images.to(device)))
        return outputs

    name = f"{zoo.short_name(config.network)}-{config.norm}-{config.seed}"
    return TeacherNetwork(text, name, run.weights_digest(), logits, run)


def _from_function(text: str) -> TeacherNetwork:
    function = own_code.find(text, f"--teacher {text}", "function", callable)

    def logits(images: Tensor, _: torch.device) -> Tensor:
        try:
            found: Any = function(images)
            return torch.as_tensor(found)
        except Exception as error:  # the user's code can raise anything
            raise UsageError(f"--teacher {text} failed: {own_code.described(error)}") from error

    return TeacherNetwork(text, text, "", logits)


def recorded(dataset: Dataset) -> Teacher:
    """What a run or a study records of the teacher whose logits its data has."""
    assert dataset.teacher is not None
    assert dataset.train.taught is not None
    name, weights = dataset.teacher
    return Teacher(name=name, weights=weights, outputs=_digest(dataset.train.taught))


def write(path: Path, dataset: Dataset) -> None:
    """Writes a teacher's logits, whole or not at all. `recorded` has their checksum."""
    assert dataset.train.taught is not None
    content = io.BytesIO()
    np.save(content, dataset.train.taught)
    write_atomically(path, content.getvalue())


def read(path: Path, dataset: Dataset, teacher: Teacher, *, mirror: bool) -> Dataset:
    """The data set with the logits that were written, unless it has them already.

    Args:
        path: The file.
        dataset: The data set.
        teacher: The teacher that is recorded.
        mirror: Whether the logits of the mirror images are needed, too.

    Raises:
        RunError: They are missing or damaged, or they are not the recorded ones.
    """
    if dataset.teacher is None:
        images, classes = len(dataset.train), len(dataset.classes)
        shapes = [(images, views, classes) for views in (2, 1)[: 1 if mirror else 2]]
        train = replace(dataset.train, taught=_load(path, shapes))
        dataset = replace(dataset, train=train, teacher=(teacher.name, teacher.weights))
    if recorded(dataset) != teacher:
        raise RunError(
            f"{path.parent} learned from other outputs of its teacher, {printable(teacher.name)}: "
            f"put its {path.name} back, or delete the folder and train anew"
        )
    return dataset


def _load(path: Path, shapes: Sequence[tuple[int, ...]]) -> NDArray[np.float16]:
    """The logits of one of these shapes; RunError if the file holds others, or none."""
    try:
        content = read_bytes(path, LARGEST)
        file = io.BytesIO(content)
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != np.float16 or shape not in shapes:
            raise MalformedError(f"it has {dtype}, {shape}, expected float16, {shapes[-1]}")
        table: NDArray[np.float16] = np.load(io.BytesIO(content), allow_pickle=False)
    except FileNotFoundError:
        raise RunError(
            f"{path}, with the teacher's outputs, is missing: if the run belongs to a study, "
            "repeat the study's command; else train again into another --out"
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # damage can look like an archive, a pickle, any text
        reason = shorten(printable(str(error)), 100) or type(error).__name__
        raise RunError(f"{path} is damaged: {reason}") from None
    return table


def _digest(table: NDArray[np.float16]) -> str:
    """SHA-256 (hex) of shape and values."""
    values = np.ascontiguousarray(table, dtype="<f2")
    return hashlib.sha256(f"{list(values.shape)}\n".encode() + values.tobytes()).hexdigest()
