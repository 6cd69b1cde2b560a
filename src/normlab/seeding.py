"""Random draws without state: each depends on (seed, purpose, counters such as epoch and step).

No generator is carried along. So a run resumes in the middle of an epoch, a batch can be prepared
ahead of time, and two networks trained with one seed see the same batches.
"""

import hashlib

import torch


def seed_for(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed: the first bytes of the SHA-256 of its arguments. torch uses 32 bits of it."""
    text = "/".join((str(seed), purpose, *map(str, counters)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def seed_layers(device: torch.device, seed: int) -> None:
    """Seeds the generators that layers on a device draw from: the CPU's, and the device's own.

    `torch.manual_seed` would seed those of all other devices, too.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """A CPU generator for one purpose at one point of a run."""
    return torch.Generator().manual_seed(seed_for(seed, purpose, *counters))
