"""The machine: which device to use, and what a run records of it."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from normlab.config import Execution
from normlab.errors import UsageError
from normlab.layers import kernels
from normlab.runs.run import Machine
from normlab.version import __version__

# Linux only.
MEMINFO, OWN_GROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def prepare(execution: Execution) -> torch.device:
    """Sets torch's number of CPU threads, if it is given, and finds the device.

    Raises:
        UsageError: This machine or this build of torch has no such device, or the number of threads
            is below 1.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name: str = execution.device
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    if not available.get(name, True):
        raise UsageError(f"torch finds no {name} device here: leave out --device {name}")
    threads = execution.threads
    if threads is not None:
        if threads < 1:
            raise UsageError(f"--threads must be at least 1, not {threads}")
        torch.set_num_threads(threads)
    _keep_freed_memory()
    return torch.device(name)


def _keep_freed_memory() -> None:
    """Lets glibc keep the memory that a step frees: the next step needs as much again.

    By default large blocks return to the system and come back page by page, zeroed.
    """
    trim_threshold, mmap_max = -1, -4  # glibc's malloc.h
    _mallopt(trim_threshold, -1)
    _mallopt(mmap_max, 0)


def share_arenas() -> None:
    """Lets glibc's threads share free memory. By default each thread keeps its own."""
    arena_max = -8
    _mallopt(arena_max, 2)


def _mallopt(parameter: int, value: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(parameter, value)


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
        kernels="compiled" if device.type == "cpu" and kernels.library() else "torch",
        python=platform.python_version(),
        torch=torch.__version__,
        normlab=__version__,
    )


def peak_memory() -> int:
    """Peak memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def available_memory() -> int | None:
    """Memory available without swapping, in bytes; None if unknown."""
    free = []
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(1024 * int(line.split()[1]))
    for group in _control_groups("memory.max"):
        limit = (group / "memory.max").read_text().strip()
        if limit != "max":
            used = int((group / "memory.current").read_text())
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            # The system drops cached files before it refuses memory.
            free.append(max(0, int(limit) - used + int(stat["inactive_file"])))
    return min(free, default=None)


def cores() -> int:
    """Number of cores that this process may use: its affinity, or its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [bound or 1]
    for group in _control_groups("cpu.max"):
        quota, period = (group / "cpu.max").read_text().split()
        if quota != "max":
            shares.append(max(1, int(quota) // int(period)))
    return min(shares)


def _control_groups(file: str) -> Iterator[Path]:
    """This process's control groups (version 2, as in containers) that have a file."""
    if not OWN_GROUP.exists():
        return
    for line in OWN_GROUP.read_text().splitlines():
        if line.startswith("0::"):
            own = CONTROL_GROUPS / line.removeprefix("0::").lstrip("/")
            for group in (own, *own.parents):
                if group.is_relative_to(CONTROL_GROUPS) and (group / file).exists():
                    yield group


def _processor() -> str:
    """Name of the CPU: from a file on Linux, from Python elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
