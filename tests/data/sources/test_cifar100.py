"""CIFAR-100 in its published layouts, with its fine and its coarse labels; invented images."""

import hashlib

import numpy as np
import pytest

from cifar10_files import python2_pickle, tar, write_all
from normlab import RunConfig
from normlab.data import load
from normlab.data.cifar import download, layouts
from normlab.data.cifar.files import PUBLISHED
from normlab.data.sources import cifar100
from normlab.errors import DataError, UsageError
from normlab.training.loop import train

BINARY, PYTHON = "cifar-100-binary", "cifar-100-python"


class MadeUp:
    """A hundred training and twenty test images."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.pixels = rng.integers(0, 256, (120, 3072), dtype=np.uint8)
        self.fine = rng.permutation(120) % 100
        self.coarse = self.fine % 20

    def parts(self):
        return {"train": slice(100), "test": slice(100, 120)}.items()

    def binary(self):
        return {
            f"{name}.bin": np.hstack(
                [
                    self.coarse[part, None].astype(np.uint8),
                    self.fine[part, None].astype(np.uint8),
                    self.pixels[part],
                ]
            ).tobytes()
            for name, part in self.parts()
        }

    def batch(self, part):
        return {
            b"fine_labels": self.fine[part].tolist(),
            b"coarse_labels": self.coarse[part].tolist(),
            b"data": self.pixels[part],
            b"filenames": [b"x.png"] * len(self.fine[part]),
        }

    def python(self):
        return {name: python2_pickle(self.batch(part)) for name, part in self.parts()}


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    monkeypatch.setattr(layouts, "RECORDS", 20)
    monkeypatch.setattr(download, "SITE", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # between two attempts
    monkeypatch.delenv("NORMLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return MadeUp()


def error_of(*arguments, **options):
    with pytest.raises(DataError) as caught:
        load(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


PLACES = {
    "a binary archive": lambda root, data: write_all(
        root, {"cifar-100-binary.tar.gz": tar(data.binary(), BINARY)}
    ),
    "a Python archive": lambda root, data: write_all(
        root, {"cifar-100-python.tar.gz": tar({"meta": b"", **data.python()}, PYTHON)}
    ),
    "a binary folder": lambda root, data: write_all(root / BINARY, data.binary()),
    "a Python folder": lambda root, data: write_all(root / PYTHON, data.python()),
    "binary files": lambda root, data: write_all(root, data.binary()),
    "Python files": lambda root, data: write_all(root, data.python()),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("name", "classes"), [("cifar100", 100), ("cifar100:coarse", 20)])
def test_every_layout_gives_the_same_images(place, name, classes, made_up, tmp_path):
    PLACES[place](tmp_path, made_up)
    dataset = load(name, data_root=tmp_path)
    assert dataset.name == name
    assert len(dataset.classes) == len(set(dataset.classes)) == classes
    assert (dataset.train.images.reshape(100, -1) == made_up.pixels[:100]).all()
    assert (dataset.test.images.reshape(20, -1) == made_up.pixels[100:]).all()
    labels = made_up.fine if classes == 100 else made_up.coarse
    assert (dataset.train.labels == labels[:100]).all()
    assert (dataset.test.labels == labels[100:]).all()


def test_the_classes_are_the_published_ones_in_their_order():
    fine, coarse = (cifar100.BY_LABELS[key].classes for key in ("", "coarse"))
    assert (fine[0], fine[49], fine[99]) == ("apple", "mountain", "worm")
    assert (coarse[0], coarse[9], coarse[19]) == (
        *("aquatic_mammals", "large_man-made_outdoor_things"),
        "vehicles_2",
    )


def test_the_published_files_are_known_by_their_checksums(made_up, tmp_path, monkeypatch):
    content = tar(made_up.binary(), BINARY)
    write_all(tmp_path, {"cifar-100-binary.tar.gz": content})
    (note,) = load("cifar100", data_root=tmp_path).notes
    assert note == "not the published CIFAR-100 files, by their MD5: cifar-100-binary.tar.gz"
    monkeypatch.setitem(PUBLISHED, "cifar-100-binary.tar.gz", hashlib.md5(content).hexdigest())
    assert load("cifar100", data_root=tmp_path).notes == ()
    assert len({*PUBLISHED.values()}) == len(PUBLISHED) == 12


def test_a_label_without_a_class_is_refused(made_up, tmp_path):
    made_up.fine[3] = 100
    write_all(tmp_path, made_up.binary())
    assert "train.bin in" in error_of("cifar100", data_root=tmp_path)
    assert error_of("cifar100", data_root=tmp_path).endswith("label 100 is above 99")


def test_a_malformed_file_is_named(made_up, tmp_path):
    files = made_up.python()
    batch = made_up.batch(slice(100, 120))
    del batch[b"coarse_labels"]
    write_all(tmp_path, {**files, "test": python2_pickle(batch)})
    assert len(load("cifar100", data_root=tmp_path).test) == 20
    text = error_of("cifar100:coarse", data_root=tmp_path)
    assert "b'coarse_labels' should be a list of 20 labels" in text


def test_what_is_missing_is_said(made_up, tmp_path):
    text = error_of("cifar100", data_root=tmp_path)
    for part in ("no CIFAR-100 in", "cifar-100-binary.tar.gz", "cifar-100-python", "--data-root"):
        assert part in text
    (tmp_path / "train").mkdir()  # of other data
    (tmp_path / "test").mkdir()
    assert error_of("cifar100", data_root=tmp_path) == text
    assert cifar100.needs_download()
    assert "CIFAR-100 could not be downloaded (no full answer" in error_of("cifar100:coarse")


def test_other_labels_are_refused():
    with pytest.raises(UsageError, match="there are cifar100 and cifar100:coarse"):
        load("cifar100:medium")


def test_a_run_on_coarse_labels_finds_its_data_again(made_up, tmp_path):
    PLACES["binary files"](tmp_path / "here", made_up)
    dataset = load("cifar100:coarse", data_root=tmp_path / "here")
    config = RunConfig(
        network="c:2 GAP FC", dataset="cifar100:coarse", recipe="demo", epochs=1, batch_size=50
    )
    run = train(config, tmp_path / "run", dataset=dataset, quiet=True)
    (tmp_path / "here").rename(tmp_path / "there")
    assert run.dataset(tmp_path / "there").fingerprint == dataset.fingerprint
