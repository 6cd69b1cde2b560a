"""The compiled passes of kernels.c: built at their first use, by this machine's own C compiler.

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
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.c")
MAX_CHANNELS = 4096  # TILE of kernels.c
FLAGS = (
    *("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fopenmp", "-shared", "-fPIC"),
    *(["-mprefer-vector-width=512"] if platform.machine() == "x86_64" else []),
)
_POINTERS = (
    *("x", "dy", "out", "scale", "shift", "centre"),
    *("of_gradient", "of_input", "constant", "sums", "products"),
)


class _Pass(ctypes.Structure):
    """The struct of kernels.c, field for field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("samples", "pixels", "channels", "each")),
        *((name, ctypes.c_int32) for name in ("half", "relu", "threads")),
        *((name, ctypes.c_uint32) for name in ("threshold", "seed")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The compiled passes; None where this system has no GCC that can build them."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    key = "\n".join((SOURCE.read_text(), *FLAGS, _processor(), _version(compiler)))
    folder = _cache_folder()
    path = folder / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:20]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as workplace:
            built = Path(workplace) / "kernels.so"
            command = [compiler, *FLAGS, "-o", str(built), str(SOURCE)]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
            built.replace(path)  # whole or not at all, whoever builds at the same time
    return ctypes.CDLL(str(path))


def usable(x: Tensor) -> bool:
    """Whether the passes can take these maps: N × C × H × W, on the CPU, channels last."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.shape[1] <= MAX_CHANNELS
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


def run(
    name: str,
    x: Tensor,
    *,
    relu: bool = False,
    threshold: int = 0,
    seed: int = 0,
    **tensors: Tensor,
) -> None:
    """Runs one pass of kernels.c over x, N × C × H × W.

    Args:
        name: The pass.
        x: float32 or bfloat16, channels last; `dy` and `out` are alike.
        relu: Whether a ReLU follows the affine map.
        threshold: Probability of dropout, in 2⁻³².
        seed: Of dropout, 32 bits.
        tensors: The pass's other tensors, by the names of the C struct. Coefficients are float32
            and contiguous, N × C or 1 × C.
    """
    samples, channels, height, width = x.shape
    compiled = library()
    assert compiled is not None, "ask usable() first"
    getattr(compiled, f"normlab_{name}")(
        ctypes.byref(
            _Pass(
                x=x.data_ptr(),
                samples=samples,
                pixels=height * width,
                channels=channels,
                each=int("scale" in tensors and len(tensors["scale"]) > 1),
                half=int(x.dtype == torch.bfloat16),
                relu=int(relu),
                threads=torch.get_num_threads(),
                threshold=threshold,
                seed=seed,
                **{field: tensor.data_ptr() for field, tensor in tensors.items()},
            )
        )
    )


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "normlab"


def _processor() -> str:
    """What -march=native depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
