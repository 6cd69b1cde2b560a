"""The compiled passes: C sources in this folder, built at first use by the machine's C compiler.

The built library is kept in the user's cache. Its name is a hash of the sources, the flags, the
compiler and the processor. Without GCC, `library` returns None: PyTorch's own layers then compute
the same, more slowly, and a run records that.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from normlab.layers.activations import ACTIVATIONS, Activation, CompiledPass

FOLDER = Path(__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
MAX_CHANNELS = 4096  # TILE of common.h
_PASSES = {a: a.compiled for a in ACTIVATIONS.values() if a.compiled is not None}
ACTIVATION_NUMBERS: dict[Activation | None, int] = {
    activation: number for number, activation in enumerate([None, *_PASSES])
}
"""The activations that the passes know, by their numbers in C; None is no activation."""
_CASES = " ".join(
    f"X(pass, {number}, ({value}), ({gradient}))"
    for number, (value, gradient) in enumerate([CompiledPass("z", "g"), *_PASSES.values()])
)
FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
    f"-DACTIVATIONS(X, pass)={_CASES}",
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
)


class _Normalize(ctypes.Structure):
    """The struct of normalize.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "dy", "residual", "out")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "centre")),
        *((name, ctypes.c_void_p) for name in ("gradient_factor", "input_factor", "constant")),
        *((name, ctypes.c_void_p) for name in ("sums", "products")),
        *((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "per_sample")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "activation", "threads")),
        *((name, ctypes.c_uint32) for name in ("threshold", "seed")),
    )


class _Pool(ctypes.Structure):
    """The struct of pool.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "dy", "out")),
        *((name, ctypes.c_int64) for name in ("samples", "height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("bfloat16", "threads")),
    )


KEYS = ("model name", "flags", "Features", "CPU ")  # lines of /proc/cpuinfo, on x86 and on ARM


def library() -> ctypes.CDLL | None:
    """The compiled passes; None if no GCC can build them or no folder can hold them."""
    return load()[0]


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The compiled passes, or None and the reason."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None, "there is no gcc"
    texts = [path.read_text() for path in (*SOURCES, FOLDER / "common.h")]
    key = "\n".join((*texts, *FLAGS, _processor(), _version(compiler)))
    try:
        folder = _cache_folder()
        path = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
        if path.exists():
            with suppress(OSError):  # damaged: build it again
                return ctypes.CDLL(str(path)), ""
        _compile(compiler, path)
        return ctypes.CDLL(str(path)), ""
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return None, f"gcc fails: {lines[-1]}" if lines else "gcc fails"
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        return None, str(error)


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, "-o", str(built), *map(str, SOURCES)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        built.replace(path)  # atomic, so several processes can build at the same time


def usable(x: Tensor) -> bool:
    """Whether the passes can process these maps: N × C × H × W, on the CPU, channels last."""
    return (
        x.device.type == "cpu"
        and x.numel() > 0
        and not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
        and not torch.compiler.is_compiling()
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] <= MAX_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


def normalize(
    name: str,
    x: Tensor,
    *,
    activation: Activation | None = None,
    threshold: int = 0,
    seed: int = 0,
    residual: Tensor | None = None,
    **tensors: Tensor,
) -> None:
    """Runs a pass of normalize.c over x, N × C × H × W.

    Args:
        name: The pass.
        x: float32 or bfloat16, channels last; so are `dy`, `residual` and `out`.
        activation: The activation after the affine map, one of `ACTIVATION_NUMBERS`.
        threshold: The dropout probability, in units of 2⁻³².
        seed: The dropout seed, 32 bits.
        residual: Added at the end of `apply`.
        tensors: The pass's other tensors, by their names in the struct. Coefficients are float32
            and contiguous, N × C or 1 × C.
    """
    samples, channels, height, width = x.shape
    arguments = _Normalize(
        samples=samples,
        pixels=height * width,
        channels=channels,
        per_sample=int("scale" in tensors and len(tensors["scale"]) > 1),
        activation=ACTIVATION_NUMBERS[activation],
        threshold=threshold,
        seed=seed,
    )
    if residual is not None:
        tensors["residual"] = residual
    _call(f"normlab_{name}", arguments, x, tensors)


def pool(name: str, x: Tensor, **tensors: Tensor) -> None:
    """Runs a pass of pool.c over x, float32 or bfloat16, N × C × H × W, channels last."""
    samples, channels, height, width = x.shape
    arguments = _Pool(samples=samples, height=height, width=width, channels=channels)
    _call(f"normlab_pool_{name}", arguments, x, tensors)


def _call(
    name: str,
    arguments: _Normalize | _Pool,
    x: Tensor,
    tensors: dict[str, Tensor],
) -> None:
    compiled = library()
    assert compiled is not None, "call usable() first"
    arguments.x = x.data_ptr()
    arguments.bfloat16 = int(x.dtype == torch.bfloat16)
    arguments.threads = torch.get_num_threads()
    for field, tensor in tensors.items():
        setattr(arguments, field, tensor.data_ptr())
    getattr(compiled, name)(ctypes.byref(arguments))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "normlab"


def _processor() -> str:
    """What -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(KEYS)}))


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
