"""Writes the page: one file with the networks, pictures to try, style and program."""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from normlab.data import load as load_data
from normlab.data.dataset import Dataset
from normlab.errors import RunError, UsageError, printable
from normlab.export.browser.steps import Steps
from normlab.export.folding import InferenceModel
from normlab.inference.pictures import read
from normlab.inference.predict import Predictor
from normlab.network.model import Network
from normlab.runs.isolation import isolated
from normlab.runs.run import Run
from normlab.runs.several import common_folder, names
from normlab.runs.trust import custom_code
from normlab.storage.files import refuse_foreign, write_atomically
from normlab.version import __version__
from normlab.wording import SPLIT_WORDS, counted, kilobytes, large_number, listed, percent

EXAMPLES_PER_DIGIT = 2
NAMED_CLASSES = 20  # of a network, before anything is predicted
PROGRAM = ("network.js", "pictures.js", "page.js")
PAGE_MARK = b'<meta name="generator" content="normlab '  # in page.html
_FOLDER = Path(__file__).with_name("static")
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_FOLDER),
    autoescape=jinja2.select_autoescape(["html"]),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


@dataclass(frozen=True, kw_only=True)
class ExportedPage:
    """A page that was written.

    Attributes:
        path: The file.
        size: Its bytes.
        names: The runs' names on it.
    """

    path: Path
    size: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        networks = counted(len(self.names), "network")
        return (
            f"{printable(str(self.path))}: {kilobytes(self.size)} with {networks}; open it in a "
            "browser: its last line says how close its probabilities are to PyTorch's"
        )


@isolated()
def write_page(runs: Sequence[Run], out: Path | None) -> ExportedPage:
    """Writes a page that predicts pictures with finished runs' networks, side by side.

    It is one file that needs neither a server nor a network. It holds the probabilities that
    PyTorch computes for its pictures to try, and says when it is opened how far its own are from
    them.

    Args:
        runs: One run or several.
        out: The page. None: `model.html` in the run's folder, or in the folder that holds them all.

    Raises:
        UsageError: There is no run, one is given twice, a network has custom code, `out` has
            another suffix or is another program's file, or the runs have no folder in common.
        RunError: A run is not finished, or its weights or outputs are not finite.
        NormlabError: The file cannot be written.
    """
    run_names = names(runs)
    path = out or common_folder(runs) / "model.html"
    if path.suffix.lower() != ".html":  # protects the run's own files
        raise UsageError(f"--out {path}: end its name with .html")
    refuse_foreign(path, PAGE_MARK)
    content = render(runs, run_names)
    write_atomically(path, content)
    return ExportedPage(path=path, size=len(content), names=tuple(run_names))


def render(runs: Sequence[Run], run_names: Sequence[str]) -> bytes:
    """The page, in UTF-8. Raises as `write_page`."""
    for run in runs:
        _refuse_custom_code(run)
    digits = load_data("digits", channels="colour")
    pictures, labels = _examples(digits)
    networks = [_network(run, pictures) for run in runs]
    text = _TEMPLATES.get_template("page.html").render(
        version=__version__,
        title=f"normlab: {', '.join(run_names)}",
        style=_hashed(_source("style.css")),
        script=_hashed('"use strict";\n' + "\n".join(map(_source, PROGRAM))),
        sees=_sees(runs),
        familiar=any(_learned(run, digits) for run in runs),
        unfamiliar=_unfamiliar(runs, run_names, digits),
        examples=[
            {"name": f"a handwritten {label}", "source": _png(picture), "size": len(picture)}
            for picture, label in zip(pictures, labels, strict=True)
        ],
        runs=[_facts(name, run) for name, run in zip(run_names, runs, strict=True)],
        networks=_json(networks),
    )
    return text.encode(errors="replace")  # the name of a folder need not be UTF-8


def _refuse_custom_code(run: Run) -> None:
    for code in custom_code(run.config.norm, run.layout):
        raise UsageError(
            f"{run.path} cannot be exported to html: its {code.what} is {code.name}, which is "
            "Python: export it to onnx or pt2"
        )


