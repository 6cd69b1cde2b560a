"""Readers of untrusted input: each target reads bytes, or refuses them with a one-line error."""

import contextlib
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from made_up import study
from normlab.data import images, load
from normlab.data.cifar import layouts
from normlab.errors import NormlabError
from normlab.inference import pictures
from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.network.zoo import ZOO
from normlab.notation import LayoutError, parse
from normlab.runs.checkpoint import Checkpoint, load_weights
from normlab.runs.metrics import read_metrics
from normlab.runs.run import Run
from normlab.storage.checksums import add_checksum
from normlab.study import predictions
from normlab.study.record import Study
from peculiar import WRITTEN

LONGEST = 2_000  # characters of an error


@dataclass(frozen=True)
class Target:
    """A reader, and valid input to start from."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]

    def __call__(self, content: bytes) -> None:
        """Reads bytes. Any exception except a one-line error is a finding."""
        try:
            self.read(content)
        except LayoutError as error:
            _, line, caret = str(error).split("\n")
            assert caret.index("^") <= len(line), error
        except NormlabError as error:
            assert "\n" not in str(error), repr(error)
            assert len(str(error)) <= LONGEST, str(error)[:LONGEST]


def in_file(name, read):
    """Writes bytes to a file of this name in a temporary folder, and passes its path to `read`."""

    def read_bytes(content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            read(path)

    return read_bytes


def resealed(lines, read):
    """As a forger would: gives every JSON object a matching checksum before it is read."""

    def read_bytes(content):
        parts = content.splitlines(keepends=True) if lines else [content]
        for index, part in enumerate(parts):
            with contextlib.suppress(ValueError, RecursionError):
                value = json.loads(part)
                if isinstance(value, dict):
                    value.pop("checksum", None)
                    parts[index] = json.dumps(add_checksum(value)).encode() + b"\n" * lines
        read(b"".join(parts))

    return read_bytes


def resealed_study(read):
    """The same for study.json, whose costs have a checksum of their own."""

    def read_bytes(content):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(content)
            if isinstance(value, dict):
                value.pop("checksum", None)
                costs = value.pop("costs", {})
                if isinstance(costs, dict):
                    costs.pop("checksum", None)
                    costs = add_checksum(costs)
                content = json.dumps(add_checksum(value) | {"costs": costs}).encode()
        read(content)

    return read_bytes


def notation(content):
    """A layout, its widths and its table."""
    summarize(content.decode(errors="replace"))


def run_folder(path):
    """A run's configuration: if it can be read, so can its layout and its summary."""
    run = Run.open(path.parent)
    assert parse(run.layout)
    run.summary  # noqa: B018  (a network of any size is counted, not built)


def image_folder(path):
    """A folder of images, two per class."""
    train = path.parent.parent
    for name in ("a/other.png", "b/one.png", "b/other.png"):
        (train / name).parent.mkdir(exist_ok=True)
        (train / name).write_bytes(PICTURES[0])
    load(f"folder:{train.parent}")


def encoded(kind, mode="RGB", size=(20, 12), **options):
    """The content of a picture's file."""
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (*size, 4), dtype=np.uint8)
    Image.fromarray(values, "RGBA").convert(mode).save(file, kind, **options)
    return file.getvalue()


def pickled_batch():
    """A tiny batch in CIFAR-10's Python layout: too short to be accepted, but read to its end."""
    import pickle

    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"filenames": [b"a", b"b"]}
    return tuple(pickle.dumps(batch, protocol) for protocol in (0, 2, 4))


def images_of(folder):
    """Reads a CIFAR-10 with one image per file: either completely or not at all."""
    with patch.object(layouts, "RECORDS", 1):
        dataset = load("cifar10", data_root=folder, channels="colour")
    assert dataset.train.images.shape == (5, 3, 32, 32)
    assert dataset.test.labels.shape == (1,)
    assert dataset.train.labels.max() < 10


def binary_file(path):
    """One file of CIFAR-10's binary layout; the five others are valid."""
    for name, content in BINARY.items():
        if name != path.name:
            path.with_name(name).write_bytes(content)
    images_of(path.parent)


def unpacked(content):
    """The tar inside a .tar.gz of the binary layout: so every byte reaches its reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cifar-10-binary.tar.gz")
        path.write_bytes(gzip.compress(content, compresslevel=1))
        images_of(Path(folder))


def with_checksums(read):
    """As a forger would: gives each header of an archive a matching checksum before it is read."""

    def read_bytes(content):
        content = bytearray(content)
        for start in range(0, len(content) - 511, 512):
            if content[start + 257 : start + 262] == b"ustar":
                content[start + 148 : start + 156] = b" " * 8
                content[start + 148 : start + 156] = b"%06o\0 " % sum(content[start : start + 512])
        read(bytes(content))

    return read_bytes


def decoded_pickle(content):
    """A file of CIFAR-10's Python layout."""
    with contextlib.suppress(ValueError):  # how the decoder refuses a damaged file
        layouts.CIFAR10.python.decode(content, layouts.RECORDS)


