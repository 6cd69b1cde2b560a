"""What is named as a picture and is none: pipes, devices, files without an end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from normlab.data.images import read_picture
from normlab.errors import DataError
from peculiar import RGB, encoded

MODEL = ("--model", "nano")


def normlab(*arguments, **options):
    """Runs a command; returns its exit code, output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "normlab", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow(2)
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero on this machine")
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_standard_input_without_an_end_is_refused(command, tmp_path):
    with Path("/dev/zero").open("rb") as endless:
        code, _, errors = normlab(command, *MODEL, "-", stdin=endless, cwd=tmp_path)
    assert code == 1
    assert "it has more than 256 MB" in errors
    assert errors.count("\n") <= 2
    assert "Traceback" not in errors


@pytest.mark.slow(2)
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_standard_input_that_is_closed_is_refused(command, tmp_path):
    line = f'exec "$0" -m normlab {command} --model nano - <&-'
    done = subprocess.run(
        ["/bin/sh", "-c", line, sys.executable], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1
    assert "the standard input is empty or closed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_pipe_and_a_device_are_no_pictures(tmp_path, cli):
    os.mkfifo(tmp_path / "pipe.png")
    for name in (tmp_path / "pipe.png", "/dev/zero", "/dev/tty"):
        code, output, errors = cli("predict", *MODEL, name)
        assert (code, output) == (2, "")
        assert errors.count("\n") == 1
        assert "there is no such picture" in errors


def test_a_pipe_and_a_device_are_refused_from_python(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(DataError, match=r"it is not a regular file\)$"):
            read_picture(path)


@pytest.mark.slow(1)
def test_a_file_larger_than_any_picture_is_refused(tmp_path):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.write(encoded(RGB, "PNG"))
        file.truncate(40 * 1024**3)
    with pytest.raises(DataError, match=r"it has more than 256 MB\)$"):
        read_picture(tmp_path / "sparse.png")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero on this machine")
def test_a_file_that_grows_as_fast_as_it_is_read_is_read_to_the_limit():
    with (
        Path("/dev/zero").open("rb") as endless,
        pytest.raises(DataError, match="more than 256 MB"),
    ):
        read_picture(endless)
