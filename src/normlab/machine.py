"""The machine that computes: which device to take, and what a run records of it."""

import platform
from pathlib import Path

import torch

import normlab
from normlab.errors import UsageError
from normlab.run import Machine


def choose_device(name: str) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `mps` means here.

    Raises:
        UsageError: This machine, or this build of torch, has none such.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    if not available.get(name, True):
        raise UsageError(f"torch finds no {name} device here: leave out --device {name}")
    return torch.device(name)


def set_threads(threads: int | None) -> None:
    """How many CPU threads torch uses; None leaves it its own choice.

    Raises:
        UsageError: The number is below 1.
    """
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)


def describe(device: torch.device, *, from_epoch: int) -> Machine:
    """This machine, as a run records it."""
    name = device.type
    if device.type == "cuda":
        name = f"cuda ({torch.cuda.get_device_name(device)})"
    return Machine(
        from_epoch=from_epoch,
        processor=_processor(),
        capability=torch.backends.cpu.get_cpu_capability(),
        device=name,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        normlab=normlab.__version__,
    )


def _processor() -> str:
    """The CPU's name: Linux keeps it in a file, other systems tell Python."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
