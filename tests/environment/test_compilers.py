"""The compiled passes: a damaged or foreign cache, and compilers that are none."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from environments import TRAIN, gcc, needs_shims, normlab, quick_gcc
from harness import run_code

pytestmark = needs_shims

CODE = """if True:
    import sys
    from normlab.layers.kernels import build, compilers
    if sys.argv[1:]:
        compilers.TIME_LIMIT = float(sys.argv[1])
    library, reason, *_ = build.load()
    print(reason if library is None else f"not kept: {reason}" if reason else "loaded")
"""


def load(cache, *arguments, code=CODE, **variables):
    """Loads the passes in a new process: "loaded", "not kept: WHY", or why there are none."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), **variables}
    code, output, errors = run_code(code, *map(str, arguments), environment=environment)
    assert (code, errors) == (0, "")
    return output.strip()


@pytest.fixture(scope="module", autouse=True)
def without_optimization(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", quick_gcc(tmp_path_factory.mktemp("gcc"))["PATH"])
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache with the passes."""
    cache = tmp_path_factory.mktemp("built")
    if (answer := load(cache)) != "loaded":
        pytest.skip(f"no passes here: {answer}")
    return cache


@pytest.fixture
def cache(built, tmp_path):
    """A copy of that cache."""
    return Path(shutil.copytree(built, tmp_path / "cache"))


def library(cache):
    (path,) = (cache / "normlab").iterdir()
    return path


def cut(size):
    return lambda content: content[: size if size > 1 else int(len(content) * size)]


DAMAGE = {
    "cut to 4096 bytes": cut(4096),
    "cut to 8192 bytes": cut(8192),
    "cut to half": cut(0.5),
    "cut to nothing": cut(0),
    "a page of zeros": lambda content: content[:4096] + bytes(4096) + content[8192:],
    "zeros alone": lambda content: bytes(len(content)),
    "one bit": lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    "one byte more": lambda content: content + b"\0",
}


@pytest.mark.slow(3)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_library_is_built_anew_and_then_used(damage, cache, built):
    path = library(cache)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert load(cache) == "loaded"
    assert library(cache).read_bytes() == library(built).read_bytes()


def test_an_intact_library_is_used_as_it_is_from_a_folder_without_write_permission(cache):
    path = library(cache)
    before = path.stat()
    path.parent.chmod(0o500)
    assert load(cache) == "loaded"
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.slow(1)
def test_a_library_of_another_machine_is_left_to_it(cache):
    code = CODE.replace("library,", "build._machine = lambda: 'another'\n    library,")
    assert load(cache, code=code) == "loaded"
    assert len(list((cache / "normlab").iterdir())) == 2


@pytest.mark.slow(2)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o722])
def test_from_a_cache_folder_that_others_can_write_nothing_is_loaded(mode, cache):
    planted = library(cache)
    planted.write_bytes(b"")  # it would count as damaged and be built anew there
    (cache / "normlab").chmod(mode)
    reason = f"other users can write to {cache / 'normlab'}: set XDG_CACHE_HOME"
    assert load(cache) == f"not kept: {reason}"
    assert planted.read_bytes() == b""


@pytest.mark.slow(2)
def test_so_is_a_folder_above_it_unless_only_owners_may_rename_there(cache):
    cache.chmod(0o777)
    assert load(cache) == f"not kept: other users can write to {cache}: set XDG_CACHE_HOME"
    cache.chmod(0o1777)
    assert load(cache) == "loaded"


@pytest.mark.slow(1)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_from_a_cache_folder_of_another_user_nothing_is_loaded(cache):
    os.chown(cache / "normlab", 12345, 12345)
    reason = f"{cache / 'normlab'} belongs to another user: set XDG_CACHE_HOME"
    assert load(cache) == f"not kept: {reason}"


@pytest.mark.slow(2)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_nor_from_one_in_a_folder_of_another_user(cache):
    os.chown(cache, 12345, 12345)
    assert load(cache) == f"not kept: {cache} belongs to another user: set XDG_CACHE_HOME"
    os.chown(cache, 65534, 65534)  # as a container shows folders of root outside of it
    assert load(cache) == "loaded"


@pytest.mark.slow(3)
@pytest.mark.parametrize("change", ["owner", "mode", "link"])
def test_a_library_that_others_have_put_there_is_replaced(change, cache, tmp_path):
    """They could, before the user followed the note and took the folder for himself."""
    planted = library(cache)
    if change == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(planted, 12345, 12345)
    elif change == "mode":
        planted.chmod(0o666)
    else:
        planted.symlink_to(planted.rename(tmp_path / "theirs"))
    assert load(cache) == "loaded"
    status = library(cache).lstat()
    assert (status.st_uid, status.st_mode) == (os.geteuid(), 0o100644)


@pytest.mark.slow(1)
def test_whatever_the_umask_a_library_is_its_users(built, tmp_path):
    (tmp_path / "cache").mkdir(mode=0o700)
    assert load(tmp_path / "cache", code="import os; os.umask(0)\n" + CODE) == "loaded"
    assert library(tmp_path / "cache").stat().st_mode == 0o100644


def test_a_folder_of_a_private_group_is_not_others(cache):
    status = (cache / "normlab").stat()
    (cache / "normlab").chmod(0o770)
    expected = "loaded" if status.st_uid == status.st_gid else "not kept: other users can write"
    assert load(cache).startswith(expected)


@pytest.mark.slow(1)
def test_a_home_that_a_group_can_write_has_the_passes_in_each_process(tmp_path):
    """As in Jupyter's containers (2775, a group of its own) and in OpenShift's (group 0)."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, -1, next(g for g in (*os.getgroups(), 12345) if g != os.geteuid()))
    home.chmod(0o2775)
    temporary = tmp_path / "temporary"
    temporary.mkdir(mode=0o700)
    answer = load("", HOME=str(home), TMPDIR=str(temporary))
    assert answer == f"not kept: other users can write to {home}: set XDG_CACHE_HOME"
    assert not list(temporary.iterdir())
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_nor_are_they_loaded_from_a_folder_for_temporary_files_that_others_can_write(tmp_path):
    for name in ("cache", "temporary"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    answer = load(tmp_path / "cache", TMPDIR=str(tmp_path / "temporary"))
    assert answer == f"other users can write to {tmp_path / 'temporary'}: set XDG_CACHE_HOME"
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.slow(5)
def test_a_run_says_that_the_passes_are_not_kept(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    process = normlab(*TRAIN, "--out", "run", cwd=tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert process.returncode == 0, process.stderr
    note = "note: the compiled passes are built anew at each start (other users can write to"
    assert note in process.stdout
    (machine,) = json.loads((tmp_path / "run" / "config.json").read_text())["machines"]
    assert machine["kernels"] == "gcc"


def alone(variables):
    """The PATH without the compilers that would be tried after this gcc."""
    return {"PATH": variables["PATH"].partition(os.pathsep)[0]}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(57), "Exec format error"),  # of no architecture
        (b"no program", "Exec format error"),
        (b"#!/nonexistent/interpreter\n", "No such file or directory"),
        (b"#!/bin/sh\nprintf 'gcc \\303\\050 \\377\\n'; exit 1", "gcc fails: gcc \ufffd( \ufffd"),
        (b"#!/bin/sh\nkill -SEGV $$", "gcc fails"),
        (
            b"#!/bin/sh\n[ $1 = -v ] || for i in $@; do o=$i; done; exit 0",
            "kernels.so: cannot open",
        ),
    ],
)
def test_a_gcc_that_is_none_is_a_reason(script, reason, tmp_path):
    answer = load(tmp_path / "cache", **alone(gcc(tmp_path, script)))
    assert reason in answer
    assert "\n" not in answer
    assert not list((tmp_path / "cache").glob("normlab/*"))


@pytest.mark.slow(1)
def test_a_version_that_is_not_utf_8_builds(built, tmp_path):
    script = f"#!/bin/sh\n[ $1 = -v ] && printf '\\377\\n' || exec {shutil.which('gcc')} \"$@\" -O0"
    assert load(tmp_path / "cache", **gcc(tmp_path, script)) == "loaded"


def test_a_gcc_for_another_machine_is_a_reason(tmp_path):
    script = '#!/bin/sh\n[ "$1" = -v ] && exit\nwhile [ "$1" != -o ]; do shift; done\n'
    answer = load(tmp_path / "cache", **alone(gcc(tmp_path, script + "echo foreign > $2")))
    assert "file too short" in answer or "invalid ELF header" in answer


@pytest.mark.slow(2)
@pytest.mark.parametrize("at", ["-v", "-o"])
def test_a_gcc_that_hangs_is_ended_with_all_it_started(at, tmp_path):
    log = tmp_path / "log"
    hangs = f"sleep 1000 & echo $$ $! >> {log}; wait"
    script = f'#!/bin/sh\ncase "$*" in *{at}*) {hangs};; esac\nexec true'
    answer = load(tmp_path / "cache", 2, **gcc(tmp_path, script))
    assert "took longer than 2 seconds" in answer
    assert_ended(log)
    assert not list((tmp_path / "cache").glob("normlab/*"))


def assert_ended(log):
    """Waits until the processes that are named in a file have ended."""
    end = time.monotonic() + 600
    for number in map(int, log.read_text().split()):
        while running(number):
            assert time.monotonic() < end
            time.sleep(0.02)


def running(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow(5)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_build_that_is_ended_leaves_nothing_for_long(number, built, tmp_path):
    cache, log = tmp_path / "cache", tmp_path / "log"
    logs = f"echo $$ > {log}.new; mv {log}.new {log}"
    script = f'#!/bin/sh\n[ "$1" = -v ] && exec true\n{logs}\nexec sleep 1000'
    process = subprocess.Popen(
        [sys.executable, "-c", CODE],
        env=os.environ | {"XDG_CACHE_HOME": str(cache), **gcc(tmp_path, script)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not log.exists():
        time.sleep(0.02)
    assert [path.name[:9] for path in (cache / "normlab").iterdir()] == ["building-"]
    process.send_signal(number)
    process.communicate(timeout=600)
    if number == signal.SIGINT:
        assert_ended(log)
        assert not list((cache / "normlab").iterdir())
    else:
        os.kill(int(log.read_text()), signal.SIGKILL)  # nobody can do it for the killed
    assert load(cache) == "loaded"
    assert library(cache).suffix == ".so"


@pytest.mark.slow(1)
def test_settings_of_the_compiler_do_not_stop_it(built, tmp_path):
    variables = {"TMPDIR": "/nonexistent", "LC_ALL": "xx_XX", "LANG": "de_DE.UTF-8"}
    assert load(tmp_path / "cache", **variables) == "loaded"


@pytest.mark.slow(1)
def test_a_user_without_a_home_is_told_what_to_set():
    # As for a user's number without an entry, which containers have.
    code = "import os, pwd; pwd.getpwuid = {}.__getitem__; del os.environ['HOME']\n"
    answer = load("", code=code + CODE)
    assert answer == "not kept: there is no home folder: set XDG_CACHE_HOME"


def test_a_relative_cache_folder_is_ignored(tmp_path):
    shown = "print(build.user_cache() / 'normlab'); raise SystemExit\n    library,"
    code = CODE.replace("library,", shown)
    assert load("cache", code=code, HOME=str(tmp_path)) == str(tmp_path / ".cache" / "normlab")


@pytest.mark.slow(7)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("noexec", "failed to map segment from shared object"),
        ("ro", "Read-only file system"),
        ("size=4k", "No space left on device"),
    ],
)
def test_where_the_cache_cannot_keep_them_the_process_has_its_own(options, reason, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{options},mode=700", "none", cache], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this container may not mount")
    try:
        for _ in range(2):
            answer = load(cache)
            assert answer.startswith("not kept: ")
            assert reason in answer
    finally:
        subprocess.run(["umount", cache], check=True)