def npz():
    """A run's predictions."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        predictions=np.zeros(3, np.uint16),
        confidences=np.ones(3, np.float32),
        labels=np.zeros(3, np.uint16),
        peak_memory=np.int64(5),
    )
    return file.getvalue()


def archive(*hostile, **format):
    """A .tar of the binary layout, after hostile members: their names, types and links."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **format) as tar:
        for name, kind, link in hostile:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, link
            tar.addfile(member)
        for name, content in BINARY.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def written(write):
    """The bytes that `write` writes to the path it is given."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        write(path)
        return path.read_bytes()


def study_json():
    """study.json of an invented study."""
    with tempfile.TemporaryDirectory() as folder:
        study(Path(folder))
        return Path(folder, "study.json").read_bytes()


BINARY = {
    f"{name}.bin": bytes([label]) + bytes(range(256)) * 12
    for label, name in enumerate(layouts.CIFAR10.python.batches)
}
ARCHIVES = (
    archive(),
    archive(
        ("cifar-10-batches-bin/test_batch.bin", tarfile.SYMTYPE, "/etc/passwd"),
        ("cifar-10-batches-bin/data_batch_1.bin", tarfile.LNKTYPE, "../../outside"),
        ("cifar-10-batches-bin/data_batch_2.bin", tarfile.DIRTYPE, ""),
        ("cifar-10-batches-bin/data_batch_3.bin", tarfile.CHRTYPE, ""),
        ("cifar-10-batches-bin/data_batch_4.bin", tarfile.FIFOTYPE, ""),
        ("../cifar-10-batches-bin/data_batch_5.bin", tarfile.REGTYPE, ""),
        ("/etc/passwd", tarfile.REGTYPE, ""),
    ),
    archive(("é" * 200, tarfile.SYMTYPE, "ü" * 200), format=tarfile.PAX_FORMAT),
    archive(("a" * 200, tarfile.SYMTYPE, "b" * 200), format=tarfile.GNU_FORMAT),
)
NANO = Path(pictures.__file__).parents[1] / "models" / "nano"
NETWORK = Network("c:2 GAP FC")
CONFIG = (NANO / "config.json").read_bytes()
METRICS = (NANO / "metrics.jsonl").read_bytes()
WEIGHTS = (NANO / "model.safetensors").read_bytes()
STUDY = study_json()
OTHER_KINDS = ("GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "TGA")
PICTURES = (
    *(encoded("PNG", mode) for mode in ("RGB", "RGBA", "L", "1", "P", "I;16", "LA")),
    *(encoded("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    encoded("PNG", save_all=True, append_images=[Image.new("RGB", (12, 20))]),
    encoded("WEBP"),
    encoded("WEBP", lossless=True),
    encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (12, 20))]),
    encoded("BMP"),
    encoded("ICO", size=(48, 48)),
    *(encoded(kind) for kind in OTHER_KINDS if kind in WRITTEN),
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
    "answers": Target(
        in_file("answers.npz", lambda path: predictions.read(path, images=3, classes=1)), (npz(),)
    ),
    "checkpoint": Target(
        in_file("checkpoint.pt", Checkpoint.load),
        (written(Checkpoint(run="", model=NETWORK.state_dict(), optimizer=[]).save),),
    ),
    "weights": Target(
        in_file("model.safetensors", lambda path: load_weights(path, Network("nano"))), (WEIGHTS,)
    ),
    "cifar10-binary": Target(
        in_file("cifar-10-batches-bin/data_batch_3.bin", binary_file),
        (BINARY["data_batch_3.bin"],),
    ),
    "cifar10-archive": Target(
        in_file("cifar-10-binary.tar.gz", lambda path: images_of(path.parent)),
        tuple(gzip.compress(content, mtime=0) for content in ARCHIVES),
    ),
    "cifar10-members": Target(unpacked, ARCHIVES),
    "cifar10-members-forged": Target(with_checksums(unpacked), ARCHIVES),
    "cifar10-pickle": Target(decoded_pickle, pickled_batch()),
    "image-folder": Target(in_file("train/a/a.png", image_folder), PICTURES),
    "picture": Target(lambda content: images.read_picture(io.BytesIO(content)), PICTURES),
}
