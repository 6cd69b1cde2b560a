"""Exports a run's network to a file and checks that the file predicts what the network predicts."""

import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from normlab.data import Split
from normlab.errors import NormlabError, UsageError, printable
from normlab.export import formats
from normlab.export.folding import InferenceModel
from normlab.export.program import Pixels, PredictFn, Probabilities, trace
from normlab.inference.predict import BATCH
from normlab.network.model import Network
from normlab.runs.isolation import isolated
from normlab.runs.run import Run
from normlab.runs.trust import custom_code
from normlab.storage.files import refuse_foreign, write_atomically
from normlab.version import __version__
from normlab.wording import counted, kilobytes, percent

if TYPE_CHECKING:
    from normlab.export.browser.page import ExportedPage
    from normlab.export.firmware.write import Program

CHECK_IMAGES = 1000  # of the test split
CALIBRATION_IMAGES = 1000  # of the training split
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What int8 costs in accuracy, and what it saves in bytes.

    Attributes:
        float_size: Bytes of the float32 file.
        images: Number of images in the test split.
        float_correct: How many of them are classified correctly in float32.
        correct: How many in int8.
    """

    float_size: int
    images: int
    float_correct: int
    correct: int

    def __str__(self) -> str:
        def accuracy(correct: int) -> str:
            return percent(correct / self.images, self.images)

        lost = self.float_correct - self.correct
        if lost == 0:
            change = "none lost"
        else:
            change = f"{counted(abs(lost), 'image')} {'lost' if lost > 0 else 'gained'}"
        return (
            f"accuracy on {self.images:,} test images: {accuracy(self.float_correct)} in float32, "
            f"{accuracy(self.correct)} in int8: {change}"
        )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written, and how it was checked.

    Attributes:
        path: The file.
        size: Its bytes.
        images: Number of test images on which the file (for int8, the float32 file it was made
            from) was compared with the trained network. The predicted classes were equal.
        difference: The largest difference of a probability.
        quantized: What int8 costs; None for float32.
    """

    path: Path
    size: int
    images: int
    difference: float
    quantized: Quantized | None = None

    def __str__(self) -> str:
        written = f"{printable(str(self.path))}: {kilobytes(self.size)}"
        checked = (
            f"against PyTorch on {self.images:,} test images: equal classes, "
            f"probabilities within {self.difference:.1e}"
        )
        if self.quantized is None:
            return f"{written}\nchecked {checked}"
        written += f", {kilobytes(self.quantized.float_size)} in float32"
        return f"{written}\nthe float32 network was checked {checked}\n{self.quantized}"


@isolated()
def export_run(
    run: Run | Sequence[Run],
    to: str,
    out: Path | str | None = None,
    *,
    int8: bool = False,
    float32: bool = False,
    unproved: bool = False,
    data_root: Path | None = None,
) -> "Exported | ExportedPage | Program":
    """Exports a finished run's network to a file for use without normlab; `c`: to a folder.

    The exported network maps pixels, uint8 N × C × S × S, to probabilities, float32 N × classes.
    Before the file is written it is run on 1,000 test images (all, where there are fewer). It must
    predict the same classes as the trained network, with probabilities within 1e-5.

    The C program maps pixels to scores and is checked as docs/microcontroller.md says.

    A page, `html`, predicts pictures in a browser, by one network or several side by side. It is
    checked where it is opened, and needs no data.

    Args:
        run: The run; for `html` one or several.
        to: The format: `onnx`, `pt2` (PyTorch's exported program), `c` or `html`.
        out: The file or folder. Default: in the run's folder, model.onnx, model-int8.onnx,
            model.pt2, model-c or model.html. A page about several runs: in the folder that holds
            them all.
        int8: Quantize to int8. This changes the predictions; the accuracy is measured on the whole
            test split. `c` is int8 unless it is `float32`.
        float32: `c` in single floats.
        unproved: Write `c` without compiling it, as where there is no C compiler.
        data_root: Where the data lies, as in `Execution`.

    Raises:
        UsageError: There is no such format, it has no int8 or takes one run only, `out` has another
            suffix or is another program's file, a library is not installed, or a page's network is
            custom code.
        RunError: The run is not finished, its data has changed, or its outputs are not finite.
        DataError: The run's data is not there.
        NormlabError: The network cannot be exported (custom code is the usual cause), the exported
            network predicts differently, or the file cannot be written.
    """
    export_format = formats.find(to)
    if not isinstance(export_format, formats.FolderFormat):
        for flag, given in (("--float", float32), ("--unproved", unproved)):
            if given:
                raise UsageError(f"--to {to} has no {flag}: leave it out")
        if int8 and getattr(export_format, "quantize", None) is None:
            raise UsageError(f"--to {to} has no int8: leave out --int8")
    if int8 and float32:
        raise UsageError("--int8 and --float exclude each other: leave one out")
    runs = [run] if isinstance(run, Run) else run
    if isinstance(export_format, formats.PageFormat):
        return export_format.write(runs, Path(out) if out else None)
    if len(runs) != 1:
        raise UsageError(f"expected one run's folder, or --model NAME, got {len(runs)}")
    run = runs[0]
    path = Path(out) if out else run.path / formats.file_name("model", to, int8=int8)
    if isinstance(export_format, formats.FolderFormat):
        return export_format.write(
            run, path, float32=float32, unproved=unproved, data_root=data_root
        )
    quantize = export_format.quantize if int8 else None
    if path.suffix.lower() != export_format.suffix:  # protects the run's own files
        raise UsageError(f"--out {path}: end its name with {export_format.suffix}")
    if out:
        refuse_foreign(path, b"normlab")  # a key of the metadata, in both formats near the end
    _require_libraries(to, export_format)
    network = run.network()
    dataset = run.dataset(data_root, any_copy=True)
    metadata = metadata_of(run)
    sample = sample_of(dataset.test, CHECK_IMAGES).images
    expected = predict_in_batches(eager(network), sample)
    quantized = None
    with _translate_errors(run, to):
        content = export_format.write(trace(InferenceModel(network)), metadata)
        predict = export_format.load(content)
        difference = largest_difference(expected, predict_in_batches(predict, sample))
        if quantize is not None:
            float_size = len(content)
            calibration = sample_of(dataset.train, CALIBRATION_IMAGES).images
            content = quantize(content, calibration, metadata)
            quantized = Quantized(
                float_size=float_size,
                images=len(dataset.test),
                float_correct=count_correct(predict, dataset.test),
                correct=count_correct(export_format.load(content), dataset.test),
            )
    write_atomically(path, content)
    return Exported(
        path=path,
        size=len(content),
        images=len(sample),
        difference=difference,
        quantized=quantized,
    )


