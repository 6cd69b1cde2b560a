"""What others have attached to a layer."""

from torch import nn


def has_hooks(layer: nn.Module) -> bool:
    """Whether something else runs, or is seen, when the layer is called."""
    return bool(
        layer._forward_pre_hooks
        or layer._forward_hooks
        or layer._backward_pre_hooks
        or layer._backward_hooks
        or "forward" in vars(layer)  # was replaced
    )
