"""The compiled passes beside this file: built at first use, by this machine's own C compiler.

What the compiler makes is kept in the user's cache, under a name that says what it was made from
and for which processor. Where there is no GCC, `library` gives None, PyTorch's own layers compute
the same, slower, and a run records that they did.
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

FOLDER = Path(__file__).parent
SOURCES = tuple(sorted(FOLDER.glob("*.c")))
MAX_CHANNELS = 4096  # TILE of common.h
FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
)


class _Normalize(ctypes.Structure):
    """The struct of normalize.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "dy", "residual", "out")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "centre")),
        *((name, ctypes.c_void_p) for name in ("of_gradient", "of_input", "constant")),
        *((name, ctypes.c_void_p) for name in ("sums", "products")),
        *((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "each")),
        *((name, ctypes.c_int32) for name in ("half", "relu", "threads")),
        *((name, ctypes.c_uint32) for name in ("threshold", "seed")),
    )


class _Pool(ctypes.Structure):
    """The struct of pool.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "y", "dy", "out")),
        *((name, ctypes.c_int64) for name in ("samples", "height", "width", "channels")),
        *((name, ctypes.c_int32) for name in ("half", "threads")),
    )


KEYS = ("model name", "flags", "Features", "CPU ")  # of /proc/cpuinfo, on x86 and on ARM


def library() -> ctypes.CDLL | None:
    """The compiled passes; None where no GCC can build them, or no folder can keep them."""
    return load()[0]


@cache
def load() -> tuple[ctypes.CDLL | None, str]:
    """The compiled passes, or why there are none."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None, "there is no gcc"
    texts = [path.read_text() for path in (*SOURCES, FOLDER / "common.h")]
    key = "\n".join((*texts, *FLAGS, _processor(), _version(compiler)))
    try:
        folder = _cache_folder()
        path = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
        if path.exists():
            with suppress(OSError):  # damaged: built anew
                return ctypes.CDLL(str(path)), ""
        _compile(compiler, path)
        return ctypes.CDLL(str(path)), ""
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines()
        return None, f"gcc fails: {lines[-1]}" if lines else "gcc fails"
    except (OSError, RuntimeError) as error:  # RuntimeError: no home
        return None, str(error)


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=path.parent) as workplace:
        built = Path(workplace) / "kernels.so"
        command = [compiler, *FLAGS, "-o", str(built), *map(str, SOURCES)]
        subprocess.run(command, capture_output=True, text=True, check=True)
        built.replace(path)  # whole or not at all, whoever builds at the same time


def usable(x: Tensor) -> bool:
    """Whether the passes can take these maps: N × C × H × W, on the CPU, channels last."""
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
    relu: bool = False,
    threshold: int = 0,
    seed: int = 0,
    residual: Tensor | None = None,
    **tensors: Tensor,
) -> None:
    """Runs a pass of normalize.c over x, N × C × H × W.

    Args:
        name: The pass.
        x: float32 or bfloat16, channels last; `dy`, `residual` and `out` are alike.
        residual: What `apply` adds in the end.
        relu: Whether a ReLU follows the affine map.
        threshold: Probability of dropout, in 2⁻³².
        seed: Of dropout, 32 bits.
        tensors: The pass's other tensors, by the names of the struct. Coefficients are float32
            and contiguous, N × C or 1 × C.
    """
    samples, channels, height, width = x.shape
    arguments = _Normalize(
        samples=samples,
        pixels=height * width,
        channels=channels,
        each=int("scale" in tensors and len(tensors["scale"]) > 1),
        relu=int(relu),
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
    assert compiled is not None, "ask usable() first"
    arguments.x = x.data_ptr()
    arguments.half = int(x.dtype == torch.bfloat16)
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
