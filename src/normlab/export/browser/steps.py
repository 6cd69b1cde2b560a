"""A network as a list of steps, which the page's program carries out in order."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import Tensor, nn

from normlab.errors import UsageError
from normlab.export.folding import InferenceModel, SharedConvolution
from normlab.layers.activations import Activate
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.dropout import Dropout
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.batch import EvoNormB0
from normlab.layers.norms.dyt import DynamicTanh
from normlab.layers.norms.none import Affine, LocalResponseNorm
from normlab.layers.norms.proxy import ProxyNorm
from normlab.layers.norms.registry import EPSILON
from normlab.layers.norms.sample import (
    ChannelLayerNorm,
    EvoNormS0,
    FilterResponseNorm,
    StandardizedConv2d,
)
from normlab.layers.norms.sws import ScaledStandardizedConv2d
from normlab.layers.pooling import MaxPool
from normlab.network.model import FullyConnected

Step = dict[str, Any]
"""An operation of network.js, `op`, and its settings; weights are places in `Steps.weights`."""


class Steps:
    """A network as steps from pixels between 0 and 1, C × S × S, to logits.

    Args:
        network: The network.

    Attributes:
        steps: The steps, in order.

    Raises:
        UsageError: It has a layer that the page's program does not know.
    """

    def __init__(self, network: InferenceModel) -> None:
        self._places: dict[bytes, int] = {}
        self._length = 0
        scale = 1 / network.input_std.flatten()
        first = self._affine(scale, -network.input_mean.flatten() * scale)
        self.steps = [first, *self._in_order(network.blocks)]

    @property
    def weights(self) -> bytes:
        """All weights, float32 in little-endian order; equal ones are there once."""
        return b"".join(self._places)

    @property
    def finite(self) -> bool:
        """Whether all weights are finite numbers."""
        return bool(np.isfinite(np.frombuffer(self.weights, "<f4")).all())

    def _place(self, values: Tensor | None) -> int | None:
        """Where these values are among the weights."""
        if values is None:
            return None
        content = values.detach().float().numpy().astype("<f4").tobytes()
        if content not in self._places:
            self._places[content] = self._length
            self._length += values.numel()
        return self._places[content]

    def _in_order(self, layers: Iterable[nn.Module]) -> list[Step]:
        """The steps of layers, one after the other."""
        return [step for layer in layers for step in self._of(layer)]

    def _of(self, layer: nn.Module) -> list[Step]:
        """The steps of a layer. A class derived from a known one may compute something else."""
        steps_of = _KNOWN.get(type(layer))
        if steps_of is None:
            raise UsageError(f"{type(layer).__name__} is a layer that the page does not know")
        return steps_of(self, layer)

    # Blocks

    def _applications(self, block: Any) -> list[Step]:
        steps = []
        for k, layers in enumerate(block.uses):
            inner = self._in_order(layers)
            if block.residual:
                scale = 1.0 if block.scales is None else float(block.scales[k])
                inner = [{"op": "residual", "steps": inner, "scale": scale}]
            steps += inner
        return steps

    def _connected(self, block: Any) -> list[Step]:
        layer = block.linear
        weights = {"weight": self._place(layer.weight), "bias": self._place(layer.bias)}
        return [{"op": "connected", "channels": layer.out_features, **weights}]

    # Layers

    def _convolution(self, layer: Any) -> list[Step]:
        depthwise = layer.groups > 1
        standardized = isinstance(layer, StandardizedConv2d) and not depthwise
        return [
            {
                "op": "convolution",
                "channels": layer.out_channels,
                "kernel": layer.kernel_size[0],
                "stride": layer.stride[0],
                "padding": layer.padding[0],
                "depthwise": depthwise,
                "weight": self._place(layer.standardized() if standardized else layer.weight),
                "bias": self._place(layer.bias),
            }
        ]

    def _activation(self, layer: Any) -> list[Step]:
        name = layer.activation.name
        return [{"op": "activation", "name": name, "slope": self._place(layer.slope)}]

    def _affine(self, weight: Tensor, bias: Tensor | None, *, each: bool = False) -> Step:
        """Multiplies and adds, with a weight and a bias for each channel or for each value."""
        weights = {"weight": self._place(weight), "bias": self._place(bias)}
        return {"op": "affine", "each": each, **weights}

    # Normalizations

    def _normalization(self, layer: Any, first: Step, *, each: bool = False) -> list[Step]:
        """A first step, then the layer's affine map, and its activation if it has one."""
        activate = getattr(layer, "activate", None)
        return [
            first,
            self._affine(layer.weight, layer.bias, each=each),
            *([] if activate is None else self._of(activate)),
        ]

    def _affine_layer(self, layer: Any) -> list[Step]:
        _, *rest = self._normalization(layer, {})
        return rest

    def _fused(self, layer: Any) -> list[Step]:
        """The entries `gn`, `gn-ws`, `ln`, `in` and `rms`; BatchNorm is folded."""
        return self._normalization(layer, _normalize(layer.groups, layer.eps, centre=layer.centre))

    def _full_layer_norm(self, layer: Any) -> list[Step]:
        return self._normalization(layer, _normalize(1, layer.eps), each=True)

    def _channel_layer_norm(self, layer: Any) -> list[Step]:
        return self._normalization(layer.norm, {"op": "normalizePixels", "eps": layer.norm.eps})

    def _local_response(self, layer: Any) -> list[Step]:
        return [*self._of(layer.affine), {"op": "localResponse"}]

    def _dynamic_tanh(self, layer: Any) -> list[Step]:
        return self._normalization(layer, {"op": "tanh", "slope": float(layer.slope)})

    def _filter_response(self, layer: Any) -> list[Step]:
        first = _normalize(len(layer.weight), layer.EPSILON, centre=False)
        steps = self._normalization(layer, first)
        if layer.threshold is not None:
            steps.append({"op": "maximum", "threshold": self._place(layer.threshold)})
        return steps

    def _evonorm_b0(self, layer: Any) -> list[Step]:
        """With its activation; without, it is folded."""
        deviation = self._place((layer.running_var + EPSILON).sqrt())
        slope = {"slope": self._place(layer.slope), "eps": EPSILON}
        return self._normalization(layer, {"op": "evonormB0", "deviation": deviation, **slope})

    def _evonorm_s0(self, layer: Any) -> list[Step]:
        slope = {"slope": self._place(layer.slope), "eps": EPSILON}
        return self._normalization(layer, {"op": "evonormS0", "groups": layer.groups, **slope})

    def _proxy(self, layer: Any) -> list[Step]:
        """The moments of the proxy depend on weights alone: here they are constants."""
        mean, scale = layer.proxy()
        return [*self._of(layer.norm), self._affine(scale, -mean * scale)]


