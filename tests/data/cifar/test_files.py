import contextlib
import gzip
import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar10_files import NAMES, python2_pickle, tar, write_all
from normlab.data import load
from normlab.data.cifar import download, layouts
from normlab.data.cifar.files import PUBLISHED
from normlab.errors import DataError

BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"


def error_of(root):
    with pytest.raises(DataError) as caught:
        load("cifar10", data_root=root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- The layouts ---


def put_binary_archive(root, made_up):
    write_all(root, {"cifar-10-binary.tar.gz": tar(made_up.binary(), BINARY)})


def put_python_archive(root, made_up):
    # Not in the batches' order: the published archive is not either.
    files = dict(reversed(made_up.python().items()))
    write_all(root, {"cifar-10-python.tar.gz": tar(files, PYTHON)})


def put_binary_folder(root, made_up):
    write_all(root / BINARY, made_up.binary())


def put_python_folder(root, made_up):
    write_all(root / PYTHON, made_up.python())


def put_binary_files(root, made_up):
    write_all(root, made_up.binary())


def put_python_files(root, made_up):
    write_all(root, made_up.python())


@pytest.mark.parametrize(
    "put",
    [
        put_binary_archive,
        put_python_archive,
        put_binary_folder,
        put_python_folder,
        put_binary_files,
        put_python_files,
    ],
)
def test_every_layout_gives_the_same_images(put, made_up, tmp_path):
    root = tmp_path / "root"
    put(root, made_up)
    before = sorted(root.rglob("*"))
    dataset = load("cifar10", data_root=root)
    expected = made_up.pixels.reshape(6, 20, 3, 32, 32)
    assert dataset.name == "cifar10"
    assert dataset.classes == layouts.CIFAR10.classes
    assert dataset.train.images.dtype == dataset.test.images.dtype == np.uint8
    assert dataset.train.labels.dtype == dataset.test.labels.dtype == np.int64
    assert (dataset.train.images == expected[:5].reshape(100, 3, 32, 32)).all()
    assert (dataset.test.images == expected[5]).all()
    assert (dataset.train.labels == made_up.labels[:5].ravel()).all()
    assert (dataset.test.labels == made_up.labels[5]).all()
    assert sorted(root.rglob("*")) == before  # nothing was extracted


def test_the_first_third_of_a_record_is_red_row_by_row(made_up, tmp_path):
    put_binary_folder(tmp_path, made_up)
    image = load("cifar10", data_root=tmp_path).train.images[0]
    assert image[0, 0, 1] == made_up.pixels[0, 0, 1]
    assert image[0, 1, 0] == made_up.pixels[0, 0, 32]
    assert image[1, 0, 0] == made_up.pixels[0, 0, 1024]


@pytest.mark.parametrize("protocol", [3, 4])
def test_batches_pickled_by_python_3_are_read(protocol, made_up, tmp_path):
    files = {**made_up.python(), "data_batch_2": pickle.dumps(made_up.batch(1), protocol=protocol)}
    write_all(tmp_path, files)
    images = load("cifar10", data_root=tmp_path).train.images
    assert (images[20:40].reshape(20, -1) == made_up.pixels[1]).all()


def test_an_array_in_fortran_order_is_read(made_up, tmp_path):
    batch = {**made_up.batch(0), b"data": np.asfortranarray(made_up.pixels[0])}
    write_all(tmp_path, {**made_up.python(), "data_batch_1": python2_pickle(batch)})
    images = load("cifar10", data_root=tmp_path).train.images
    assert (images[:20].reshape(20, -1) == made_up.pixels[0]).all()


# --- Where the files are searched ---


def test_an_argument_takes_precedence_over_the_environment(made_up, tmp_path, monkeypatch):
    put_binary_folder(tmp_path / "a", made_up)
    put_python_folder(tmp_path / "b", made_up)
    monkeypatch.setenv("NORMLAB_DATA", str(tmp_path / "a"))
    assert "data_batch_1.bin" in load("cifar10").notes[0]
    assert "data_batch_1.bin" not in load("cifar10", data_root=tmp_path / "b").notes[0]
    assert str(tmp_path / "c") in error_of(tmp_path / "c")


def test_a_tilde_is_the_home_folder(made_up, tmp_path, monkeypatch):
    put_binary_folder(tmp_path / "data", made_up)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NORMLAB_DATA", "~/data")
    assert len(load("cifar10").test) == 20
    assert len(load("cifar10", data_root=Path("~/data")).test) == 20


def test_an_archive_takes_precedence_over_extracted_files(made_up, tmp_path):
    put_python_folder(tmp_path, made_up)
    put_binary_archive(tmp_path, made_up)
    assert "cifar-10-binary.tar.gz" in load("cifar10", data_root=tmp_path).notes[0]


@pytest.mark.usefixtures("made_up")
def test_an_empty_or_missing_folder_says_what_to_do(tmp_path, monkeypatch):
    for root in (tmp_path, tmp_path / "nowhere"):
        text = error_of(root)
        assert f"no CIFAR-10 in {root}" in text
        for hint in (
            "cifar-10-binary.tar.gz",
            "cifar-10-python.tar.gz",
            "cifar-10-batches-bin",
            "cifar-10-batches-py",
            f"{download.SITE}/cifar-10-binary.tar.gz",
            "leave out --data-root",
            "--dataset digits",
        ):
            assert hint in text
    assert "which is not a folder" in text
    monkeypatch.setenv("NORMLAB_DATA", str(tmp_path))
    with pytest.raises(DataError, match="leave out NORMLAB_DATA"):
        load("cifar10")


@pytest.mark.usefixtures("made_up")
def test_an_unreadable_root_is_named(tmp_path):
    assert "cannot be read: File name too long" in error_of(tmp_path / ("a" * 300))


# --- Comparison with the published files ---


def md5(content):
    return hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(
    ("put", "archive"),
    [
        (put_binary_archive, "cifar-10-binary.tar.gz"),
        (put_python_archive, "cifar-10-python.tar.gz"),
    ],
)
def test_only_an_unpublished_archive_is_noted(put, archive, made_up, tmp_path, monkeypatch):
    put(tmp_path, made_up)
    (note,) = load("cifar10", data_root=tmp_path).notes
    assert "not the published" in note
    assert archive in note
    monkeypatch.setitem(PUBLISHED, archive, md5((tmp_path / archive).read_bytes()))
    assert load("cifar10", data_root=tmp_path).notes == ()


def test_only_unpublished_python_files_are_noted(made_up, tmp_path, monkeypatch):
    files = made_up.python()
    put_python_folder(tmp_path, made_up)
    for name in NAMES:
        monkeypatch.setitem(PUBLISHED, name, md5(files[name]))
    assert load("cifar10", data_root=tmp_path).notes == ()
    other = python2_pickle({**made_up.batch(3), b"batch_label": b"another"})
    (tmp_path / PYTHON / "data_batch_4").write_bytes(other)
    (note,) = load("cifar10", data_root=tmp_path).notes
    assert note.endswith("data_batch_4")


def test_extracted_binary_files_are_noted_as_unchecked(made_up, tmp_path):
    put_binary_folder(tmp_path, made_up)
    (note,) = load("cifar10", data_root=tmp_path).notes
    assert note.startswith("not checked")
    assert "test_batch.bin" in note


# --- Malformed files and archives ---


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("data_batch_3.bin", lambda b: b[:-1], "61,460 bytes were expected, it has 61,459"),
        ("data_batch_3.bin", lambda b: b + b"\0", "61,460 bytes were expected, it has 61,461"),
        ("data_batch_3.bin", lambda _: b"", "61,460 bytes were expected, it has 0"),
        ("data_batch_3.bin", lambda b: b * 3, "far longer than 20 images"),
        ("test_batch.bin", lambda b: b"\x0a" + b[1:], "label 10 is above 9"),
    ],
)
def test_a_malformed_binary_file_is_named(name, change, expected, made_up, tmp_path):
    files = made_up.binary()
    files[name] = change(files[name])
    write_all(tmp_path / "extracted", files)
    write_all(tmp_path / "archived", {"cifar-10-binary.tar.gz": tar(files, BINARY)})
    for root in (tmp_path / "extracted", tmp_path / "archived"):
        text = error_of(root)
        assert name in text
        assert str(root) in text
        assert expected in text


