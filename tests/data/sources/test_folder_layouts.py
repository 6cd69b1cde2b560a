"""Pictures as people have them: which splits and labels are taken, and what is said of it."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from normlab import RunConfig
from normlab.data import load
from normlab.errors import DataError, UsageError
from normlab.runs.run import Run
from normlab.training.loop import train
from peculiar import WRITTEN

COUNTER = iter(range(10**6))


def picture(path, kind=None):
    """A picture like no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    k = next(COUNTER)
    Image.new("RGB", (20, 20), (k % 256, k // 256, 99)).save(path, kind)


def fill(folder, classes=("ant", "bee"), count=5):
    for name in classes:
        for k in range(count):
            picture(folder / name / f"{k}.png")


def load_from(root, **options):
    return load(f"folder:{root}", **options)


def sizes(dataset):
    held = () if dataset.holdout is None else (len(dataset.holdout),)
    return len(dataset.train), *held, len(dataset.test)


def error_of(root):
    with pytest.raises(DataError) as caught:
        load_from(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- Splits ---


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_images_are_the_test_images_where_there_are_no_others(name, tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / name, count=2)
    dataset = load_from(tmp_path)
    assert sizes(dataset) == (10, 4)
    assert dataset.notes == (f"{name}/ has the test images",)
    assert dataset.test.names[0] == f"{name}/ant/0.png"


@pytest.mark.parametrize(("training", "testing"), [("Training", "Testing"), ("TRAIN", "test")])
def test_splits_are_found_by_their_usual_names(training, testing, tmp_path):
    fill(tmp_path / training)
    fill(tmp_path / testing, count=2)
    dataset = load_from(tmp_path)
    assert dataset.classes == ("ant", "bee")
    assert sizes(dataset) == (10, 4)
    assert dataset.notes == ()


def test_of_two_splits_the_validation_images_are_for_choosing(tmp_path):
    fill(tmp_path / "train")
    fill(tmp_path / "val", count=3)
    fill(tmp_path / "valid", count=1)
    fill(tmp_path / "test", count=2)
    dataset = load_from(tmp_path)
    assert sizes(dataset) == (10, 6, 4)
    assert dataset.notes == (
        "val/ has 6 images to choose settings by, test/ is for the end",
        "left out: valid/ (not used)",
    )
    assert load_from(tmp_path).fingerprint == dataset.fingerprint
    (tmp_path / "val" / "ant" / "0.png").unlink()
    assert load_from(tmp_path).fingerprint != dataset.fingerprint


def settings(name, **options):
    return RunConfig(
        network="c:2 GAP FC", dataset=name, recipe="demo", epochs=1, batch_size=5, **options
    )


def test_a_run_holds_the_validation_images_out_and_is_evaluated_at_the_end(tmp_path, cli):
    fill(tmp_path / "p" / "train")
    fill(tmp_path / "p" / "val", count=3)
    fill(tmp_path / "p" / "test", count=2)
    name = f"folder:{tmp_path / 'p'}"
    run = train(settings(name), tmp_path / "run", quiet=True)
    assert (run.split, run.config.holdout, run.data.holdout) == ("holdout", 6, 6)
    dataset = Run.open(tmp_path / "run").dataset()
    assert sizes(dataset) == (10, 6, 4)
    for split, count in (("holdout", 6), ("test", 4)):
        code, output, _ = cli("evaluate", tmp_path / "run", "--split", split)
        assert code == 0
        assert f"{count} images" in output or f"of {count}" in output
    with pytest.raises(
        UsageError, match=r"already has 6 images to choose settings by: leave out --hold"
    ):
        train(settings(name, holdout=2), tmp_path / "other", quiet=True)
    code, output, _ = cli("data", "--dataset", name, "--out", tmp_path / "data.html")
    assert code == 0
    assert "holdout" in output


@pytest.mark.slow(3)
def test_a_study_chooses_by_the_validation_images(tmp_path):
    from normlab import StudyConfig, compare

    fill(tmp_path / "p" / "train")
    fill(tmp_path / "p" / "val", count=3)
    fill(tmp_path / "p" / "test", count=2)
    study = compare(
        StudyConfig(
            network="c:2 GAP FC",
            dataset=f"folder:{tmp_path / 'p'}",
            norms=("bn", "gn"),
            seeds=1,
            recipe="demo",
            epochs=1,
            batch_sizes=(5,),
        ),
        tmp_path / "study",
        quiet=True,
    )
    assert (study.config.holdout, study.images) == (6, 6)
    assert {study.run(result).split for result in study.results} == {"holdout"}


def test_a_run_from_before_ignores_images_that_it_did_not_hold_out(tmp_path):
    """A run that did not use `val/` opens with the data it was trained on."""
    fill(tmp_path / "p" / "train")
    fill(tmp_path / "p" / "test", count=2)
    run = train(settings(f"folder:{tmp_path / 'p'}"), tmp_path / "run", quiet=True)
    fill(tmp_path / "p" / "val", count=3)
    dataset = run.dataset()
    assert sizes(dataset) == (10, 4)
    assert dataset.fingerprint == run.data.fingerprint


def test_folders_of_classes_alone_are_split_by_seed(tmp_path):
    fill(tmp_path, ("ant", "bee", "cat"), count=10)
    (tmp_path / "masks").mkdir()
    dataset = load_from(tmp_path)
    assert dataset.classes == ("ant", "bee", "cat")
    assert np.bincount(dataset.train.labels).tolist() == [8, 8, 8]
    assert np.bincount(dataset.test.labels).tolist() == [2, 2, 2]
    assert dataset.notes == (
        "the data has no test images: 6 of its 30 images were set aside to test on",
        "left out: masks/ (not used)",
    )
    assert load_from(tmp_path, split_seed=1).test.names != dataset.test.names
    (tmp_path / "p" / "train").mkdir(parents=True)
    for name in dataset.classes:
        (tmp_path / name).rename(tmp_path / "p" / "train" / name)
    assert load_from(tmp_path / "p").fingerprint == dataset.fingerprint


@pytest.mark.parametrize("source", ["folder", "npz"])
def test_a_home_of_nobody_is_no_place(source):
    with pytest.raises(DataError, match="~nobody-of-this-name/photos "):
        load(f"{source}:~nobody-of-this-name/photos")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, ("bus", "car", "train"))
    assert load_from(tmp_path).classes == ("bus", "car", "train")


def test_splits_without_classes_are_no_classes(tmp_path):
    fill(tmp_path, ("train", "test"))
    text = error_of(tmp_path)
    assert text.startswith(f"{tmp_path} has test/ and train/ without classes: each needs a subf")
    assert "labels.csv with the lines file,label" in text


def test_a_test_folder_without_labels_is_refused_with_the_reason(tmp_path):
    fill(tmp_path / "train")
    (tmp_path / "test").mkdir()
    picture(tmp_path / "test" / "1.png")
    assert error_of(tmp_path) == (
        f"{tmp_path / 'test'} has no picture with a label: give it folders of classes, or "
        "labels.csv; pictures to predict belong elsewhere"
    )


def test_a_test_folder_needs_a_training_folder(tmp_path):
    fill(tmp_path / "test")
    assert error_of(tmp_path) == f"{tmp_path} has test/ but no train/ with folders of classes"


def test_one_class_is_refused_and_a_folder_too_much_is_seen(tmp_path):
    fill(tmp_path, ("ant",))
    text = error_of(tmp_path)
    assert "two classes or more" in text
    assert text.endswith("it has one class, 'ant'")
    fill(tmp_path / "archive" / "flowers")
    text = error_of(tmp_path / "archive")
    assert text.endswith(f"if the classes are folders in it, give {tmp_path}/archive/flowers")


def test_a_small_class_among_large_ones_gives_one_test_image(tmp_path):
    fill(tmp_path, ("ant",), count=60)
    fill(tmp_path, ("bee",), count=2)
    dataset = load_from(tmp_path)
    assert np.bincount(dataset.test.labels).tolist() == [12, 1]
    assert np.bincount(dataset.train.labels).tolist() == [48, 1]


# --- Classes ---


def test_pictures_in_folders_below_a_class_are_read(tmp_path):
    fill(tmp_path / "train")
    for k in range(3):
        picture(tmp_path / "train" / "ant" / "2026" / "may" / f"{k}.jpg")
    fill(tmp_path / "test", count=1)
    dataset = load_from(tmp_path)
    assert np.bincount(dataset.train.labels).tolist() == [8, 5]
    assert dataset.notes == ()
    assert "train/ant/2026/may/0.jpg" in dataset.train.names


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_names_that_differ_by_unicode_normalization_alone_are_one_class(forms, tmp_path):
    for part, form in zip(("train", "test"), forms, strict=True):
        fill(tmp_path / part, (unicodedata.normalize(form, "caf\u00e9"), "tea"), count=2)
    dataset = load_from(tmp_path)
    assert dataset.classes == ("caf\u00e9", "tea")
    assert dataset.notes == ()


def test_one_class_in_two_folders_is_said(tmp_path):
    fill(tmp_path / "train", ("caf\u00e9", "cafe\u0301", "tea"))
    if len([*(tmp_path / "train").iterdir()]) < 3:
        pytest.skip("this file system makes no difference between the two")
    dataset = load_from(tmp_path)
    assert dataset.classes == ("caf\u00e9", "tea")
    assert len(dataset.train) + len(dataset.test) == 15
    assert dataset.notes[0] == "'caf\u00e9' is one class in two folders: its name is encoded twice"


# --- labels.csv ---


def write_table(folder, rows, head="file,label", encoding="utf-8"):
    folder.mkdir(parents=True, exist_ok=True)
    lines = "\n".join([head, *rows])
    (folder / "labels.csv").write_text(lines, encoding)


def test_a_table_gives_the_labels(tmp_path):
    rows = []
    for k in range(10):
        picture(tmp_path / "images" / f"{k}.png")
        rows.append(f"images/{k}.png,{'dog' if k % 2 else 'cat'}")
    picture(tmp_path / "images" / "extra.png")
    write_table(tmp_path, rows)
    dataset = load_from(tmp_path)
    assert dataset.classes == ("cat", "dog")
    assert sizes(dataset) == (8, 2)
    assert dataset.notes == (
        "the data has no test images: 2 of its 10 images were set aside to test on",
        "left out: 1 picture without a label in labels.csv (extra.png)",
    )


def test_a_table_in_each_split_gives_its_labels(tmp_path):
    for part, count in (("train", 6), ("test", 2)):
        for k in range(count):
            picture(tmp_path / part / f"{k}.png")
        write_table(tmp_path / part, [f"{k}.png,{'ab'[k % 2]}" for k in range(count)])
    dataset = load_from(tmp_path)
    assert sizes(dataset) == (6, 2)
    assert dataset.notes == ()


def test_a_table_above_the_splits_gives_the_labels_of_all(tmp_path):
    rows = []
    for part, count in (("train", 6), ("valid", 4), ("test", 2)):
        for k in range(count):
            picture(tmp_path / part / f"{k}.png")
            rows.append(f"{part}/{k}.png,{'ab'[k % 2]}")
    write_table(tmp_path, rows)
    dataset = load_from(tmp_path)
    assert sizes(dataset) == (6, 4, 2)
    assert dataset.notes == ("valid/ has 4 images to choose settings by, test/ is for the end",)
    assert dataset.train.names[0] == "train/0.png"


@pytest.mark.parametrize(
    ("head", "row", "encoding"),
    [
        ("file,label", "{file},{label}", "utf-8-sig"),
        ("File; Label", "{file};{label}", "utf-8"),
        ("id\tlabel\tfile", "7\t{label}\t{file}", "utf-16"),
        ("file,label,who", '"{file}","{label}","a, b"', "utf-8"),
        ("file,label", "sub\\{file}", "utf-8"),
    ],
)
def test_tables_of_spreadsheets_are_read(head, row, encoding, tmp_path):
    rows = []
    for k in range(6):
        name = unicodedata.normalize("NFD", f"\u00e9{k}.png")
        folder = tmp_path / "sub" if "sub" in row else tmp_path
        picture(folder / name)
        written = unicodedata.normalize("NFC", name)
        row_k = row.replace("{file}", written).replace("{label}", "ab"[k % 2])
        rows.append(row_k if "sub" not in row else f"{row_k},{'ab'[k % 2]}")
    write_table(tmp_path, [*rows, "", "  "], head, encoding)
    dataset = load_from(tmp_path)
    assert dataset.classes == ("a", "b")
    assert sizes(dataset) == (4, 2)


def test_rows_without_a_label_are_left_out(tmp_path):
    for k in range(7):
        picture(tmp_path / f"{k}.png")
    write_table(tmp_path, [*(f"{k}.png,{'ab'[k % 2]}" for k in range(6)), "6.png,"])
    assert load_from(tmp_path).notes[-1] == (
        "left out: 1 picture without a label in labels.csv (6.png)"
    )


def test_a_row_that_ends_before_its_label_has_none(tmp_path):
    for k in range(7):
        picture(tmp_path / f"{k}.png")
    rows = [*(f"{k}.png,2,3,4,{'ab'[k % 2]}" for k in range(6)), "6.png"]
    write_table(tmp_path, rows, "file,width,height,bytes,label")
    assert load_from(tmp_path).notes[-1] == (
        "left out: 1 picture without a label in labels.csv (6.png)"
    )


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            ["0.png,a", "1.png,b", "7.png,a", "8.png,b", "9.png,a", "10.png,b"],
            "has labels without pictures: 4 of its 6 files are not there (10.png, 7.png, 8.png …)",
        ),
        (["0.png,a", "1.png,b", "0.png,b"], "gives 0.png two labels, 'a' and 'b'"),
        (
            ["0.png,a", "1.png,a"],
            "needs a subfolder for each of two classes or more, or labels.csv",
        ),
        (["../0.png,a"], "names '../0.png': name files by their path below its folder"),
        (["/0.png,a"], "names '/0.png': name files by"),
        ([",a"], "names '': name files by"),
        (["0.png,a\x1b[31m"], "without control characters"),
        (['0.png,"' + "a" * 200_000 + '"'], "is malformed: field larger than"),
    ],
)
def test_a_malformed_table_is_refused(rows, problem, tmp_path):
    for k in range(2):
        picture(tmp_path / f"{k}.png")
    write_table(tmp_path, rows)
    assert problem in error_of(tmp_path)


