import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from normlab.data import load
from normlab.errors import DataError, UsageError


def save(path, color, size=(40, 40), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **options)


def fill(root, part, sizes):
    """Images of one colour each: red encodes the class, green the index, blue the part."""
    for k, (name, size) in enumerate(sizes.items()):
        for i in range(size):
            save(root / part / name / f"{i:02}.png", (50 * k, 5 * i, 9 * (part == "test")))


def load_from(root, **options):
    return load(f"folder:{root}", **options)


def error_of(root, **options):
    with pytest.raises(DataError) as caught:
        load_from(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- The folder ---


def test_train_and_test_are_read_by_class_then_by_name(tmp_path):
    fill(tmp_path, "train", {"cat": 3, "Ant": 2})
    fill(tmp_path, "test", {"Ant": 1, "cat": 2})
    dataset = load_from(tmp_path)
    assert dataset.name == f"folder:{tmp_path}"
    assert dataset.classes == ("Ant", "cat")
    assert dataset.notes == ()
    assert dataset.train.images.shape == (5, 3, 32, 32)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert dataset.train.images[:, 0, 0, 0].tolist() == [50, 50, 0, 0, 0]
    assert dataset.train.images[:, 1, 0, 0].tolist() == [0, 5, 0, 5, 10]
    assert dataset.test.labels.tolist() == [0, 1, 1]


def test_suffixes_are_read_in_any_case_and_nothing_else(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    fill(tmp_path, "test", {"a": 1, "b": 1})
    for name in ("x.PNG", "x.Jpg", "x.jpeg", "x.webp"):
        save(tmp_path / "train" / "a" / name, "red")
    (tmp_path / "train" / "a" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "a" / ".hidden.png").write_text("no image")
    (tmp_path / "train" / ".checkpoints").mkdir()
    (tmp_path / "train" / "a" / "folder.png").mkdir()
    (tmp_path / "train" / "list.csv").write_text("no class")
    dataset = load_from(tmp_path)
    assert dataset.classes == ("a", "b")
    assert np.bincount(dataset.train.labels).tolist() == [6, 2]


def test_the_fingerprint_does_not_depend_on_where_the_folder_is(tmp_path):
    for root in (tmp_path / "here", tmp_path / "there"):
        fill(root, "train", {"a": 6, "b": 6})
    here, there = load_from(tmp_path / "here"), load_from(tmp_path / "there")
    assert here.fingerprint == there.fingerprint


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "pictures", "train", {"a": 2, "b": 2})
    assert load("folder:~/pictures").name == "folder:~/pictures"


def test_a_data_root_beside_the_path_is_refused(tmp_path):
    fill(tmp_path / "pictures", "train", {"a": 2, "b": 2})
    with pytest.raises(UsageError, match="says where the pictures are: leave out --data-root"):
        load(f"folder:{tmp_path / 'pictures'}", data_root=tmp_path)


def test_without_a_test_folder_a_fifth_is_drawn(tmp_path):
    fill(tmp_path, "train", {"a": 10, "b": 20})
    dataset = load_from(tmp_path, split_seed=1)
    assert np.bincount(dataset.train.labels).tolist() == [8, 16]
    assert np.bincount(dataset.test.labels).tolist() == [2, 4]
    assert dataset.notes == (
        "the data has no test images: 6 of its 30 images were set aside to test on",
    )
    assert load_from(tmp_path, split_seed=1).fingerprint == dataset.fingerprint
    assert load_from(tmp_path, split_seed=2).fingerprint != dataset.fingerprint
    greens = np.concatenate([dataset.train.images, dataset.test.images])[:, :2, 0, 0]
    assert len(np.unique(greens, axis=0)) == 30
    with pytest.raises(UsageError, match="seed"):
        load_from(tmp_path, split_seed=-1)


def test_a_small_folder_gives_one_test_image_of_each_class(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    dataset = load_from(tmp_path)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1]


def test_a_class_too_small_to_split_is_named(tmp_path):
    fill(tmp_path, "train", {"a": 10, "b": 1})
    text = error_of(tmp_path)
    assert "the smallest class, 'b', has 1" in text
    assert "add test images" in text


def test_a_malformed_folder_is_named(tmp_path):
    assert f"{tmp_path / 'nowhere'} is not a folder" in error_of(tmp_path / "nowhere")
    assert f"{tmp_path} needs a subfolder" in error_of(tmp_path)
    (tmp_path / "train").mkdir()
    assert f"{tmp_path} has train/ without classes" in error_of(tmp_path)
    fill(tmp_path, "train", {"a": 2})
    text = error_of(tmp_path)
    assert f"{tmp_path / 'train'} needs a subfolder for each of two classes or more" in text
    assert "it has one class, 'a'" in text
    (tmp_path / "train" / "empty").mkdir()
    assert f"{tmp_path / 'train' / 'empty'} has no picture" in error_of(tmp_path)
    fill(tmp_path, "train", {"empty": 2})
    (tmp_path / "test").write_text("a file")
    (note, left_out) = load_from(tmp_path).notes
    assert note == "the data has no test images: 2 of its 4 images were set aside to test on"
    assert left_out == "left out: 1 other file (1 without a suffix: test)"


def test_a_class_missing_from_one_split_is_named(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    fill(tmp_path, "test", {"a": 2, "b": 2, "dog": 1})
    assert f"{tmp_path / 'test'} has a class 'dog' that {tmp_path / 'train'}" in error_of(tmp_path)
    fill(tmp_path, "train", {"dog": 2, "eel": 2})
    assert f"{tmp_path / 'train'} has a class 'eel' that {tmp_path / 'test'}" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["red\x1b[31m", "two\nlines", "bell\a"])
def test_a_class_name_with_control_characters_is_refused(name, tmp_path):
    fill(tmp_path, "train", {"a": 2, name: 2})
    assert "control characters" in error_of(tmp_path)
    assert repr(name) in error_of(tmp_path)


# --- Images that cannot be read ---


def png_of_size(width, height):
    """A PNG that claims this size and holds nothing."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def truncated_jpeg():
    buffer = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(buffer, "JPEG")
    return buffer.getvalue()[:500]


UNREADABLE = [
    b"",
    b"no image",
    truncated_jpeg(),
    png_of_size(8, 8),
    png_of_size(10_000, 10_000),  # Pillow warns of a decompression bomb
    png_of_size(60_000, 60_000),  # Pillow refuses
]


@pytest.mark.parametrize("content", UNREADABLE)
def test_an_unreadable_image_is_named_or_left_out(content, tmp_path):
    fill(tmp_path, "train", {"a": 5, "b": 5})
    fill(tmp_path, "test", {"a": 1, "b": 1})
    bad = tmp_path / "train" / "a" / "bad.png"
    bad.write_bytes(content)
    text = error_of(tmp_path)
    assert text.startswith(f"{bad} cannot be read as an image (")
    assert "--skip-unreadable" in text
    dataset = load_from(tmp_path, skip_unreadable=True)
    assert len(dataset.train) == 10
    assert dataset.notes == ("left out: 1 picture that could not be read (train/a/bad.png)",)
    bad.unlink()
    whole = load_from(tmp_path, skip_unreadable=True)
    assert whole.notes == ()
    assert whole.fingerprint == dataset.fingerprint


def test_skipped_images_of_both_splits_are_counted(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    fill(tmp_path, "test", {"a": 2, "b": 2})
    for part in ("train", "test"):
        (tmp_path / part / "b" / "00.png").write_bytes(b"")
    (note,) = load_from(tmp_path, skip_unreadable=True).notes
    assert note == "left out: 2 pictures that could not be read (test/b/00.png, train/b/00.png)"


def test_a_broken_link_is_an_error(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    link = tmp_path / "train" / "a" / "link.png"
    link.symlink_to(tmp_path / "gone.png")
    assert str(link) in error_of(tmp_path)


def test_a_class_with_no_readable_image_is_named(tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    for k in range(2):
        (tmp_path / "train" / "b" / f"0{k}.png").write_bytes(b"")
    text = error_of(tmp_path, skip_unreadable=True)
    names = ", ".join(str(tmp_path / "train" / "b" / f"0{k}.png") for k in range(2))
    assert text == f"class 'b' has no image that can be read: {names}"


def encoded(kind):
    buffer = io.BytesIO()
    Image.effect_noise((24, 24), 50).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


ENCODED = [encoded(kind) for kind in ("PNG", "JPEG", "WEBP")]


@pytest.mark.filterwarnings("default")  # Pillow may warn of what it then reads
@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    content=st.sampled_from(ENCODED),
    share=st.floats(0, 1, exclude_max=True),
    junk=st.binary(max_size=8),
)
def test_a_damaged_image_is_read_or_left_out(content, share, junk, tmp_path):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    fill(tmp_path, "test", {"a": 1, "b": 1})
    place = int(share * len(content))
    damaged = content[:place] + junk + content[place + len(junk) :]
    (tmp_path / "train" / "a" / "bad.png").write_bytes(damaged)
    dataset = load_from(tmp_path, skip_unreadable=True)
    assert len(dataset.train) + len(dataset.notes) == 5


def test_a_large_folder_shows_a_bar_in_a_terminal_only(tmp_path, capsys, monkeypatch):
    fill(tmp_path, "train", {"a": 2, "b": 2})
    fill(tmp_path, "test", {"a": 1, "b": 1})
    source = tmp_path / "train" / "a" / "00.png"
    for k in range(1000):
        (tmp_path / "train" / "a" / f"{k:04}.png").hardlink_to(source)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    load_from(tmp_path)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    load_from(tmp_path)
    assert "Reading images" in capsys.readouterr().err