def test_missing_files_are_named(made_up, tmp_path):
    files = made_up.binary()
    del files["data_batch_2.bin"], files["data_batch_5.bin"]
    write_all(tmp_path / "extracted", files)
    write_all(tmp_path / "archived", {"cifar-10-binary.tar.gz": tar(files, BINARY)})
    for root in (tmp_path / "extracted", tmp_path / "archived"):
        assert "lacks data_batch_2.bin, data_batch_5.bin" in error_of(root)


def test_members_are_found_by_their_full_names(made_up, tmp_path):
    write_all(tmp_path, {"cifar-10-binary.tar.gz": tar(made_up.binary(), f"./{BINARY}")})
    assert len(load("cifar10", data_root=tmp_path).train) == 100
    for folder in (f"../{BINARY}", f"/{BINARY}", "elsewhere"):
        write_all(tmp_path, {"cifar-10-binary.tar.gz": tar(made_up.binary(), folder)})
        assert "lacks data_batch_1.bin" in error_of(tmp_path)


def test_a_link_in_an_archive_is_not_followed(made_up, tmp_path):
    files = made_up.binary()
    write_all(tmp_path, {"outside": files.pop("test_batch.bin")})
    write_all(tmp_path, {"cifar-10-binary.tar.gz": tar(files, BINARY)})
    path = tmp_path / "cifar-10-binary.tar.gz"
    plain = tmp_path / "plain.tar"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    with tarfile.open(plain, "a") as archive:
        link = tarfile.TarInfo(f"{BINARY}/test_batch.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    assert "lacks test_batch.bin" in error_of(tmp_path)


def test_a_file_that_cannot_be_read_is_named(made_up, tmp_path):
    put_binary_files(tmp_path, made_up)
    (tmp_path / "data_batch_1.bin").unlink()
    (tmp_path / "data_batch_1.bin").mkdir()
    text = error_of(tmp_path)
    assert text == f"{tmp_path / 'data_batch_1.bin'} cannot be read: Is a directory"


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", gzip.compress(b"no tar" * 200, mtime=0)]
)
def test_a_file_that_is_no_archive_is_refused(content, tmp_path):
    write_all(tmp_path, {"cifar-10-binary.tar.gz": content})
    text = error_of(tmp_path)
    assert str(tmp_path / "cifar-10-binary.tar.gz") in text
    assert "damaged, or is not a .tar.gz archive" in text


