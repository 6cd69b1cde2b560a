"""One run on several processes, each with a shard of every batch: `torchrun … -m normlab train`.

The processes hold equal weights: they start from the same draws, and each step adds their gradients
up. So they compute what one process computes on the whole batch, with three exceptions: the last
bits; dropout, which every process draws for itself; and normalizations over the batch, which see
one shard. `sync-bn` sees the whole batch.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from normlab.errors import UsageError, one_line
from normlab.launch import launch_variables


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process: the one that evaluates, writes and prints."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This process's shard of a batch, along the first dimension."""
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


ALONE = ProcessGroup()


def process_group() -> ProcessGroup:
    """The processes of this run; only this one outside of `distributed`."""
    if dist.is_available() and dist.is_initialized():
        return ProcessGroup(dist.get_rank(), dist.get_world_size())
    return ALONE


def _world_size() -> int:
    """The number of processes that torchrun started, as its variables say; 1 without them."""
    size, rank = launch_variables()
    if size in ("", "1"):
        return 1
    if not (size.isdecimal() and rank.isdecimal() and int(rank) < int(size)):
        raise UsageError(
            f"WORLD_SIZE={size!r} with RANK={rank!r} does not come from torchrun: unset both, or "
            "start normlab with torchrun"
        )
    return int(size)


@contextmanager
def distributed(device: str) -> Iterator[ProcessGroup]:
    """Connects the processes that torchrun started; without torchrun there is only this one.

    Args:
        device: As in `Execution`. CUDA uses NCCL, the others Gloo.

    Raises:
        UsageError: This build of torch cannot do it, there are more processes than GPUs, or the
            variables are not torchrun's.
    """
    if _world_size() == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise UsageError(
            "this build of torch cannot train on several processes: start normlab without torchrun"
        )
    # If it were imported later, as optimizers do, its functions' defaults would keep this group:
    # its threads would outlive the group, and could abort the process when Python ends.
    importlib.import_module("torch.distributed.nn.functional")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    try:
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK") or "0"))
        # Checks before training run on the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            f"the processes of torchrun cannot be connected: {one_line(error)}"
        ) from None
    try:
        yield process_group()
    finally:
        dist.destroy_process_group()