def predict_in_batches(predict: PredictFn, pixels: Pixels) -> Probabilities:
    """Predicts many images. The first batch is a single image, to test that any size works."""
    ends = sorted({0, 1, *range(BATCH, len(pixels), BATCH), len(pixels)})
    return np.concatenate([predict(pixels[a:b]) for a, b in pairwise(ends)])


def count_correct(predict: PredictFn, split: Split) -> int:
    """How many images of a split are classified correctly."""
    return int((predict_in_batches(predict, split.images).argmax(1) == split.labels).sum())


def _require_libraries(to: str, export_format: formats.Format) -> None:
    missing = [name for name in export_format.libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'--to {to} needs {missing[0]}: pip install "normlab[export]"')


def metadata_of(run: Run) -> dict[str, str]:
    """What the file says about the network's origin."""
    return {
        "classes": json.dumps(run.data.classes),
        "input": json.dumps(run.config.shape),
        "layout": run.layout,
        "norm": run.config.norm,
        "activation": run.summary.activation,
        "seed": str(run.config.seed),
        "weights": run.weights_digest(),
        "fingerprint": run.data.fingerprint,
        "normlab": __version__,
    }


def sample_of(split: Split, count: int) -> Split:
    """`count` images evenly spaced over a split: image folders are sorted by class."""
    return split.take(np.linspace(0, len(split) - 1, min(count, len(split))).astype(np.int64))


def eager(network: Network) -> PredictFn:
    """Predicts with the trained network itself.

    Its images are not channels last: normlab's compiled passes leave those to PyTorch's layers.
    """

    @torch.inference_mode()
    def predict(pixels: Pixels) -> Probabilities:
        logits: Tensor = network(torch.from_numpy(pixels).to(torch.float32) / 255)
        return logits.softmax(1).numpy()

    return predict


def largest_difference(expected: Probabilities, exported: Probabilities) -> float:
    """The largest difference of a probability; NormlabError if it or a class differs too much."""
    difference = float(np.abs(expected - exported).max())
    changed = int((expected.argmax(1) != exported.argmax(1)).sum())
    if changed or not difference <= TOLERANCE:  # NaN fails too
        raise NormlabError(
            f"the exported network predicts differently: another class on {changed} of "
            f"{len(expected):,} test images, probabilities up to {difference:.1e} apart "
            f"(at most {TOLERANCE} is allowed). Nothing was written"
        )
    return difference


@contextmanager
def _translate_errors(run: Run, to: str) -> Iterator[None]:
    """Turns errors into one line that names the custom code: it can raise anything."""
    try:
        yield
    except NormlabError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        message = str(cause).strip().partition("\n")[0]
        problem = f"{type(cause).__name__}: {message}"
        parts = [
            f"its {code.what} is {code.name}" for code in custom_code(run.config.norm, run.layout)
        ]
        if parts:
            problem = f"{' and '.join(parts)}, which raises {problem}"
        raise NormlabError(f"{run.path} cannot be exported to {to}: {problem}") from error
