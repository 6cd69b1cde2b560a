"""Running statistics measured anew with the final weights.

During training, running statistics trail behind the weights, and normalizations over few images
measure them with noise. Recalibrated, they are those of the training images, for the weights as
they are (PreciseBN: Wu & Johnson 2021, Rethinking "Batch" in BatchNorm, arXiv:2105.07576,
section 3).
"""

import math

import torch
from torch import Tensor, nn

from normlab.inference.evaluate import BATCH, to_input
from normlab.layers.modes import eval_mode


@torch.no_grad()
def recalibrate(network: nn.Module, images: Tensor, order: Tensor) -> bool:
    """Sets running statistics to their means over batches of at most 500 images, unaugmented.

    Every normalization sees whole batches, `ghost-bn` too, and nothing is dropped out. A network
    without running statistics stays as it is, to the bit.

    Args:
        network: Its layers with running statistics have a `momentum`, as PyTorch's BatchNorm has.
        images: uint8 N × C × S × S.
        order: int64 N: a random order, because images may be sorted by class.

    Returns:
        Whether there are running statistics. Without them no image is looked at.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(getattr(layer, "momentum", 0), float | None)  # None: BatchNorm's mean of all
        and [*layer.buffers(recurse=False)]
    ]
    if not layers:
        return False
    before = [(layer.momentum, getattr(layer, "dropout", None)) for layer in layers]
    with eval_mode(network):
        for layer in layers:
            layer.training = True
            if isinstance(getattr(layer, "dropout", None), float):
                layer.dropout = 0.0  # type: ignore[assignment]
        seen = 0
        device = next(network.parameters()).device
        # Batches of equal size: none is tiny.
        for places in order.tensor_split(math.ceil(len(order) / BATCH)):
            seen += len(places)
            for layer in layers:
                layer.momentum = len(places) / seen  # type: ignore[assignment]
            network(to_input(images[places].to(device)))
    for layer, (momentum, dropout) in zip(layers, before, strict=True):
        layer.momentum = momentum
        if dropout is not None:
            layer.dropout = dropout
    return True
