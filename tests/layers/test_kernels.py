"""How the compiled passes are built, and what happens where they cannot be."""

import ctypes
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normlab import RunConfig
from normlab.layers import kernels, norms
from normlab.layers.kernels import build, compilers
from normlab.training.loop import train

FOLDER = Path(kernels.__file__).parent
GCC = shutil.which("gcc")
BUILT = getattr(kernels.library(), "_name", None)
needs_gcc = pytest.mark.skipif(BUILT is None or GCC is None, reason="no GCC here builds the passes")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has loaded no library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.load.cache_clear()
    yield tmp_path / "cache" / "normlab"
    monkeypatch.undo()
    build.load.cache_clear()


def put_gcc(folder, monkeypatch, script):
    """Makes a shell script the only gcc, and the only program, on the PATH."""
    folder.mkdir()
    path = folder / "gcc"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return path


def real(log, *, asked="/dev/null", before=""):
    """A script that logs a line and runs the real compiler, without optimization."""
    return f"""
    PATH=/usr/local/bin:/usr/bin:/bin:$PATH
    [ "$1" = -v ] && echo >> {asked} && exec {GCC} -v
    echo compiled >> {log}
    {before}
    exec {GCC} "$@" -O0"""


def copying(log, *, version=""):
    """A script that acts as a compiler, but copies the library that was built before."""
    return f"""
    PATH=/usr/local/bin:/usr/bin:/bin:$PATH
    [ "$1" = -v ] && exec echo "{version}"
    echo compiled >> {log}
    while [ "$1" != -o ]; do shift; done
    exec cp {BUILT} "$2"
    """


def compiled(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


def assert_they_compute(x=None):
    """The loaded passes agree with PyTorch's own layer."""
    x = torch.randn(3, 5, 4, 4) if x is None else x
    x = x.contiguous(memory_format=torch.channels_last)
    assert kernels.usable(x)
    y = norms.build("bn", x.shape[1:], activate=True)(x)
    plain = torch.nn.BatchNorm2d(x.shape[1])(x).relu()
    torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)


# Without a compiler


def test_without_a_compiler_there_is_no_library(fresh, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.load()[:2] == (None, "there is no gcc or clang")
    assert not kernels.usable(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    assert not fresh.exists()


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("exit 1", "gcc fails"),
        ("echo 'error: no such flag' >&2; exit 4", "gcc fails: error: no such flag"),
        ('test "$1" = -v', "gcc fails"),
    ],
)
def test_if_the_compiler_fails_there_is_no_library_and_no_file(
    script, problem, fresh, tmp_path, monkeypatch
):
    put_gcc(tmp_path / "bin", monkeypatch, script)
    assert build.load()[:2] == (None, problem)
    assert not list(fresh.glob("**/*"))


def small_run(out):
    config = RunConfig(
        network="C:4 P P D:8 P GAP FC",
        norm="gn",
        dataset="digits",
        recipe="seed",  # with dropout
        epochs=1,
        batch_size=64,
    )
    return train(config, out, quiet=True)


