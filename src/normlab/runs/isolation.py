"""Computing with torch's and NumPy's own settings, whatever the calling program has changed."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.utils.deterministic


@contextmanager
def isolated() -> Iterator[None]:
    """Computes as in a fresh process; afterwards the caller's settings are as they were.

    What would change numbers, or stop the computation, is set to its default: autocast, the modes
    of autograd, the default dtype and device, deterministic algorithms, reduced precision, and what
    NumPy does on overflow. The number of threads stays, and is restored at the end. It can decorate
    functions.

    Settings of the whole process are touched only where they differ from torch's own, because
    another thread may compute at the same time.
    """
    with ExitStack() as restored:
        _restore_settings(restored)
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                restored.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            restored.enter_context(torch.device("cpu"))
        restored.enter_context(torch.inference_mode(False))  # turns gradients on, too
        if torch.is_anomaly_enabled():
            restored.enter_context(torch.autograd.set_detect_anomaly(False))
        if torch.cuda.is_available():
            _restore_cudnn(restored)
        restored.enter_context(np.errstate(all="warn", under="ignore"))
        yield


@contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Has a device compute the same bits each time, and restores torch's generators at the end.

    It is used within `isolated`, which suffices for equal bits on the CPU. On MPS torch promises
    none.
    """
    with ExitStack() as restored:
        on_gpu = device.type == "cuda"
        restored.enter_context(torch.random.fork_rng(devices=[device] if on_gpu else []))
        if on_gpu:
            _use_deterministic_algorithms(restored)
        elif device.type == "mps":
            restored.callback(torch.mps.set_rng_state, torch.mps.get_rng_state())
        yield


def _use_deterministic_algorithms(restored: ExitStack) -> None:
    """Torch warns of an operation that has none: a custom normalization may use one."""
    restored.callback(torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode())
    torch.set_deterministic_debug_mode("warn")
    # It takes time, and changes nothing here.
    _set(restored, torch.utils.deterministic, "fill_uninitialized_memory", False)
    # Each value is in one window of the pooling: there is no sum whose order could change.
    restored.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", "max_pool2d_with_indices_backward_cuda", UserWarning)


def _restore_settings(restored: ExitStack) -> None:
    """Sets what has no context manager in torch, and has it restored."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    deterministic = torch.get_deterministic_debug_mode()
    if dtype != torch.float32:
        torch.set_default_dtype(torch.float32)
        restored.callback(torch.set_default_dtype, dtype)
    if deterministic:
        torch.set_deterministic_debug_mode(0)
        restored.callback(torch.set_deterministic_debug_mode, deterministic)
    if torch.full((), 1e-40, dtype=torch.float32, device="cpu").mul(1) == 0:
        torch.set_flush_denormal(False)
        restored.callback(torch.set_flush_denormal, True)
    mkldnn: Any = torch.backends.mkldnn
    _set(restored, mkldnn, "enabled", True)
    operations: Any = (mkldnn.conv, mkldnn.matmul, torch.backends.cuda.matmul)
    for operation in operations:
        if operation.fp32_precision != "none":
            _set(restored, operation, "fp32_precision", "ieee")
    restored.callback(_restore_threads, threads)


def _restore_cudnn(restored: ExitStack) -> None:
    """Sets how a GPU computes convolutions.

    One by one: `cudnn.flags` mixes torch's older and newer settings of TF32, which torch refuses.
    """
    cudnn: Any = torch.backends.cudnn
    _set(restored, cudnn, "enabled", True)
    _set(restored, cudnn, "benchmark", False)
    _set(restored, cudnn, "deterministic", True)
    _set(restored, cudnn.conv, "fp32_precision", "ieee")


def _set(restored: ExitStack, settings: Any, name: str, value: object) -> None:
    """Sets one of torch's settings, unless it has this value, and has it restored."""
    before = getattr(settings, name)
    if before != value:
        restored.callback(setattr, settings, name, before)
        setattr(settings, name, value)


def _restore_threads(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
