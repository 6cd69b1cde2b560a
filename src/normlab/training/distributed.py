"""One run on several processes, each with its part of every batch: `torchrun … -m normlab train`.

The processes hold equal weights: they start from the same draws, and each step adds up their
gradients. So what is computed is what one process computes on the whole batch, but for the last
bits, for dropout, which every process draws for itself, and for normalizations over the batch,
which see a process's part alone; `sync-bn` sees all of it.
"""

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from normlab.errors import UsageError


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run.

    Attributes:
        rank: This process's number, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process evaluates, writes and speaks."""
        return self.rank == 0

    def shard(self, batch: Tensor) -> Tensor:
        """This process's part of a batch, along its first dimension."""
        return batch.tensor_split(self.size)[self.rank]

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(values)
        return values


ALONE = ProcessGroup()


def process_group() -> ProcessGroup:
    """The processes that were joined; this one alone where none were."""
    if dist.is_available() and dist.is_initialized():
        return ProcessGroup(dist.get_rank(), dist.get_world_size())
    return ALONE


@contextmanager
def distributed(device: str) -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started together; alone where it started none.

    Args:
        device: As `Execution` takes it: over NCCL for CUDA, else over Gloo.

    Raises:
        UsageError: torch has no such means here, or there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if not dist.is_available():
        raise UsageError(
            "this build of torch cannot train on several processes: leave torchrun out"
        )
    # Imported later, as optimizers do, its functions' defaults would be this group for ever: its
    # threads would outlive it, and one that meets Python at its end aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    try:
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # What is tried out before training is on the CPU.
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"the processes that torchrun started cannot be joined: {said}") from None
    try:
        yield process_group()
    finally:
        dist.destroy_process_group()