def _normalize(groups: int, eps: float, *, centre: bool = True) -> Step:
    """By the mean, if it is centred, and the deviation of groups of channels."""
    return {"op": "normalize", "groups": groups, "eps": eps, "centre": centre}


_KNOWN: dict[type[nn.Module], Callable[[Steps, Any], list[Step]]] = {
    SharedConvolution: Steps._applications,
    FullyConnected: Steps._connected,
    MaxPool: lambda *_: [{"op": "maxPool"}],
    nn.AvgPool2d: lambda *_: [{"op": "averagePool"}],
    nn.AdaptiveAvgPool2d: lambda *_: [{"op": "globalAverage"}],
    nn.Sequential: Steps._in_order,
    Dropout: lambda *_: [],
    nn.Dropout: lambda *_: [],
    nn.Conv2d: Steps._convolution,
    DepthwiseConv2d: Steps._convolution,
    StandardizedConv2d: Steps._convolution,
    ScaledStandardizedConv2d: Steps._convolution,
    Activate: Steps._activation,
    Affine: Steps._affine_layer,
    FusedNorm: Steps._fused,
    nn.LayerNorm: Steps._full_layer_norm,
    ChannelLayerNorm: Steps._channel_layer_norm,
    LocalResponseNorm: Steps._local_response,
    DynamicTanh: Steps._dynamic_tanh,
    FilterResponseNorm: Steps._filter_response,
    EvoNormB0: Steps._evonorm_b0,
    EvoNormS0: Steps._evonorm_s0,
    ProxyNorm: Steps._proxy,
}
