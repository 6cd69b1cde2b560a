"""The normalization layers, in one registry.

Notation: x is N × C × H × W. The mean E and the variance Var (biased) are taken over the axes that
an entry names. w and b are learned, and ε is 1e-5. `normlab norms` prints the registry.

A custom normalization is a `torch.nn.Module` class. Its constructor takes the shape (C, H, W) of
its input, and its `forward` maps N × C × H × W to the same shape. The network's activation follows
it. Pass it as `module:Class` on the command line, or register it in Python:

    @register("l1", formula="x / E|x| · w", paper="ours", axes="C, H, W", parameters="C")
    class L1Norm(nn.Module): ...
"""

# Registered in this order, which is the order of every list of normalizations.
from normlab.layers.norms import none, batch, sample, proxy, sws, dyt  # noqa: F401  # isort: skip
from normlab.layers.norms.registry import (
    REGISTRY,
    Normalization,
    Shape,
    build,
    channel_multiple,
    find,
    register,
)
from normlab.layers.norms.sample import default_groups

__all__ = [
    "REGISTRY",
    "Normalization",
    "Shape",
    "build",
    "channel_multiple",
    "default_groups",
    "find",
    "register",
]
