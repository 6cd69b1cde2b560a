"""Whatever is in a folder and is not read is counted and named; so are test images seen before."""

import os
import re
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normlab.data import Dataset, Split, load
from normlab.data.dataset import repeated
from normlab.errors import DataError, NormlabError
from normlab.inference.finding import find_pictures
from normlab.runs.run import Run
from normlab.storage.files import refuse_link, write_atomically
from peculiar import WRITTEN

RANDOM = np.random.default_rng(0)
TRAIN = ("--recipe", "demo", "--epochs", "1", "--threads", "1", "--device", "cpu")


def picture(path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(RANDOM.integers(0, 256, (32, 32, 3), dtype=np.uint8))
    image.save(path, kind)


def classes(root, part="train", count=6):
    for name in ("a", "b"):
        for k in range(count):
            picture(root / part / name / f"{k}.png")


def notes(root):
    return load(f"folder:{root}").notes


DRAWN = "the data has no test images: 2 of its 12 images were set aside to test on"


def test_files_that_are_no_pictures_are_counted_by_kind_and_named(tmp_path):
    classes(tmp_path)
    for k in range(12):
        (tmp_path / "train" / "a" / f"{k:02}.xml").touch()
    (tmp_path / "train" / "notes.TXT").touch()
    (tmp_path / "train" / "b" / "README").touch()
    (tmp_path / "LICENSE").touch()
    assert notes(tmp_path) == (
        DRAWN,
        "left out: 15 other files (12 .xml, 2 without a suffix, 1 .txt: 00.xml, 01.xml, 02.xml …)",
    )


def test_pictures_of_formats_that_are_not_read_are_counted(tmp_path):
    classes(tmp_path)
    for name in ("a/x.svg", "a/y.eps", "b/z.DNG"):
        (tmp_path / "train" / name).write_bytes(b"II*\0")  # as a camera's raw picture begins
    assert notes(tmp_path) == (
        DRAWN,
        "left out: 3 pictures that cannot be read (1 .dng, 1 .eps, 1 .svg: x.svg, y.eps, z.DNG)",
    )


def test_heic_says_what_reads_it_and_is_known_by_its_content(tmp_path, monkeypatch):
    from normlab.data import formats

    monkeypatch.setattr(formats, "has_heif", lambda: False)
    for known in (formats.readable, formats.suffixes):
        known.cache_clear()
    classes(tmp_path)
    (tmp_path / "train" / "a" / "x.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    picture(tmp_path / "train" / "b" / "y.HEIC", "JPEG")  # as some phones name what they convert
    dataset = load(f"folder:{tmp_path}")
    for known in (formats.readable, formats.suffixes):
        known.cache_clear()
    assert len(dataset.train) + len(dataset.test) == 13
    assert dataset.notes[1] == (
        "left out: 1 picture that cannot be read "
        "(1 .heic: x.heic; pip install pillow-heif for HEIC)"
    )


@pytest.mark.parametrize(
    ("one", "other"), [("cat", "Cat"), ("cat", "\uff43\uff41\uff54"), ("fi", "\ufb01")]
)
def test_classes_whose_names_look_the_same_are_named(one, other, tmp_path):
    for name in (one, other, "dog"):
        for k in range(6):
            picture(tmp_path / "train" / name / f"{k}.png")
    if len([*(tmp_path / "train").iterdir()]) < 3:
        pytest.skip("this file system makes no difference between the two")
    assert len(load(f"folder:{tmp_path}").classes) == 3
    (note,) = (n for n in notes(tmp_path) if "differ" in n)
    assert one in note
    assert other in note
    assert "2 classes" in note


@pytest.mark.parametrize(("one", "other"), [("cat", "Cat"), ("cat", "\uff43\uff41\uff54")])
def test_an_error_shows_how_a_class_of_train_and_one_of_test_differ(one, other, tmp_path):
    for part, name in (("train", one), ("test", other)):
        for each in (name, "dog", "owl"):
            picture(tmp_path / part / each / "0.png")
    first, second = sorted((one, other))
    holder, lacking = ("train", "test") if first == one else ("test", "train")
    expected = (
        f"{tmp_path / holder} has a class {first!r} that {tmp_path / lacking} lacks: "
        f"its {second!r} is another ({second!a}, not {first!a}), rename one"
    )
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        load(f"folder:{tmp_path}")


def test_classes_of_other_names_get_no_note(tmp_path):
    classes(tmp_path)
    assert notes(tmp_path) == (DRAWN,)


def test_pictures_in_no_class_are_counted(tmp_path):
    classes(tmp_path)
    classes(tmp_path, "test", 1)
    picture(tmp_path / "train" / "of-no-class.webp")
    picture(tmp_path / "beside.jpg")
    assert notes(tmp_path) == (
        "left out: 2 pictures in no class's folder (beside.jpg, of-no-class.webp)",
    )


def test_folders_beside_those_that_are_used_are_named(tmp_path):
    classes(tmp_path)
    classes(tmp_path, "test", 1)
    for name in ("c", "d", "e", "\x1b[31m"):
        (tmp_path / name).mkdir()
    assert notes(tmp_path) == ("left out: �[31m/, c/, d/ and 1 more folder (not used)",)


def test_hidden_files_and_folders_are_counted(tmp_path):
    classes(tmp_path)
    classes(tmp_path, "test", 1)
    for name in (".DS_Store", "._0.png", ".thumbnails/0.png", "more/.0.png", "more/.x/0.png"):
        (tmp_path / "train" / "a" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "train" / "a" / name).touch()
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    assert notes(tmp_path) == ("left out: 7 hidden (.0.png, .DS_Store, ._0.png …)",)


def test_a_class_without_pictures_says_what_it_holds(tmp_path):
    classes(tmp_path)
    (tmp_path / "train" / "c").mkdir()
    for k in range(3):
        (tmp_path / "train" / "c" / f"{k}.svg").touch()
    with pytest.raises(DataError, match=r"c has no picture in a format .*, it holds 3 .svg$"):
        load(f"folder:{tmp_path}")


@pytest.mark.slow(1)
def test_data_and_train_say_what_is_left_out_and_the_run_and_the_pages_record_it(tmp_path, cli):
    classes(tmp_path / "pictures")
    classes(tmp_path / "pictures", "test", 1)
    known = (tmp_path / "pictures" / "train" / "a" / "0.png").read_bytes()
    (tmp_path / "pictures" / "test" / "b" / "0.png").write_bytes(known)
    (tmp_path / "pictures" / "train" / "a" / "list.csv").touch()
    name = f"folder:{tmp_path / 'pictures'}"
    note = "left out: 1 other file (1 .csv: list.csv)"
    same = (
        "1 of 2 test images is a training image, too (test/b/0.png = train/a/0.png): "
        "test accuracy is higher than on new images"
    )
    code, output, _ = cli("data", "--dataset", name, "--out", tmp_path / "data.html")
    assert code == 0
    assert f"note: {note}" in " ".join(output.split())
    assert f"note: {same}" in " ".join(output.split())
    assert note in (tmp_path / "data.html").read_text()
    assert same in (tmp_path / "data.html").read_text()
    code, output, _ = cli("train", "c:2 GAP FC", "--dataset", name, *TRAIN, "--out", tmp_path / "r")
    assert code == 0
    assert f"note: {note}\n" in output
    assert f"note: {same}\n" in output
    assert Run.open(tmp_path / "r").data.notes == (note, same)
    assert note in (tmp_path / "r" / "report.html").read_text()
    assert same in (tmp_path / "r" / "report.html").read_text()


# --- Test images that are training images ---


def test_test_images_that_are_training_images_are_counted(tmp_path):
    classes(tmp_path)
    classes(tmp_path, "test", 2)
    assert notes(tmp_path) == ()
    known = (tmp_path / "train" / "a" / "0.png").read_bytes()
    (tmp_path / "test" / "b" / "0.png").write_bytes(known)  # whatever its label
    assert notes(tmp_path) == (
        "1 of 4 test images is a training image, too (test/b/0.png = train/a/0.png): "
        "test accuracy is higher than on new images",
    )
    for name in ("a/0.png", "a/1.png", "b/1.png"):
        (tmp_path / "test" / name).write_bytes(known)
    assert notes(tmp_path)[0].startswith(
        "4 of 4 test images are training images, too (test/a/0.png = train/a/0.png, "
        "test/a/1.png = train/a/0.png, test/b/0.png = train/a/0.png …): "
    )


def test_pictures_are_compared_by_their_pixels_not_by_their_files(tmp_path):
    classes(tmp_path)
    classes(tmp_path, "val", 2)
    classes(tmp_path, "test", 2)
    with Image.open(tmp_path / "train" / "b" / "5.png") as image:
        image.save(tmp_path / "test" / "a" / "other.bmp")
        image.save(tmp_path / "val" / "b" / "other.tiff")
    _, held_out, test = notes(tmp_path)
    assert held_out.startswith(
        "1 of 5 held-out images is a training image, too (val/b/other.tiff = train/b/5.png): "
        "held-out accuracy"
    )
    assert test.startswith("1 of 5 test images is a training image, too (test/a/other.bmp = train/")


def test_images_that_differ_in_one_value_are_not_equal():
    images = RANDOM.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    others = images.copy()
    others[1:, 2, 31, 31] ^= 1
    labels = np.zeros(4, np.int64)
    assert repeated(Split(images, labels), Split(others, labels)) == [(0, 0)]
    assert Dataset("mine", ("a",), Split(images, labels), Split(others, labels)).notes == ()


def test_the_digits_test_images_are_new():
    assert load("digits").notes == ()


# --- predict ---


KINDS = {
    **{"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "avif": "AVIF", "qoi": "QOI"},
    **{"gif": "GIF", "tif": "TIFF", "ico": "ICO", "ppm": "PPM", "tga": "TGA", "jp2": "JPEG2000"},
}
UNREAD = ("svg", "eps", "dng", "jxl")


def test_of_many_kinds_the_four_that_are_not_read_are_named_and_the_code_is_1(tmp_path, cli):
    written = {suffix: kind for suffix, kind in KINDS.items() if kind in WRITTEN}
    for suffix, kind in written.items():
        picture(tmp_path / "kinds" / f"x.{suffix}", kind)
    for suffix in UNREAD:
        (tmp_path / "kinds" / f"x.{suffix}").touch()
    code, output, errors = cli("predict", "--model", "nano", tmp_path / "kinds")
    assert len(output.splitlines()) == len(written)
    assert errors.splitlines() == [
        "note: left out: 4 pictures that cannot be read "
        "(1 .dng, 1 .eps, 1 .jxl, 1 .svg: x.dng, x.eps, x.jxl …)",
        f"normlab: 4 of {len(written) + 4} pictures could not be read",
    ]
    assert code == 1


def test_files_that_are_no_pictures_are_counted_and_do_not_fail(tmp_path, cli):
    picture(tmp_path / "x.png")
    for name in ("notes.txt", "more.txt", "labels.csv", ".DS_Store", ".git/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    code, output, errors = cli("predict", "--model", "nano", tmp_path)
    assert (code, len(output.splitlines())) == (0, 1)
    assert errors == (
        "note: left out: 3 other files (2 .txt, 1 .csv: labels.csv, more.txt, notes.txt), "
        "2 hidden (.DS_Store, .git)\n"
    )


def test_a_picture_without_its_suffix_is_known_by_its_content(tmp_path, cli):
    for name, kind in (("one", "PNG"), ("two.dat", "JPEG"), ("three.tmp", "TIFF")):
        picture(tmp_path / "p" / "train" / "a" / name, kind)
        picture(tmp_path / "p" / "train" / "b" / name, kind)
    (tmp_path / "p" / "train" / "b" / "four").write_bytes(b"no picture")
    dataset = load(f"folder:{tmp_path / 'p'}")
    assert len(dataset.train) + len(dataset.test) == 6
    assert dataset.notes[1] == "left out: 1 other file (1 without a suffix: four)"
    code, output, errors = cli("predict", "--model", "nano", tmp_path / "p")
    assert (code, len(output.splitlines())) == (0, 6)
    assert errors == "note: left out: 1 other file (1 without a suffix: four)\n"


def test_a_folder_of_which_nothing_is_read_says_what_it_holds(tmp_path, cli):
    (tmp_path / "x.svg").touch()
    code, output, errors = cli("predict", "--model", "nano", tmp_path)
    assert (code, output) == (2, "")
    assert errors == (
        f"normlab: {tmp_path}: there is no such picture, nor a folder with pictures; "
        "left out: 1 picture that cannot be read (1 .svg: x.svg)\n"
    )


def test_what_looks_like_a_picture_and_cannot_be_opened_counts(tmp_path, cli):
    picture(tmp_path / "x.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as there:
        there.bind(os.path.relpath(tmp_path / "socket.jpg"))
        code, _, errors = cli("predict", "--model", "nano", tmp_path)
    assert code == 1
    assert "left out: 3 pictures that cannot be read (2 .png, 1 .jpg: gone.png, pipe.png" in errors
    assert "3 of 4 pictures could not be read" in errors


def test_folders_that_are_not_searched_are_named(tmp_path, cli, monkeypatch):
    picture(tmp_path / "here" / "x.png")
    picture(tmp_path / "there" / "y.png")
    (tmp_path / "here" / "album").symlink_to(tmp_path / "there")
    code, output, errors = cli("predict", "--model", "nano", tmp_path / "here")
    assert (code, len(output.splitlines())) == (0, 1)
    assert errors == "note: left out: album/ (give folders by their own names)\n"
    picture(tmp_path / "here" / "more" / "z.png")
    monkeypatch.chdir(tmp_path / "there")
    code, output, errors = cli("predict", "--model", "nano", "../here/*")
    assert (code, len(output.splitlines())) == (0, 1)
    assert errors == "note: left out: album/ and more/ (give folders by their own names)\n"
    code, output, errors = cli("predict", "--model", "nano", "../here/more/**/*", "../there")
    assert (code, len(output.splitlines()), errors) == (0, 2, "")


@pytest.fixture
def open_to_all():
    """A folder that every user may read: pytest's own are private."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def no_superuser():
    """Another user where the tests run as root, who can open every folder."""
    superuser = os.geteuid() == 0
    if superuser:
        os.seteuid(65534)
    try:
        yield
    finally:
        if superuser:
            os.seteuid(0)


def test_folders_that_cannot_be_opened_are_named(open_to_all):
    classes(open_to_all)
    classes(open_to_all, "test", 1)
    locked = open_to_all / "train" / "a" / "locked"
    locked.mkdir(mode=0)
    with no_superuser():
        assert notes(open_to_all) == ("left out: locked/ (cannot be opened)",)
        _, left_out = find_pictures([str(open_to_all)])
        assert str(left_out) == "left out: locked/ (cannot be opened)"


def test_a_figures_folder_that_cannot_be_looked_at_is_no_link(open_to_all):
    locked = open_to_all / "locked"
    locked.mkdir(mode=0)
    with no_superuser():
        refuse_link(locked / "figures")
        with pytest.raises(NormlabError, match="cannot be written: Permission denied"):
            write_atomically(locked / "figures" / "x.png", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can open every folder")
def test_predict_fails_if_it_cannot_open_a_folder(tmp_path, cli):
    picture(tmp_path / "x.png")
    (tmp_path / "locked").mkdir(mode=0)
    code, output, errors = cli("predict", "--model", "nano", tmp_path)
    assert (code, len(output.splitlines())) == (1, 1)
    assert errors.endswith("normlab: 1 folder could not be opened\n")
