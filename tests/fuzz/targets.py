"""What a stranger can hand to normlab, as bytes: each target reads it, or refuses it in a line."""

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from made_up import study
from normlab import layout, pictures, prediction
from normlab.checkpoint import Checkpoint, load_weights
from normlab.data import cifar10, folder
from normlab.errors import NormlabError
from normlab.model import Network
from normlab.run import Run, read_metrics
from normlab.sealed import seal
from normlab.study import answers
from normlab.study.record import Study
from normlab.summary import summarize
from normlab.zoo import ZOO

LONGEST = 2_000  # characters of a refusal


@dataclass(frozen=True)
class Target:
    """Something that reads bytes, and good ones to begin with."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def __call__(self, content: bytes) -> None:
        """Reads bytes; what is raised is a finding, unless it is a refusal in a line."""
        try:
            self.read(content)
        except layout.LayoutError as error:
            _, line, caret = str(error).split("\n")
            assert caret.index("^") <= len(line), error
        except NormlabError as error:
            assert "\n" not in str(error), repr(error)
            assert len(str(error)) <= LONGEST, str(error)[:LONGEST]


def in_file(name, read):
    """Reads bytes as a file of this name in a folder of its own, which `read` is given."""

    def ask(content):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            read(path)

    return ask


def resealed(lines, read):
    """As a forger does: whatever is a JSON object gets a checksum that fits, before it is read."""

    def ask(content):
        parts = content.splitlines(keepends=True) if lines else [content]
        for place, part in enumerate(parts):
            with contextlib.suppress(ValueError, RecursionError):
                found = json.loads(part)
                if isinstance(found, dict):
                    found.pop("checksum", None)
                    parts[place] = json.dumps(seal(found)).encode() + b"\n" * lines
        read(b"".join(parts))

    return ask


def resealed_study(read):
    """The same for study.json, whose costs are sealed apart."""

    def ask(content):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(content)
            if isinstance(found, dict):
                found.pop("checksum", None)
                costs = found.pop("costs", {})
                if isinstance(costs, dict):
                    costs.pop("checksum", None)
                    costs = seal(costs)
                content = json.dumps(seal(found) | {"costs": costs}).encode()
        read(content)

    return ask


def notation(content):
    """A layout, its widths and its table."""
    summarize(content.decode(errors="replace"), budget=50_000)


def run_folder(path):
    """A run's configuration, and what is asked of one that could be read."""
    run = Run.open(path.parent)
    assert layout.parse(run.layout)
    run.summary  # noqa: B018  (a network of any size is counted, not built)


def image_folder(path):
    """A data set of one's own pictures, two of each class."""
    train = path.parent.parent
    for name in ("a/other.png", "b/one.png", "b/other.png"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).write_bytes(PICTURES[0])
    folder.load(train.parent)


def encoded(kind, mode="RGB", size=(20, 12), **options):
    """A picture's file."""
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (*size, 4), dtype=np.uint8)
    Image.fromarray(values, "RGBA").convert(mode).save(file, kind, **options)
    return file.getvalue()


def pickled_batch():
    """A tiny batch in CIFAR-10's Python layout: too short to be taken, but read to its end."""
    import pickle

    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"filenames": [b"a", b"b"]}
    return tuple(pickle.dumps(batch, protocol) for protocol in (0, 2, 4))


def archived(content):
    """A .tar.gz of CIFAR-10's binary files."""
    with tempfile.TemporaryDirectory() as place:
        Path(place, "cifar-10-binary.tar.gz").write_bytes(content)
        cifar10.load(Path(place))


def decoded_pickle(content):
    """A file of CIFAR-10's Python layout."""
    with contextlib.suppress(ValueError):  # the reader's word for a damaged file
        cifar10._python_batch(content)


def npz():
    """A run's answers."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        predictions=np.zeros(3, np.uint16),
        confidences=np.ones(3, np.float32),
        labels=np.zeros(3, np.uint16),
        peak_memory=np.int64(5),
    )
    return file.getvalue()


def tar_gz():
    """An archive with a file that is too short."""
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
        member.size = 30
        archive.addfile(member, io.BytesIO(bytes(30)))
    return file.getvalue()


def written(write):
    """What `write` writes into the file whose path it is given."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "file")
        write(path)
        return path.read_bytes()


def study_json():
    """A made-up study's."""
    with tempfile.TemporaryDirectory() as place:
        study(Path(place))
        return Path(place, "study.json").read_bytes()


NANO = Path(prediction.__file__).parent / "models" / "nano"
NETWORK = Network("c:2 GAP FC")
CONFIG = (NANO / "config.json").read_bytes()
METRICS = (NANO / "metrics.jsonl").read_bytes()
WEIGHTS = (NANO / "model.safetensors").read_bytes()
STUDY = study_json()
PICTURES = (
    *(encoded("PNG", mode) for mode in ("RGB", "RGBA", "L", "1", "P", "I;16", "LA")),
    *(encoded("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    encoded("PNG", save_all=True, append_images=[Image.new("RGB", (12, 20))]),
    encoded("WEBP"),
    encoded("BMP"),  # which an image folder does not take
)

run_json = in_file("config.json", run_folder)
metrics_jsonl = in_file("metrics.jsonl", read_metrics)
study_file = in_file("study.json", lambda path: Study.open(path.parent))

TARGETS = {
    "notation": Target(notation, tuple(entry.layout.encode() for entry in ZOO.values())),
    "config": Target(run_json, (CONFIG,)),
    "config-resealed": Target(resealed(False, run_json), (CONFIG,)),
    "metrics": Target(metrics_jsonl, (METRICS,)),
    "metrics-resealed": Target(resealed(True, metrics_jsonl), (METRICS,)),
    "study": Target(study_file, (STUDY,)),
    "study-resealed": Target(resealed_study(study_file), (STUDY,)),
    "answers": Target(in_file("answers.npz", answers.read), (npz(),)),
    "checkpoint": Target(
        in_file("checkpoint.pt", Checkpoint.load),
        (written(Checkpoint(run="", model=NETWORK.state_dict(), optimizer=[]).save),),
    ),
    "weights": Target(
        in_file("model.safetensors", lambda path: load_weights(path, Network("nano"))), (WEIGHTS,)
    ),
    "cifar10-archive": Target(archived, (tar_gz(),)),
    "cifar10-pickle": Target(decoded_pickle, pickled_batch()),
    "image-folder": Target(in_file("train/a/a.png", image_folder), PICTURES[:-1]),
    "picture": Target(
        lambda content: pictures.read_picture(io.BytesIO(content), prediction.FORMATS), PICTURES
    ),
}