@pytest.mark.parametrize("script", [None, "exit 1"])
def test_without_the_library_a_network_trains_with_pytorch_and_the_run_records_it(
    script, fresh, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        if script:
            put_gcc(tmp_path / "bin", patch, script)
        else:
            patch.setattr(shutil, "which", lambda name: None)
        run = small_run(tmp_path / "torch")
    assert [m.kernels for m in run.machines] == ["torch"]
    build.load.cache_clear()
    monkeypatch.undo()  # back to the library that the other tests use
    if kernels.library() is not None:
        other = small_run(tmp_path / "compiled")
        assert [m.kernels for m in other.machines] == [build.load().origin]
        # The same random draws and formulas, but sums in another order. (Other draws of dropout
        # would change the loss by a relative 3e-5.)
        assert run.last.train_loss == pytest.approx(other.last.train_loss, rel=1e-6)


# Building


@needs_gcc
def test_a_built_library_is_reused(fresh, tmp_path, monkeypatch):
    log = tmp_path / "log"
    put_gcc(tmp_path / "bin", monkeypatch, real(log))
    assert kernels.library() is not None
    (built,) = fresh.iterdir()
    assert built.suffix == ".so"
    assert stat.S_IMODE(fresh.stat().st_mode) & 0o077 == 0  # no one else can put a library there
    assert_they_compute()
    assert kernels.library() is kernels.library()
    build.load.cache_clear()
    assert kernels.library() is not None
    assert compiled(log) == 1
    assert list(fresh.iterdir()) == [built]


@needs_gcc
def test_a_damaged_library_is_built_again(fresh, tmp_path, monkeypatch):
    log = tmp_path / "log"
    put_gcc(tmp_path / "bin", monkeypatch, copying(log))
    assert kernels.library() is not None
    (built,) = fresh.iterdir()
    # In another folder, because a path that is already loaded is not read again.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    damaged = tmp_path / "other" / "normlab" / built.name
    damaged.parent.mkdir(parents=True, mode=0o700)
    damaged.write_bytes(b"not a library")
    build.load.cache_clear()
    assert kernels.library() is not None
    assert compiled(log) == 2
    assert damaged.read_bytes() == built.read_bytes()
    assert_they_compute()


@needs_gcc
def test_another_compiler_source_or_flag_builds_another_library(fresh, tmp_path, monkeypatch):
    log = tmp_path / "log"
    gcc = put_gcc(tmp_path / "bin", monkeypatch, copying(log))

    def built():
        build.load.cache_clear()
        assert kernels.library() is not None
        return compiled(log)

    assert built() == 1
    gcc.write_text("#!/bin/sh\n" + copying(log, version="another"))
    assert built() == 2
    monkeypatch.setattr(compilers, "FLAGS", (*compilers.FLAGS, "-DANOTHER"))
    assert built() == 3
    read = Path.read_text
    for count, changed in enumerate(FOLDER.glob("*.[ch]"), 4):

        def with_a_comment(path, changed=changed, **options):
            return read(path, **options) + "/**/" * (path == changed)

        monkeypatch.setattr(Path, "read_text", with_a_comment)
        assert built() == count, changed
    monkeypatch.setattr(Path, "read_text", read)
    assert len(list(fresh.iterdir())) == compiled(log)


@needs_gcc
@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_library_is_in_the_users_cache(variable, fresh, tmp_path, monkeypatch):
    put_gcc(tmp_path / "bin", monkeypatch, copying(tmp_path / "log"))
    folder = tmp_path / "here" / "normlab"
    if variable == "HOME":
        monkeypatch.setenv("XDG_CACHE_HOME", "")  # the specification treats it as not set
        folder = tmp_path / "here" / ".cache" / "normlab"
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert kernels.library() is not None
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    assert not fresh.exists()


@pytest.mark.slow(5)
@needs_gcc
def test_of_two_processes_one_builds_and_the_other_waits(fresh, tmp_path, monkeypatch):
    log = tmp_path / "log"
    # The compiler waits until both processes have asked for its version.
    asked = tmp_path / "asked"
    both = f'for _ in $(seq 6000); do [ "$(wc -l < {asked})" -ge 2 ] && break; sleep 0.1; done'
    put_gcc(tmp_path / "bin", monkeypatch, real(log, asked=asked, before=both))
    code = """if True:
        import torch
        from normlab.layers import kernels
        x = torch.ones(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x)
        affine = {"scale": x[:, :, 0, 0], "shift": 2 * x[:, :, 0, 0]}
        kernels.normalize("apply", x, kernels.Settings(), out=y, **affine)
        print(y.mean().item())
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        output, errors = process.communicate(timeout=600)
        assert (process.returncode, output) == (0, "3.0\n"), errors
    assert compiled(log) == 1
    assert [path.suffix for path in fresh.iterdir()] == [".so"]


# Which maps the passes accept, and the C interface


@needs_gcc
def test_maps_of_more_channels_than_a_tile_are_left_to_pytorch():
    most = kernels.MAX_CHANNELS
    assert_they_compute(torch.randn(2, most, 1, 3))
    assert_they_compute(torch.randn(2, most - 1, 1, 3))
    x = torch.randn(2, most + 1, 1, 3).contiguous(memory_format=torch.channels_last)
    assert not kernels.usable(x)
    y = norms.build("bn", x.shape[1:], activate=False)(x)
    torch.testing.assert_close(y, torch.nn.BatchNorm2d(most + 1)(x), rtol=0, atol=0)


@needs_gcc
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int32])
def test_maps_of_other_types_are_not_usable(dtype):
    x = torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert kernels.usable(x)
    assert not kernels.usable(x.to(dtype))
    assert not kernels.usable(x.to("meta"))
    assert not kernels.usable(x.contiguous())
    assert not kernels.usable(x[:, :, ::2])


def test_the_channel_limit_is_that_of_the_source():
    text = "\n".join(path.read_text() for path in FOLDER.glob("*.[ch]"))
    assert re.findall(r"\bTILE = (\d+)", text) == [str(kernels.MAX_CHANNELS)]


C_TYPES = {
    "float": ctypes.c_float,
    "int64_t": ctypes.c_int64,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
}


def c_structs(text):
    """The fields of each struct in a C source, as ctypes types."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    for body in re.findall(r"typedef struct \{(.*?)\}", text, flags=re.DOTALL):
        fields = []
        for declaration in filter(None, map(str.strip, body.split(";"))):
            kind, names = re.fullmatch(r"(?:const )?(\w+)\s+(.*)", declaration, re.DOTALL).groups()
            for name in names.split(","):
                pointer = name.strip().startswith("*")
                within = getattr(kernels, f"_{kind}", None)  # a struct in a struct
                c_type = ctypes.c_void_p if pointer else within or C_TYPES[kind]
                fields.append((name.strip(" *\n"), c_type))
        yield fields


def test_the_structs_match_the_source_field_by_field():
    in_c = [
        [(name, kind.__name__) for name, kind in fields]
        for path in FOLDER.glob("*.[ch]")
        for fields in c_structs(path.read_text())
    ]
    in_python = [
        [(name, kind.__name__) for name, kind in value._fields_]
        for value in vars(kernels).values()
        if isinstance(value, type) and issubclass(value, ctypes.Structure)
    ]
    assert in_c
    assert sorted(in_c) == sorted(in_python)


def test_the_sources_and_headers_are_part_of_the_package():
    from fnmatch import fnmatch
    from tomllib import loads

    root = Path(__file__).parents[2]
    patterns = loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = FOLDER.parents[1]
    for path in FOLDER.glob("*.[ch]"):
        relative = path.relative_to(package).as_posix()
        assert any(fnmatch(relative, pattern) for pattern in patterns["normlab"]), relative


@needs_gcc
def test_without_a_writable_cache_folder_the_process_has_a_library_of_its_own(
    tmp_path, monkeypatch, fresh
):
    """As if the home folder were read-only."""
    put_gcc(tmp_path / "bin", monkeypatch, copying(tmp_path / "log"))
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    library, reason, *_ = build.load()
    assert library is not None
    assert reason == f"{tmp_path / 'file' / 'normlab'}: Not a directory"
    assert_they_compute()
