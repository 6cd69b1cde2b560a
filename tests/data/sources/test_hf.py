"""Data sets of the Hugging Face Hub, from real parquet files, without a network."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image as Picture

from normlab.data import load
from normlab.errors import DataError, UsageError

datasets = pytest.importorskip("datasets")
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.slow(1)]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    """A cache of its own: the user's is neither read nor filled."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


def content(k, size=20, mode="RGB", kind="PNG"):
    """A picture like no other."""
    file = io.BytesIO()
    picture = Picture.new("RGB", (size, size), (k % 256, 7 * k % 256, 99)).convert(mode)
    picture.save(file, kind)
    return file.getvalue()


def table(start, count, features=None, label="label", image="image", labels=None, **extra):
    features = features or Features(
        {image: Image(), label: ClassLabel(names=["ant", "bee"])}
        | {name: value[0] for name, value in extra.items()}
    )
    return Dataset.from_dict(
        {
            image: [{"bytes": content(start + k), "path": None} for k in range(count)],
            label: labels or [k % 2 for k in range(count)],
            **{name: [value[1]] * count for name, value in extra.items()},
        },
        features=features,
    )


def write(folder, **tables):
    """A repository of parquet files, as the Hub has them."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, part in tables.items():
        part.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return f"hf:{folder}"


def error_of(kind, name, **options):
    with pytest.raises(kind) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


USED = "images are those of 'image', labels those of 'label'"
LOCAL = "read from a folder, not from the Hub"


def test_a_folder_of_parquet_files_is_read(tmp_path):
    name = write(tmp_path, train=table(0, 10), test=table(50, 4))
    dataset = load(name, size=16)
    assert dataset.name == name
    assert dataset.classes == ("ant", "bee")
    assert dataset.shape == (3, 16, 16)
    assert dataset.train.labels.tolist() == [0, 1] * 5
    assert dataset.train.images[:, 0, 0, 0].tolist() == [*range(10)]
    assert len(dataset.test) == 4
    assert dataset.notes == (USED, LOCAL)
    assert load(name, size=16).fingerprint == dataset.fingerprint


def test_the_splits_of_the_hub_are_known(tmp_path):
    name = write(tmp_path, train=table(0, 10), validation=table(20, 6), test=table(50, 4))
    dataset = load(name)
    assert (len(dataset.train), len(dataset.holdout or ()), len(dataset.test)) == (10, 6, 4)
    assert dataset.notes == (
        USED,
        LOCAL,
        "validation has 6 images to choose settings by, test is for the end",
    )
    (tmp_path / "data" / "test-00000-of-00001.parquet").unlink()
    assert load(name).notes == (USED, LOCAL, "validation has the test images")
    (tmp_path / "data" / "validation-00000-of-00001.parquet").unlink()
    assert load(name).notes == (
        USED,
        LOCAL,
        "the data has no test images: 2 of its 10 images were set aside to test on",
    )


def test_repeated_images_are_named(tmp_path):
    name = write(tmp_path, train=table(0, 10), test=table(8, 4))
    assert load(name).notes[2] == (
        "2 of 4 test images are training images, too (test image 0 = train image 8, "
        "test image 1 = train image 9): test accuracy is higher than on new images"
    )


def test_columns_are_found_by_their_types(tmp_path):
    name = write(
        tmp_path,
        train=table(0, 10, image="picture", label="kind", path=(Value("string"), "x")),
    )
    assert load(name).notes[0] == "images are those of 'picture', labels those of 'kind'"


def test_of_several_columns_one_is_chosen(tmp_path):
    coarse = (ClassLabel(names=["x", "y", "z"]), 1)
    part = table(0, 10, label="fine", coarse=coarse, other=(Image(), None))
    part = part.add_column("id", [k // 2 for k in range(10)])
    name = write(tmp_path, train=part)
    text = error_of(UsageError, name)
    assert (
        text == "there are 2 columns with images, image and other: choose one with --image-column"
    )
    text = error_of(UsageError, name, image_column="image")
    assert (
        text == "there are 2 columns with labels, fine and coarse: choose one with --label-column"
    )
    dataset = load(name, image_column="image", label_column="fine")
    assert dataset.classes == ("ant", "bee")
    assert load(name, image_column="image", label_column="id").classes == (*"01234",)
    text = error_of(UsageError, name, image_column="image", label_column="colour")
    assert text == (
        "--label-column colour: there is no such column with labels: there are image (Image), "
        "fine (ClassLabel), coarse (ClassLabel), other (Image) and id (int64)"
    )
    assert "--image-column id: there is no such column" in error_of(
        UsageError, name, image_column="id"
    )


@pytest.mark.parametrize(
    ("kind", "labels", "classes"),
    [
        ("string", ["tea", "caf\u00e9", "cafe\u0301", "tea"] * 3, ("caf\u00e9", "tea")),
        ("int64", [1, -1] * 6, ("-1", "1")),
        ("bool", [True, False] * 6, ("False", "True")),
    ],
)
def test_labels_may_be_text_or_numbers(kind, labels, classes, tmp_path):
    features = Features({"image": Image(), "label": Value(kind)})
    name = write(tmp_path, train=table(0, 12, features=features, labels=labels))
    dataset = load(name)
    assert dataset.classes == classes
    assert len(dataset.train) + len(dataset.test) == 12


def test_images_without_a_label_are_left_out_and_counted(tmp_path):
    name = write(
        tmp_path,
        train=table(0, 10, labels=[0, 1, None, 0, 1, -1, 0, 1, 0, 1]),
        test=table(50, 4, labels=[-1] * 4),  # as where the labels of a contest are secret
    )
    dataset = load(name)
    assert len(dataset.train) + len(dataset.test) == 8
    assert "left out: 6 images without a label" in dataset.notes
    assert (
        "the data has no test images: 2 of its 8 images were set aside to test on" in dataset.notes
    )
    name = write(tmp_path / "none", train=table(0, 4, labels=[-1] * 4))
    assert "has no training image with a label" in error_of(DataError, name)


def damaged(part, index):
    rows = part.cast_column("image", Image(decode=False)).to_list()
    rows[index]["image"]["bytes"] = b"no picture"
    return Dataset.from_list(rows, features=part.features)


def test_an_image_that_cannot_be_read_is_named_or_left_out(tmp_path):
    name = write(tmp_path, train=damaged(table(0, 10), 3), test=table(50, 4))
    text = error_of(DataError, name)
    assert f"train image 3 of {name}: the picture cannot be read as an image" in text
    assert text.endswith("--skip-unreadable leaves it out")
    dataset = load(name, skip_unreadable=True)
    assert len(dataset.train) == 9
    assert dataset.notes[2] == "left out: 1 image that could not be read"


def test_grey_images_are_read_as_pictures_are(tmp_path):
    from normlab.inference.pictures import read

    part = Dataset.from_dict(
        {
            "image": [{"bytes": content(k, 30, "L", "WEBP"), "path": None} for k in range(10)],
            "label": [k % 2 for k in range(10)],
        },
        features=Features({"image": Image(), "label": ClassLabel(names=["ant", "bee"])}),
    )
    dataset = load(write(tmp_path, train=part, test=part), size=28)
    assert dataset.shape == (1, 28, 28)
    first = read(content(0, 30, "L", "WEBP"), 28)
    assert (dataset.train.images[0, 0] == first.pixels[0]).all()


def test_a_folder_of_pictures_in_the_librarys_layout_is_read(tmp_path):
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            for k in range(3):
                file = tmp_path / part / name / f"{k}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content(len(part) * 10 + 3 * (name == "bee") + k))
    dataset = load(f"hf:{tmp_path}")
    assert dataset.classes == ("ant", "bee")
    assert (len(dataset.train), len(dataset.test)) == (6, 6)


def test_a_repository_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "marker"
    folder = tmp_path / "hostile"
    name = write(folder, train=table(0, 10))
    (folder / "hostile.py").write_text(f"open({str(marker)!r}, 'w')")
    text = error_of(DataError, name)
    assert text == (
        f"{folder} is read by a program in it, which normlab does not run: choose a repository of "
        "parquet files"
    )
    assert not marker.exists()


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "train.csv").write_text("image,label\na.png,1\n")
    assert error_of(DataError, f"hf:{tmp_path}") == (
        f"{tmp_path} has files of the kind 'csv': "
        "expected parquet, arrow, imagefolder or webdataset"
    )


def test_damaged_parquet_is_refused(tmp_path):
    name = write(tmp_path, train=table(0, 10))
    file = tmp_path / "data" / "train-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    assert f"{tmp_path} cannot be read from the Hub or the cache" in error_of(DataError, name)


def test_tables_without_images_or_labels_are_refused(tmp_path):
    part = Dataset.from_dict({"text": ["a"] * 4, "label": [0, 1, 0, 1]})
    text = error_of(DataError, write(tmp_path / "a", train=part))
    assert text == "there is no column with images: there are text (string) and label (int64)"
    features = Features({"image": Image(), "label": Sequence(Value("int64"))})
    part = table(0, 4, features=features, labels=[[1, 2]] * 4)
    text = error_of(DataError, write(tmp_path / "b", train=part))
    assert text.startswith("there is no column with labels: there are image (Image) and label (")


def test_an_unknown_split_is_left_out_and_named(tmp_path):
    name = write(tmp_path, train=table(0, 10), test=table(50, 4))
    DatasetDict({"train": table(0, 10), "test": table(50, 4), "extra": table(90, 4)}).save_to_disk(
        tmp_path / "disk"
    )
    readme = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
  - split: extra
    path: data/test-*
---
"""
    (tmp_path / "README.md").write_text(readme)
    assert load(name).notes == (USED, LOCAL, "left out: split 'extra'")


