"""The machine: which device to use, and what a run records of it."""

import ctypes
import dataclasses
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

from normlab.config import Execution
from normlab.errors import UsageError
from normlab.layers.kernels import build, prebuilt
from normlab.runs.provenance import Machine
from normlab.storage.records import check_settings
from normlab.version import __version__
from normlab.wording import counted

# Linux only.
MEMINFO, OWN_GROUP = Path("/proc/meminfo"), Path("/proc/self/cgroup")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
UNREADABLE = (OSError, ValueError, KeyError)  # some systems lack a part of these files


def prepare(execution: Execution) -> torch.device:
    """Sets torch's number of CPU threads, if it is given, and finds the device.

    Raises:
        UsageError: This machine or this build of torch has no such device, or the number of threads
            is below 1.
    """
    check_settings(dataclasses.replace(execution, data_root=None))  # which may be text
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    name: str = execution.device
    if name == "auto":
        name = next((kind for kind, there in available.items() if there), "cpu")
    if not available.get(name, True):
        raise UsageError(f"torch finds no {name} device here: leave out --device {name}")
    threads = execution.threads
    if threads is not None:
        torch.set_num_threads(threads)
    if name == "cuda":  # read when CUDA is first used; without it cuBLAS may repeat other bits
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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


def describe(device: torch.device, *, from_epoch: int, processes: int = 1) -> Machine:
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
        kernels=build.load().description if device.type == "cpu" else build.NONE.description,
        python=platform.python_version(),
        torch=torch.__version__,
        normlab=__version__,
        processes=processes,
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
    with suppress(*UNREADABLE):
        free.append(1024 * int(_table(MEMINFO)["MemAvailable:"]))
    for group, version in _control_groups("memory"):
        with suppress(*UNREADABLE):
            free.append(_free_memory(group, version))
    return min(free, default=None)


def _free_memory(group: Path, version: int) -> int:
    """What a control group may still use. ValueError if it has no limit (version 2: `max`)."""
    limit, used, cached = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("memory.max", "memory.current", "inactive_file"),
    }[version]
    # The system drops cached files before it refuses memory.
    dropped = int(_table(group / "memory.stat")[cached])
    return max(0, _number(group / limit) - _number(group / used) + dropped)


def cores() -> int:
    """Number of cores that this process may use: its affinity, or its container's share."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shares = [bound or 1]
    for group, version in _control_groups("cpu"):
        with suppress(*UNREADABLE):
            if version == 1:
                quota, period = (_number(group / f"cpu.cfs_{k}_us") for k in ("quota", "period"))
            else:
                quota, period = map(int, (group / "cpu.max").read_text().split())
            if quota > 0 and period > 0:  # version 1 has -1 where there is no limit
                shares.append(max(1, quota // period))
    return min(shares)


def busy() -> str:
    """A hint that other programs keep this machine's cores busy; empty if they do not."""
    try:
        load, machine_cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # Windows; unknown
        return ""
    if load <= machine_cores:
        return ""
    return (
        f"this machine is busy: a load of {load:.1f} on {counted(machine_cores, 'core')}. "
        "Training takes longer until other programs end"
    )


def _control_groups(controller: str) -> Iterator[tuple[Path, int]]:
    """This process's control groups for `memory` or `cpu`, each with its version, 1 or 2.

    A container sees its own group at the top, whatever name the machine gives it.
    """
    try:
        lines = OWN_GROUP.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, own = rest.partition(":")
        if not controllers:
            top, version = CONTROL_GROUPS, 2
        elif controller in controllers.split(","):
            top, version = CONTROL_GROUPS / controller, 1
            if not top.is_dir():  # all of them are in one folder
                top = CONTROL_GROUPS / controllers
        else:
            continue
        place = top / own.lstrip("/")
        for group in (place, *place.parents):
            if group.is_relative_to(top):
                yield group, version


def _number(file: Path) -> int:
    return int(file.read_text())


def _table(file: Path) -> dict[str, str]:
    """The first two words of each line."""
    rows = map(str.split, file.read_text().splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}


def _processor() -> str:
    """Name of the CPU: from a file on Linux, from Python elsewhere."""
    for line in prebuilt.cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