def test_a_table_in_another_encoding_is_refused(tmp_path):
    picture(tmp_path / "0.png")
    write_table(tmp_path, ["0.png,caf\u00e9"], encoding="latin-1")
    assert error_of(tmp_path) == (
        f"{tmp_path / 'labels.csv'} is not text in UTF-8: save it as CSV in UTF-8"
    )


def test_a_table_of_something_else_is_left_out(tmp_path):
    fill(tmp_path / "train")
    write_table(tmp_path / "train", ["ant,6"], "class,legs")
    assert load_from(tmp_path).notes[-1] == "left out: 1 other file (1 .csv: labels.csv)"


@pytest.mark.parametrize("head", ["filename,class", "0.png,a", ""])
def test_a_table_without_its_first_line_is_refused_with_the_reason(head, tmp_path):
    for k in range(2):
        picture(tmp_path / f"{k}.png")
    write_table(tmp_path, ["0.png,a", "1.png,b"], head)
    assert "; the first line of its labels.csv is not file,label; left out: " in error_of(tmp_path)


# --- Formats, size, channels ---


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "QOI", "TGA", "WEBP"])
def test_folders_read_the_formats_that_predictions_read(kind, tmp_path):
    from normlab.inference.pictures import read

    if kind not in WRITTEN:
        pytest.skip(f"this Pillow writes no {kind}")
    for name in ("ant", "bee"):
        for k in range(2):
            picture(tmp_path / name / f"{k}.{kind.lower()}", kind)
    dataset = load_from(tmp_path, size=40, channels="colour")
    assert sizes(dataset) == (2, 2)
    assert dataset.shape == (3, 40, 40)
    first = read(tmp_path / dataset.train.names[0], 40)
    assert (first.pixels == dataset.train.images[0]).all()


def test_grey_pictures_have_one_channel_and_a_colourful_test_picture_becomes_grey(tmp_path):
    for name in ("ant", "bee"):
        for k in range(2):
            path = tmp_path / "train" / name / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (30, 30), 10 * k).save(path)
        picture(tmp_path / "test" / name / "x.png")
    dataset = load_from(tmp_path, size=16)
    assert dataset.shape == (1, 16, 16)
    assert dataset.test.images.shape == (2, 1, 16, 16)
    picture(tmp_path / "train" / "ant" / "colour.png")
    assert load_from(tmp_path, size=16).shape == (3, 16, 16)
