"""The normalization layers, in one registry.

Throughout, x is N × C × H × W, a mean E and a variance Var (biased) run over the axes that an entry
names, w and b are learned, and ε is 1e-5. `normlab norms` prints the registry.

One's own layer: a `torch.nn.Module` class whose constructor takes the shape (C, H, W) of what it
normalizes and whose `forward` keeps the shape of its N × C × H × W input; a ReLU follows it. Name
it `module:Class` on the command line, or register it in Python:

    @register("l1", formula="x / E|x| · w", paper="ours", axes="C, H, W", parameters="C")
    class L1Norm(nn.Module): ...
"""

from normlab.layers.norms import batch, none, sample
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
    "batch",
    "build",
    "channel_multiple",
    "default_groups",
    "find",
    "none",
    "register",
    "sample",
]