def _network(run: Run, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, Any]:
    """What the page's program knows of a network."""
    network = run.network()
    try:
        steps = Steps(InferenceModel(network))
    except UsageError as error:
        raise UsageError(
            f"{run.path} cannot be exported to html: its normalization is {run.config.norm}, "
            f"and {error}: export it to onnx or pt2"
        ) from error
    if not steps.finite:
        raise RunError(f"{run.path} cannot be exported: its weights are not finite numbers")
    return {
        "shape": network.shape,
        "classes": run.data.classes,
        "steps": steps.steps,
        "weights": base64.b64encode(steps.weights).decode(),
        "expected": base64.b64encode(_expected(run, network, pictures).tobytes()).decode(),
    }


def _expected(
    run: Run, network: Network, pictures: Sequence[NDArray[np.uint8]]
) -> NDArray[np.float32]:
    """The probabilities for the pictures to try, N × classes, little-endian."""
    predictor = Predictor(network, run.data.classes)
    pixels = predictor.pixels([read(picture, predictor.size) for picture in pictures])
    return predictor.probabilities(pixels).astype("<f4")


def _examples(digits: Dataset) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Some of the digits' test images, S × S × 3, and their classes: the first of each class."""
    first = digits.test.first_of_each_class(EXAMPLES_PER_DIGIT, len(digits.classes))
    pictures = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in first.images]
    return pictures, [digits.classes[label] for label in first.labels]


def _png(picture: NDArray[np.uint8]) -> str:
    """A grey picture as a PNG data URI."""
    file = io.BytesIO()
    Image.fromarray(picture).convert("L").save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _source(name: str) -> str:
    """A file of the page."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hashed(text: str) -> dict[str, str]:
    """A script or a style sheet, and its hash for the page's content security policy."""
    digest = base64.b64encode(sha256(text.encode()).digest()).decode()
    return {"text": Markup(text), "hash": f"sha256-{digest}"}


def _json(value: object) -> Markup:
    """JSON for a <script>: none of its text can end that, or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c"))


def _sees(runs: Sequence[Run]) -> str:
    sizes = listed([*dict.fromkeys(_pixels(run) for run in runs)], "or")
    network = "The network" if len(runs) == 1 else "Each network"
    return f"{network} sees the square at the picture's centre in {sizes}."


def _pixels(run: Run) -> str:
    channels, height, width = run.config.shape
    return f"{width} × {height} {'grey ' if channels == 1 else ''}pixels"


def _learned(run: Run, digits: Dataset) -> bool:
    """Whether a network has learned digits, which the pictures to try are of.

    They are hidden on a page of other networks, where they are needed to check its program.
    """
    return {*run.data.classes} == {*digits.classes}


def _unfamiliar(runs: Sequence[Run], run_names: Sequence[str], digits: Dataset) -> str:
    """What to know of the pictures to try where a network has not learned digits."""
    others = [name for name, run in zip(run_names, runs, strict=True) if not _learned(run, digits)]
    if not others:
        return ""
    return (
        f"Handwritten digits. {listed(others)} learned other classes, and can only answer with one "
        "of those."
    )


def _few(classes: Sequence[str]) -> str:
    """The classes' names, or the first of many and the number of the others."""
    more = len(classes) - NAMED_CLASSES
    if more <= 0:
        return ", ".join(classes)
    return f"{', '.join(classes[:NAMED_CLASSES])} and {more:,} more"


def _facts(name: str, run: Run) -> dict[str, object]:
    """What the page says about a run."""
    summary = run.summary
    accuracy = ""
    if run.epochs:
        images = getattr(run.data, run.split)
        of = f"{images:,} {SPLIT_WORDS[run.split]} images"
        accuracy = f"{percent(run.last.accuracy, images)} of {of}"
    return {
        "name": name,
        "shape": run.config.shape,
        "layout": run.layout,
        "facts": "; ".join(filter(None, [run.config.norm, accuracy])),
        "classes": _few(run.data.classes),
        "about": (
            f"Normalization {run.config.norm}, activation {summary.activation}, "
            f"{summary.parameters:,} parameters, {large_number(summary.macs)} "
            f"multiply-accumulates for a picture; trained on {run.data.train:,} images."
        ),
    }
