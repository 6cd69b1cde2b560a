"""Standard streams that are closed, full, or whose reader has gone."""

import os
import subprocess
import sys

import pytest

from environments import COMPARE, NETWORK, TRAIN, assert_one_line, needs_shims, normlab, shim
from normlab import Execution, resume
from normlab.runs.run import Run

CLOSED = [">&-", "2>&-", "<&- >&- 2>&-"]


@pytest.mark.slow(5)
def test_a_run_ends_well_with_closed_streams(tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, redirect="<&- >&- 2>&-")
    assert (process.returncode, process.stderr) == (0, "")
    assert Run.open(tmp_path / "run").finished
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    ("arguments", "redirect"),
    [
        *((("zoo",), redirect) for redirect in CLOSED),
        *((("--help",), redirect) for redirect in CLOSED),
        (("norms",), "<&- >&- 2>&-"),
        (("summary", NETWORK), "<&- >&- 2>&-"),
    ],
)
def test_so_does_a_command_that_only_prints(arguments, redirect, tmp_path):
    process = normlab(*arguments, cwd=tmp_path, redirect=redirect)
    assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.slow(2)
@pytest.mark.parametrize("redirect", CLOSED)
def test_an_error_keeps_its_code(redirect, tmp_path):
    process = normlab("summary", "C:12 Q c", cwd=tmp_path, redirect=redirect)
    assert process.returncode == 2
    assert process.stderr.startswith("" if "2>" in redirect else "normlab: ")


@pytest.mark.slow(10)
def test_a_study_runs_with_closed_streams(tmp_path):
    process = normlab(*COMPARE, "--out", "study", cwd=tmp_path, redirect="<&- >&- 2>&-")
    assert process.returncode == 0
    assert (tmp_path / "study" / "report.html").exists()


@pytest.mark.slow(2)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")  # noqa: PTH110
def test_a_full_disk_behind_a_stream_is_one_line_at_most(tmp_path):
    process = normlab("zoo", cwd=tmp_path, redirect="> /dev/full")
    assert_one_line(process)
    assert "the output cannot be written: No space left on device" in process.stderr
    assert normlab("zoo", cwd=tmp_path, redirect="> /dev/full 2>&1").returncode == 1
    assert normlab("summary", "Q", cwd=tmp_path, redirect="2> /dev/full").returncode == 2


def test_output_waits_for_a_reader_that_is_slow(tmp_path):
    """A parent, such as a terminal of Node, may have made the pipe non-blocking."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    filled = 0
    try:
        while True:
            filled += os.write(writer, b"." * 65536)
    except BlockingIOError:
        pass
    process = subprocess.Popen(
        [sys.executable, "-m", "normlab", "zoo"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        output = stream.read()[filled:]
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, b"")
    assert output == normlab("zoo", cwd=tmp_path).stdout.encode()


@pytest.mark.slow(2)
def test_a_run_whose_reader_has_gone_ends_without_a_traceback_and_can_be_resumed(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "normlab", *TRAIN, "--out", tmp_path / "run"],
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (1, b"")
    assert resume(tmp_path / "run", Execution(threads=1), quiet=True).finished


HANDLERS = """
#include <signal.h>
static void handle(int number) { (void) number; }
__attribute__((constructor)) static void install(void) {
    signal(SIGINT, handle);
    signal(SIGTERM, handle);
}
"""


@pytest.mark.slow(5)
@needs_shims
def test_handlers_that_python_did_not_install_stay(tmp_path):
    """As in a program that runs Python within it, such as R or uWSGI."""
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, **shim(tmp_path, HANDLERS))
    assert (process.returncode, process.stderr) == (0, "")
    assert Run.open(tmp_path / "run").finished
