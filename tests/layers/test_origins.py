"""The compiled passes by other compilers than this machine's GCC, and for other processors.

Each library is built once, with its own flags, and compared with PyTorch in float64.
"""

import copy
import ctypes
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from normlab import RunConfig
from normlab.layers import kernels, norms
from normlab.layers.activations import ACTIVATIONS, RELU
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.kernels import build, compilers, prebuilt
from normlab.layers.pooling import MaxPool
from normlab.network.model import Network
from normlab.runs import machine
from normlab.training.loop import train
from passes import DTYPES, compiled, products_of

BUILT = getattr(kernels.library(), "_name", None)
linux = pytest.mark.skipif(sys.platform != "linux", reason="wheels have passes for Linux alone")
SHORT = RunConfig(
    network="C:4 P P C:4 GAP FC", dataset="digits", recipe="demo", epochs=1, train_images=64
)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """An empty cache, and a process that has loaded no library yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    build.load.cache_clear()
    yield
    monkeypatch.undo()
    build.load.cache_clear()


def programs(folder, monkeypatch, **names):
    """A PATH on which there are these programs alone, by these names."""
    folder.mkdir()
    for name, real in names.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nPATH=/usr/local/bin:/usr/bin:/bin exec {real} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


# What every library has to compute


def maps(shape, dtype, seed):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws).add(0.5).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def outcome(layer, x, residual, upstream):
    """The maps and all gradients, with the same dropout each time."""
    x, residual = x.clone().requires_grad_(), residual.clone().requires_grad_()
    torch.manual_seed(4)
    y = layer(x, residual=residual)
    y.backward(upstream.to(y.dtype))
    return {
        "maps": y.detach(),
        "gradient of x": x.grad,
        "gradient of the residual": residual.grad,
        **{f"gradient of {name}": p.grad for name, p in layer.named_parameters()},
    }


def assert_they_compute():
    """All passes: normalizations and activations, pooling, depthwise and separable convolution."""
    with_passes = [a for a in ACTIVATIONS.values() if a.compiled is not None]
    cases = [(name, RELU) for name in ("bn", "gn=3", "ln", "in", "rms")]
    cases += [("gn=3", activation) for activation in (None, *with_passes)]
    for shape in ((5, 6, 4, 5), (3, 39, 7, 3)):
        for dtype in DTYPES:
            for name, activation in cases:
                activates = {"activate": activation is not None, "activation": activation or RELU}
                layer = norms.build(name, shape[1:], dropout=0.3, **activates)
                x, residual, upstream = (maps(shape, dtype, seed) for seed in range(3))
                assert kernels.usable(x)
                exact = outcome(
                    copy.deepcopy(layer).double(), x.double(), residual.double(), upstream
                )
                bf16 = 2**-8 if dtype == torch.bfloat16 else 0
                for what, actual in outcome(layer, x, residual, upstream).items():
                    torch.testing.assert_close(
                        actual.double(),
                        exact[what],
                        rtol=bf16 + 2e-5,
                        atol=2e-5,
                        msg=lambda text, at=(name, activation, shape, dtype, what): f"{at}: {text}",
                    )
    for dtype in DTYPES:
        for channels in (3, 8, 21):
            assert_pooling(maps((3, channels, 7, 6), dtype, seed=5))
        for channels in (16, 21, 32) if dtype == torch.bfloat16 else (8, 21, 32):
            assert_depthwise(maps((3, channels, 5, 6), dtype, seed=5))
        for norm in ("bn", "ln"):
            for channels, width in ((16, 24), (21, 21)):
                assert_separable(norm, maps((3, channels, 5, 6), dtype, seed=5), width)


def assert_separable(norm, x, width):
    """The block as one pass is the block as layers; a hook makes it that."""
    channels = x.shape[1]
    plus = "+" if channels == width else ""
    block = Network(f"C:{channels} D:{width}{plus} GAP FC", norm=norm).blocks[1]
    plain = copy.deepcopy(block)
    plain.conv.register_forward_hook(lambda *_: None)
    upstream = maps((len(x), width, *x.shape[2:]), x.dtype, seed=6)
    results = []
    for each in (block, plain):
        leaf = x.clone().requires_grad_()
        with products_of(x.dtype):
            y = each(leaf)
        y.backward(upstream)
        gradients = [parameter.grad for parameter in each.parameters()]
        results.append([y, leaf.grad, *gradients])
    close = 0.02 if x.dtype == torch.bfloat16 else 1e-5
    for one, other in zip(*results, strict=True):
        # Before another BatchNorm, the gradient of a bias is 0 but for rounding.
        assert (one.double() - other.double()).norm() <= close * (20 + other.double().norm())


def assert_pooling(x):
    leaf, plain = x.clone().requires_grad_(), x.double().requires_grad_()
    y, expected = MaxPool()(leaf), F.max_pool2d(plain, 2)
    upstream = maps(y.shape, x.dtype, seed=6)
    y.backward(upstream)
    expected.backward(upstream.double())
    assert torch.equal(y.double(), expected)
    assert torch.equal(leaf.grad.double(), plain.grad)


def assert_depthwise(x):
    channels = x.shape[1]
    conv = DepthwiseConv2d(channels, channels, 3, 1, 1, groups=channels, bias=False)
    exact = copy.deepcopy(conv).double()
    leaf, plain = x.clone().requires_grad_(), x.double().requires_grad_()
    with products_of(x.dtype):
        y = conv(leaf)
    expected = exact(plain)
    upstream = maps(y.shape, x.dtype, seed=6)
    y.backward(upstream)
    expected.backward(upstream.double())
    bf16 = 2**-8 if x.dtype == torch.bfloat16 else 0
    pairs = ((y, expected), (leaf.grad, plain.grad), (conv.weight.grad, exact.weight.grad))
    for actual, wanted in pairs:
        torch.testing.assert_close(actual.double(), wanted, rtol=bf16 + 2e-5, atol=2e-5)


@compiled
def test_gccs():
    """The library that all other tests use: these checks are right."""
    assert_they_compute()


@pytest.mark.slow(16)
@pytest.mark.skipif(shutil.which("clang") is None, reason="needs clang")
def test_clangs(fresh, tmp_path, monkeypatch):
    programs(tmp_path / "bin", monkeypatch, clang=shutil.which("clang"))
    passes = build.load()
    assert (passes.reason, passes.origin, passes.threaded) == ("", "clang", True)
    assert_they_compute()
    assert machine.describe(torch.device("cpu"), from_epoch=1).kernels == "clang"


X86 = [origin for origin, target in prebuilt.TARGETS.items() if target.machine == "x86_64"]


@pytest.mark.slow(15)
@linux
@pytest.mark.parametrize("origin", X86)
def test_the_wheels(origin, fresh, tmp_path, monkeypatch):
    target = prebuilt.TARGETS[origin]
    if shutil.which(target.compiler) is None or platform.machine() != target.machine:
        pytest.skip(f"needs {target.compiler} on {target.machine}")
    path = prebuilt.build(origin, tmp_path)
    assert_loads_anywhere(path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path)
    if not target.flags <= prebuilt.processor_flags():
        assert build.load().library is None
        pytest.skip("this processor cannot run it")
    passes = build.load()
    assert (passes.origin, passes.reason) == (origin, "there is no gcc or clang")
    assert passes.threaded
    assert_they_compute()


def assert_loads_anywhere(path):
    """It needs the C library alone, of 2012 or newer, as manylinux2014 has it."""
    content = path.read_bytes()
    assert {*re.findall(rb"\blib[\w.+-]+\.so[.\d]*", content)} == {b"libc.so.6"}
    for version in re.findall(rb"GLIBC_(\d+)\.(\d+)", content):
        assert tuple(map(int, version)) <= (2, 17)


@contextmanager
def emulator(*command):
    """Runs passes by a program; `emulated.c` says how it is told. Yields what fills and calls."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    fill, given = kernels._filled, {}

    def filled(arguments, x, tensors, threads=None):
        given.update({t.data_ptr(): t for t in (x, *tensors.values()) if t is not None})
        arguments = fill(arguments, x, tensors)
        arguments.threads = 1
        return arguments

    def call(name, arguments):
        places = defaultdict(list)
        for place, address in pointers(arguments):
            places[address].append(place)
        for text in (name.encode(), bytes(arguments)):
            process.stdin.write(struct.pack("<q", len(text)) + text)
        process.stdin.write(struct.pack("<q", len(places)))
        arrays = [given[address] for address in places]
        for tensor, at in zip(arrays, places.values(), strict=True):
            size = tensor.numel() * tensor.element_size()
            process.stdin.write(struct.pack(f"<{len(at) + 2}q", len(at), *at, size))
            process.stdin.write(ctypes.string_at(tensor.data_ptr(), size))
        process.stdin.flush()
        for tensor in arrays:
            size = tensor.numel() * tensor.element_size()
            content = process.stdout.read(size)
            assert len(content) == size, "the program ended"
            ctypes.memmove(tensor.data_ptr(), content, size)
        given.clear()

    with process:
        yield filled, call
        process.stdin.close()


