"""Writes a run's network as a file for use elsewhere, once that answers as the network does."""

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from normlab.data import Split
from normlab.errors import NormlabError, UsageError
from normlab.export.folding import InferenceModel
from normlab.export.formats import (
    Pixels,
    PredictFn,
    Probabilities,
    open_onnx,
    open_pt2,
    to_int8,
    to_onnx,
    to_pt2,
    trace,
)
from normlab.inference.predict import BATCH
from normlab.network.model import Network
from normlab.runs.run import Run
from normlab.storage.files import write_atomically
from normlab.version import __version__
from normlab.wording import kilobytes, percent

COMPARED = 1000  # test images
CALIBRATING = 1000  # training images
TOLERANCE = 1e-5
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What 8 bits cost, and what they save.

    Attributes:
        float_size: Bytes of the float32 file.
        images: Images of the test split, all of them.
        float_correct: How many are answered rightly in float32.
        correct: How many in int8.
    """

    float_size: int
    images: int
    float_correct: int
    correct: int

    def __str__(self) -> str:
        def share(correct: int) -> str:
            return percent(correct / self.images, self.images)

        lost = self.float_correct - self.correct
        images = f"{abs(lost):,} image{'s' * (abs(lost) > 1)}"
        change = f"{images} {'lost' if lost > 0 else 'gained'}" if lost else "none lost"
        return (
            f"accuracy on {self.images:,} test images: {share(self.float_correct)} in float32, "
            f"{share(self.correct)} in int8: {change}"
        )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and how it was checked.

    Attributes:
        path: The file.
        size: Its bytes.
        images: Test images that it, or the float32 file that int8 was made from, was compared on
            with the trained network: the classes were equal.
        difference: The largest difference of a probability.
        quantized: What int8 costs; None for float32.
    """

    path: Path
    size: int
    images: int
    difference: float
    quantized: Quantized | None = None

    def __str__(self) -> str:
        written = f"{self.path}: {kilobytes(self.size)}"
        checked = (
            f"against PyTorch on {self.images:,} test images: equal classes, "
            f"probabilities within {self.difference:.1e}"
        )
        if self.quantized is None:
            return f"{written}\nchecked {checked}"
        written += f", {kilobytes(self.quantized.float_size)} in float32"
        return f"{written}\nthe float32 network was checked {checked}\n{self.quantized}"


def export_run(
    run: Run,
    to: Literal["onnx", "pt2"],
    out: Path | str | None = None,
    *,
    int8: bool = False,
    data_root: Path | None = None,
) -> Exported:
    """Writes a finished run's network as ONNX or as PyTorch's exported program.

    It takes pixels, uint8 N × 3 × 32 × 32, and gives probabilities, float32 N × classes. Before it
    is written it is run, by ONNX Runtime or PyTorch, on 1,000 test images (all, where there are
    fewer): it must choose the trained network's classes, with probabilities within 1e-5.

    Args:
        run: The run.
        to: The format.
        out: The file. Default: in the run's folder, model.onnx, model-int8.onnx or model.pt2.
        int8: Whether to quantize, which is not exact: how accurate it is, is measured on the whole
            test split.
        data_root: Where the data lies, as in `Execution`.

    Raises:
        UsageError: int8 is asked of pt2, `out` is named as another kind of file, or a library is
            not installed.
        RunError: The run is not finished, or its data is not what it was.
        DataError: Its data is not there.
        NormlabError: The network cannot be exported (its normalization is the user's own), the
            exported one answers differently, or the file cannot be written.
    """
    if int8 and to != "onnx":
        raise UsageError(f"--int8 is for --to onnx: leave it out for {to}")
    path = Path(out) if out else run.path / f"model{'-int8' if int8 else ''}.{to}"
    if path.suffix.lower() != f".{to}":  # a run's own files are safe from it
        raise UsageError(f"--out {path}: end its name with .{to}")
    if to == "onnx":
        _refuse_without_libraries()
    network = run.network()
    dataset = run.dataset(data_root)
    metadata = {
        "classes": json.dumps(run.data.classes),
        "layout": run.layout,
        "norm": run.config.norm,
        "seed": str(run.config.seed),
        "weights": sha256((run.path / "model.safetensors").read_bytes()).hexdigest(),
        "fingerprint": run.data.fingerprint,
        "normlab": __version__,
    }
    sample = _sample(dataset.test, COMPARED).images
    expected = answers(_by_pytorch(network), sample)
    quantized = None
    with _translate_errors(run, to):
        program = trace(InferenceModel(network))
        content = to_onnx(program, metadata) if to == "onnx" else to_pt2(program, metadata)
        ask = open_onnx(content) if to == "onnx" else open_pt2(content)
        difference = _compare(expected, answers(ask, sample))
        if int8:
            float_size = len(content)
            content = to_int8(content, _sample(dataset.train, CALIBRATING).images, metadata)
            quantized = Quantized(
                float_size=float_size,
                images=len(dataset.test),
                float_correct=count_correct(ask, dataset.test),
                correct=count_correct(open_onnx(content), dataset.test),
            )
    write_atomically(path, content)
    return Exported(
        path=path,
        size=len(content),
        images=len(sample),
        difference=difference,
        quantized=quantized,
    )


def answers(ask: PredictFn, pixels: Pixels) -> Probabilities:
    """The answers on many images, in batches; the first is of one image, for any number will do."""
    ends = sorted({0, 1, *range(BATCH, len(pixels), BATCH), len(pixels)})
    return np.concatenate([ask(pixels[a:b]) for a, b in pairwise(ends)])


def count_correct(ask: PredictFn, split: Split) -> int:
    """How many images of a split are answered rightly."""
    return int((answers(ask, split.images).argmax(1) == split.labels).sum())


def _by_pytorch(network: Network) -> PredictFn:
    """Asks a network by PyTorch's own layers: maps that are not channels last are left to them."""

    @torch.inference_mode()
    def ask(pixels: Pixels) -> Probabilities:
        logits: Tensor = network(torch.from_numpy(pixels).to(torch.float32) / 255)
        return logits.softmax(1).numpy()

    return ask


def _refuse_without_libraries() -> None:
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'ONNX needs {missing[0]}: pip install "normlab[export]"')


def _sample(split: Split, count: int) -> Split:
    """So many images, evenly spread over a split: folders of images are in the classes' order."""
    return split.take(np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64))


def _compare(expected: Probabilities, found: Probabilities) -> float:
    """The largest difference of a probability; an error where it, or a class, differs too much."""
    difference = float(np.abs(expected - found).max())
    other = int((expected.argmax(1) != found.argmax(1)).sum())
    if other or not difference <= TOLERANCE:  # so that NaN is refused too
        raise NormlabError(
            f"the exported network answers differently: another class on {other} of "
            f"{len(expected):,} test images, probabilities up to {difference:.1e} apart "
            f"({TOLERANCE} are allowed). Nothing was written"
        )
    return difference


@contextmanager
def _translate_errors(run: Run, to: str) -> Iterator[None]:
    """Says in a line why a network cannot be exported: a user's own layer can raise anything."""
    try:
        yield
    except NormlabError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = str(cause).strip().partition("\n")[0]
        raise NormlabError(
            f"{run.path} cannot be exported to {to}: its normalization is {run.config.norm}, "
            f"which raises {type(cause).__name__}: {said}"
        ) from error
