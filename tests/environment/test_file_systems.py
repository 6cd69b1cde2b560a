"""File systems that offer less than a local disk: networks', virtual machines', full ones."""

import errno
import json
import os

import pytest

from environments import (
    COMPARE,
    NETWORK,
    TRAIN,
    TRAINED,
    assert_one_line,
    needs_shims,
    normlab,
    shim,
    unusual_process,
)
from harness import EXECUTION, assert_equal_runs
from normlab import train

pytestmark = needs_shims

FLOCK = "#include <errno.h>\nint flock(int file, int operation) {{ errno = {number}; return -1; }}"
FSYNC = """
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
int fsync(int file) {{
    struct stat status;
    fstat(file, &status);
    if ({which}(status.st_mode)) {{ errno = {number}; return -1; }}
    return ((int (*)(int)) dlsym(RTLD_NEXT, "fsync"))(file);
}}
"""
CHMOD = """
#include <errno.h>
#include <sys/stat.h>
int chmod(const char *path, mode_t mode) { errno = EPERM; return -1; }
int fchmod(int file, mode_t mode) { errno = EPERM; return -1; }
int fchmodat(int folder, const char *path, mode_t mode, int flags) { errno = EPERM; return -1; }
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on a file system that offers all."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return train(TRAINED, out, EXECUTION, quiet=True).path


NOT_NOTICED = "a second process that works in the same folder is not noticed"
NOT_SYNCED = "it may lose the newest files in a power failure"


@pytest.mark.slow(5)
@pytest.mark.parametrize(
    ("lock", "sync"),
    [
        (errno.ENOSYS, None),
        (errno.ENOLCK, ("S_ISDIR", errno.EINVAL)),
        (errno.EBADF, ("S_ISREG", errno.ENOTSUP)),
    ],
)
def test_without_a_guarantee_a_run_trains_and_a_note_says_it_once(lock, sync, whole, tmp_path):
    source, lacks = FLOCK.format(number=lock), [(lock, NOT_NOTICED)]
    if sync is not None:
        which, number = sync
        source += FSYNC.format(which=which, number=number)
        lacks.append((number, NOT_SYNCED))
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, **shim(tmp_path, source))
    assert process.returncode == 0, process.stderr
    assert process.stderr == "".join(
        f"note: this file system lacks a guarantee ({os.strerror(number)}): {consequence}\n"
        for number, consequence in lacks
    )
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow(5)
def test_without_locks_a_study_runs_in_an_unusual_process(tmp_path):
    variables = shim(tmp_path, FLOCK.format(number=errno.ENOSYS))
    process = normlab(*COMPARE, "--out", "study", cwd=tmp_path, before=unusual_process, **variables)
    assert process.returncode == 0, process.stderr
    assert (process.stderr.count("\n"), process.stderr.count(NOT_NOTICED)) == (1, 1)
    states = json.loads((tmp_path / "study" / "study.json").read_text())["results"]
    assert [result["state"] for result in states] == ["done", "done"]


@pytest.mark.slow(2)
def test_a_disk_that_fails_to_sync_is_no_lack_of_a_guarantee(tmp_path):
    variables = shim(tmp_path, FSYNC.format(which="S_ISREG", number=errno.EIO))
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, **variables)
    assert_one_line(process)
    assert "cannot be written: Input/output error" in process.stderr


@pytest.mark.slow(5)
def test_where_permissions_cannot_be_changed_a_run_trains_without_a_word(whole, tmp_path):
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, **shim(tmp_path, CHMOD))
    assert (process.returncode, process.stderr) == (0, "")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow(3)
def test_on_windows_training_is_refused_in_one_line_and_the_rest_works(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['fcntl'] = None\n")
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, PYTHONPATH=path_with(tmp_path))
    assert_one_line(process, 2)
    assert "normlab does not train on Windows" in process.stderr
    assert not (tmp_path / "run").exists()
    process = normlab("summary", NETWORK, cwd=tmp_path, PYTHONPATH=path_with(tmp_path))
    assert process.returncode == 0


def path_with(folder):
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