def test_offline_a_repository_that_is_not_in_the_cache_gets_one_line():
    text = error_of(DataError, "hf:nobody/nothing")
    assert text.startswith("nobody/nothing cannot be read from the Hub or the cache: ")
    assert text.endswith("a folder of its parquet files can be named instead, hf:FOLDER")


def test_what_is_neither_a_folder_nor_a_name_is_refused(tmp_path):
    place = tmp_path / "gone"
    assert error_of(DataError, f"hf:{place}") == (
        f"{place} is neither a folder nor an OWNER/NAME of the Hub"
    )
    with pytest.raises(UsageError, match="says where the pictures are: leave out --data-root"):
        load("hf:a/b", data_root=tmp_path)


def test_a_pipe_gets_no_bars(tmp_path, capfd):
    name = write(tmp_path, train=table(0, 10))
    capfd.readouterr()
    load(name)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow(3)
def test_a_run_finds_its_folder_where_it_was_moved(tmp_path):
    from normlab import RunConfig
    from normlab.training.loop import train

    name = write(tmp_path / "here", train=table(0, 10))
    config = RunConfig(
        network="c:2 GAP FC", dataset=name, recipe="demo", epochs=1, batch_size=4, size=16
    )
    run = train(config, tmp_path / "run", quiet=True)
    (tmp_path / "here").rename(tmp_path / "there")
    assert run.dataset(tmp_path / "there").fingerprint == run.data.fingerprint


def test_the_library_is_imported_only_when_it_is_needed():
    code = "import sys, normlab.data.sources.hf; print('datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_colours_are_kept_bit_by_bit(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)
    part = Dataset.from_dict(
        {"image": [Picture.fromarray(each) for each in pixels], "label": [0, 1] * 4},
        features=Features({"image": Image(), "label": ClassLabel(names=["ant", "bee"])}),
    )
    dataset = load(write(tmp_path, train=part, test=part), size=24)
    assert (dataset.train.images == pixels.transpose(0, 3, 1, 2)).all()