def header(kind, content):
    """A tar member that describes the next one: its header and its content."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, len(content)
    return member.tobuf() + content + bytes(-len(content) % 512)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize(
    "hostile",
    [
        header(b"x", b"9" * 5000 + b" a=b\n"),
        header(b"x", b"21 GNU.sparse.size=x\n"),
        header(b"x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"),
        header(b"L", b"a" * 511 + b"\0") * 2000,
    ],
    ids=["a number of 5,000 digits", "no number", "no map of a sparse file", "names of names"],
)
def test_malformed_headers_are_reported_as_damage(hostile, tmp_path):
    content = hostile + header(b"0", b"") + bytes(1024)
    write_all(tmp_path, {"cifar-10-binary.tar.gz": gzip.compress(content)})
    assert "damaged, or is not a .tar.gz archive" in error_of(tmp_path)


@pytest.mark.usefixtures("made_up")
@pytest.mark.parametrize("kind", [b"x", b"L", b"0"])
def test_an_archive_that_unpacks_to_far_more_than_cifar10_is_refused(kind, tmp_path):
    zeros = bytes(12 * 20 * 3073 + 1)
    content = header(kind, zeros) + header(b"0", b"") + bytes(1024)
    write_all(tmp_path, {"cifar-10-binary.tar.gz": gzip.compress(content)})
    assert "it unpacks to far more than CIFAR-10" in error_of(tmp_path)


FIXTURES_STAY = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FIXTURES_STAY
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_archive_is_refused(share, made_up, tmp_path):
    whole = tar(made_up.binary(), BINARY)
    write_all(tmp_path, {"cifar-10-binary.tar.gz": whole[: int(share * len(whole))]})
    assert "damaged" in error_of(tmp_path)


@pytest.mark.slow(1)
@FIXTURES_STAY
@given(share=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_damaged_archive_gives_an_error_or_the_right_images(share, flip, made_up, tmp_path):
    damaged = bytearray(tar(made_up.binary(), BINARY))
    damaged[int(share * len(damaged))] ^= flip
    write_all(tmp_path, {"cifar-10-binary.tar.gz": bytes(damaged)})
    with contextlib.suppress(DataError):
        dataset = load("cifar10", data_root=tmp_path)
        # some bytes of gzip's header have no effect: a time, a system
        assert (dataset.test.images.reshape(20, -1) == made_up.pixels[5]).all()


# --- The published data ---

with_cifar10 = pytest.mark.skipif(
    not os.environ.get("NORMLAB_DATA"), reason="NORMLAB_DATA does not say where CIFAR-10 is"
)


@pytest.mark.slow(2)
@with_cifar10
def test_cifar10_has_its_known_statistics():
    dataset = load("cifar10")
    assert dataset.train.images.shape == (50_000, 3, 32, 32)
    assert dataset.test.images.shape == (10_000, 3, 32, 32)
    assert np.bincount(dataset.train.labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    from normlab.data.describe import channel_statistics

    mean, std = channel_statistics(dataset.train.images)
    assert mean.round(4).tolist() == [0.4914, 0.4822, 0.4465]
    assert std.round(4).tolist() == [0.2470, 0.2435, 0.2616]


@pytest.mark.slow(3)
@with_cifar10
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_loading_cifar10_takes_less_than_450_megabytes():
    code = (
        "from pathlib import Path; from normlab.data import load; load('cifar10'); "
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 450e6