def pointers(arguments, start=0):
    """The places of a struct's pointers that are not 0, and where they point to."""
    for name, kind in arguments._fields_:
        place, value = start + getattr(type(arguments), name).offset, getattr(arguments, name)
        if issubclass(kind, ctypes.Structure):
            yield from pointers(value, place)
        elif kind is ctypes.c_void_p and value:
            yield place, value


@pytest.mark.slow(20)
@linux
def test_the_wheels_for_arm(tmp_path, monkeypatch):
    """Under an emulator: it shows that the passes are correct, and nothing of their speed."""
    target = prebuilt.TARGETS["prebuilt-arm64"]
    for program in (target.compiler, "qemu-aarch64"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    path, harness = prebuilt.build("prebuilt-arm64", tmp_path), tmp_path / "emulated"
    assert_loads_anywhere(path)
    source = Path(__file__).with_name("emulated.c")
    subprocess.run([target.compiler, "-O1", source, "-o", harness, "-ldl"], check=True)
    with emulator("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", harness, path) as (filled, call):
        monkeypatch.setattr(kernels, "_filled", filled)
        monkeypatch.setattr(kernels, "_call", call)
        monkeypatch.setattr(kernels, "library", lambda: path)
        assert_they_compute()


# Which library a process uses

FLAGS = {
    "x86-64": "fpu sse2 avx",
    "x86-64-v3": "fpu abm avx avx2 bmi1 bmi2 f16c fma movbe sse4_2",
    "x86-64-v4": "fpu abm avx avx2 avx512bw avx512cd avx512dq avx512f avx512vl bmi1 bmi2 f16c fma "
    "movbe",
}


@linux
@pytest.mark.parametrize(
    ("architecture", "processor", "expected"),
    [
        ("x86_64", "x86-64", []),
        ("x86_64", "x86-64-v3", ["prebuilt-x86-64-v3"]),
        ("x86_64", "x86-64-v4", ["prebuilt-x86-64-v4", "prebuilt-x86-64-v3"]),
        ("x86_64", None, []),
        ("aarch64", None, ["prebuilt-arm64"]),
        ("riscv64", None, []),
    ],
)
def test_the_best_library_for_the_processor_comes_first(
    architecture, processor, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr(prebuilt, "FOLDER", tmp_path)
    monkeypatch.setattr(prebuilt, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    if processor:
        lines = (
            f"processor\t: 0\nmodel name\t: Some\nflags\t\t: {FLAGS[processor]}\nbugs\t\t: none\n"
        )
        (tmp_path / "cpuinfo").write_text(2 * lines)
    assert [*prebuilt.find()] == []
    for origin in prebuilt.TARGETS:
        (tmp_path / prebuilt.file_name(origin, b"")).touch()
    assert [origin for origin, _ in prebuilt.find()] == expected


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that takes the place of the package's, with a library for this machine."""
    folder = tmp_path / "package"
    folder.mkdir()
    monkeypatch.setattr(prebuilt, "FOLDER", folder)
    origin = {"x86_64": "prebuilt-x86-64-v3", "aarch64": "prebuilt-arm64"}.get(platform.machine())
    if origin is None or not prebuilt.TARGETS[origin].flags <= prebuilt.processor_flags():
        pytest.skip("no wheel has a library for this processor")
    if BUILT is None:
        pytest.skip("no compiler here builds the passes")
    shutil.copy(BUILT, folder / prebuilt.file_name(origin, Path(BUILT).read_bytes()))
    return folder


@linux
def test_without_a_compiler_the_wheels_library_is_used_and_the_run_says_so(
    fresh, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", "")
    run = train(SHORT, tmp_path / "run")
    (path,) = package.iterdir()
    origin = build.load().origin
    assert path.name.startswith(origin)
    assert [m.kernels for m in run.machines] == [origin]
    said = " ".join(capsys.readouterr().out.split())
    assert f"the compiled passes are the wheel's, {origin} (there is no gcc or clang)" in said


def page_of_zeros(content):
    return content[:8192] + bytes(4096) + content[12288:]


DAMAGE = {
    "empty": lambda content: b"",
    "another file": lambda content: b"no library",
    **{f"cut to {k}%": lambda content, k=k: content[: len(content) * k // 100] for k in (30, 97)},
    "a page of zeros": page_of_zeros,
    "a byte more": lambda content: content + b"\0",
}
LOAD = """if True:
    import sys
    from pathlib import Path
    from normlab.layers.kernels import build, prebuilt
    prebuilt.FOLDER = Path(sys.argv[1])
    passes = build.load()
    print(passes.origin, passes.reason)
"""


@pytest.mark.slow(3)
@linux
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_library_of_the_wheel_is_left_alone(damage, package):
    """In a process of its own: loading a library that was cut kills it."""
    (path,) = package.iterdir()
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    result = subprocess.run(
        [sys.executable, "-c", LOAD, package],
        env=os.environ | {"PATH": ""},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "torch there is no gcc or clang\n"


@linux
def test_so_is_one_of_other_sources(fresh, package, monkeypatch):
    """Its structs may be others."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(compilers, "FLAGS", (*compilers.FLAGS, "-DANOTHER"))
    assert build.load().library is None


@linux
def test_a_compiler_that_fails_is_named_beside_the_wheels_library(
    fresh, package, tmp_path, monkeypatch
):
    programs(tmp_path / "bin", monkeypatch, gcc="false")
    passes = build.load()
    assert passes.library is not None
    assert passes.reason == "gcc fails"
    assert passes.origin.startswith("prebuilt")


@pytest.mark.parametrize(
    ("names", "version", "kind"),
    [
        (["gcc", "clang", "cc"], "gcc version 12.2.0", "gcc"),
        (["clang", "cc"], "Debian clang version 14.0.6\nFound candidate GCC installation", "clang"),
        (["clang-19"], "Ubuntu clang version 19.1.1", "clang"),
        (["cc"], "Apple clang version 16.0.0 (clang-1600.0.26.6)", "clang"),
        (["cc"], "gcc version 9.4.0", "gcc"),
    ],
)
def test_gcc_comes_first_then_clang_and_each_has_its_flags(
    names, version, kind, tmp_path, monkeypatch
):
    programs(tmp_path / "bin", monkeypatch, **dict.fromkeys(names, f"echo '{version}'; exit;"))
    paths = [*compilers.find()]
    assert [Path(path).name for path in paths] == names
    compiler = compilers.ask(paths[0])
    assert compiler.kind == kind
    assert any(flag.startswith("--param") for flag in compiler.flags()) == (kind == "gcc")
    assert not any("openmp" in flag for flag in compiler.flags())


def test_a_compiler_of_two_names_is_tried_once(tmp_path, monkeypatch):
    programs(tmp_path / "bin", monkeypatch, gcc="false")
    (tmp_path / "bin" / "cc").symlink_to("gcc")
    assert [Path(path).name for path in compilers.find()] == ["gcc"]


def failing(text):
    """A compiler that says its version, and fails to build."""
    return f"""sh -c '[ "$1" = -v ] && exit; echo "error: {text}"; exit 1' sh"""


@compiled
def test_where_one_compiler_cannot_build_the_passes_the_next_does(fresh, tmp_path, monkeypatch):
    """As GCC 8 cannot, which has no __builtin_convertvector."""
    copies = f"""sh -c '[ "$1" = -v ] && echo "clang version 19.1.1" && exit
        while [ "$1" != -o ]; do shift; done; cp {BUILT} "$2"' sh"""
    programs(tmp_path / "bin", monkeypatch, gcc=failing("no such builtin"), clang=copies)
    passes = build.load()
    assert passes.library is not None
    assert (passes.reason, passes.origin) == ("", "clang")


def test_where_none_can_the_reason_is_that_of_each(fresh, tmp_path, monkeypatch):
    scripts = {"gcc": failing("no such builtin"), "clang": failing("no such flag")}
    programs(tmp_path / "bin", monkeypatch, **scripts)
    reason = "gcc fails: error: no such builtin; clang fails: error: no such flag"
    assert build.load() == build.NONE._replace(reason=reason)


# Threads

ONE_TEAM = """if True:
    import os, torch
    from pathlib import Path
    from normlab.layers import kernels
    x = torch.ones(4, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    y, one = torch.empty_like(x), torch.ones(1, 2)
    torch.set_num_threads(3)
    assert kernels.library() is not None
    before = {*os.listdir("/proc/self/task")}
    kernels.normalize("apply", x, kernels.Settings(), out=y, scale=one, shift=one)
    assert torch.equal(y, 2 * x)
    print(len({*os.listdir("/proc/self/task")} - before))  # another thread may have ended
    maps = Path("/proc/self/maps").read_text().split()
    print(*sorted({Path(name).name for name in maps if "libgomp" in name or "omp5" in name}))
    print(torch.__file__)
"""


@pytest.mark.slow(3)
@linux
@compiled
def test_the_threads_are_those_of_torchs_own_openmp():
    """A second OpenMP library in the process would have threads of its own, which wait for work."""
    result = subprocess.run(
        [sys.executable, "-c", ONE_TEAM], capture_output=True, text=True, check=True
    )
    started, libraries, _ = result.stdout.splitlines()
    assert started == "2"  # beside the calling thread
    assert len(libraries.split()) == 1


@linux
def test_without_torchs_openmp_the_passes_run_on_one_thread_and_the_run_says_so(
    fresh, package, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", "")
    library = Path(shutil.copy(BUILT, tmp_path / "without_openmp.so"))
    monkeypatch.setattr(torch._C, "__file__", str(library))
    torch.set_num_threads(2)
    try:
        run = train(SHORT, tmp_path / "run")
    finally:
        torch.set_num_threads(1)
    assert not build.load().threaded
    assert run.machines[0].kernels == f"{build.load().origin}, one thread"
    said = " ".join(capsys.readouterr().out.split())
    assert "the compiled passes run on one thread: torch has loaded no OpenMP library" in said


def test_no_source_has_what_one_compiler_alone_understands():
    """No flag turns OpenMP on: `normlab_share` shares the work. `INDEPENDENT` is for all."""
    for path in compilers.FOLDER.glob("*.[ch]"):
        pragmas = re.findall(r"^\s*(?:#\s*pragma|_Pragma\()[^\n]*", path.read_text(), re.MULTILINE)
        assert pragmas == [], path
