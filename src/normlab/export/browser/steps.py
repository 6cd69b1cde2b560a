"""A network as a list of steps, which the page's program carries out in order."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from normlab.errors import UsageError
from normlab.export.folding import InferenceModel, SharedConvolution
from normlab.layers.activations import Activate, normal_moments
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
"""An operation's name, `op`, and its settings. Weights are places in `Steps.weights`."""


class Steps:
    """A network as steps from pixels between 0 and 1, C × S × S, to logits.

    Args:
        network: The network.

    Attributes:
        steps: The steps, in order.

    Raises:
        UsageError: It has a layer that is not in normlab's registry, so a page cannot have it.
    """

    def __init__(self, network: InferenceModel) -> None:
        self._places: dict[bytes, int] = {}
        self._length = 0
        scale = 1 / network.input_std.flatten()
        self.steps = [
            self._affine(scale, -network.input_mean.flatten() * scale),
            *(step for block in network.blocks for step in self._steps(block)),
        ]

    @property
    def weights(self) -> bytes:
        """All weights, float32 in little-endian order; equal ones are there once."""
        return b"".join(self._places)

    def _place(self, values: Tensor | None) -> int | None:
        """Where these values are among the weights."""
        if values is None:
            return None
        content = values.detach().to(torch.float32).numpy().astype("<f4").tobytes()
        if content not in self._places:
            self._places[content] = self._length
            self._length += values.numel()
        return self._places[content]

    def _steps(self, layer: Any) -> list[Step]:
        """The steps of a block or a layer. A derived class is another layer than its base."""
        kind = type(layer)
        if kind is SharedConvolution:
            return self._applications(layer)
        if kind is nn.Sequential:
            return self._in_order(layer)
        if kind is nn.Dropout:
            return []
        if kind is MaxPool:
            return [{"op": "maxPool"}]
        if kind is nn.AvgPool2d:
            return [{"op": "averagePool"}]
        if kind is nn.AdaptiveAvgPool2d:
            return [{"op": "globalAverage"}]
        if kind is FullyConnected:
            return [self._connected(layer.linear)]
        if kind in (nn.Conv2d, StandardizedConv2d, ScaledStandardizedConv2d):
            return [self._convolution(layer)]
        if kind is Activate:
            return [self._activation(layer)]
        found = self._normalization(layer)
        if found is None:
            raise UsageError(f"{kind.__qualname__} is no layer that a page has")
        return [*found, *self._following(layer)]

    def _in_order(self, layers: Iterable[nn.Module]) -> list[Step]:
        return [step for layer in layers for step in self._steps(layer)]

    def _following(self, norm: nn.Module) -> list[Step]:
        """The activation that a normalization applies at its end."""
        activate = getattr(norm, "activate", None)
        return [] if activate is None else self._steps(activate)

    def _applications(self, block: Any) -> list[Step]:
        steps = []
        for k, layers in enumerate(block.uses):
            inner = self._in_order(layers)
            if block.residual:
                scale = 1.0 if block.scales is None else float(block.scales[k])
                inner = [{"op": "residual", "steps": inner, "scale": scale}]
            steps += inner
        return steps

    def _convolution(self, layer: Any) -> Step:
        depthwise = layer.groups > 1
        standardized = isinstance(layer, StandardizedConv2d) and not depthwise
        return {
            "op": "convolution",
            "channels": layer.out_channels,
            "kernel": layer.kernel_size[0],
            "stride": layer.stride[0],
            "padding": layer.padding[0],
            "depthwise": depthwise,
            "weight": self._place(layer.standardized() if standardized else layer.weight),
            "bias": self._place(layer.bias),
        }

    def _connected(self, layer: nn.Linear) -> Step:
        return {
            "op": "connected",
            "channels": layer.out_features,
            "weight": self._place(layer.weight),
            "bias": self._place(layer.bias),
        }

    def _activation(self, layer: Activate) -> Step:
        return {
            "op": "activation",
            "name": layer.activation.name,
            "slope": self._place(layer.slope),
        }

    def _affine(self, weight: Tensor, bias: Tensor | None) -> Step:
        """Step for x · weight + bias for each channel."""
        return {"op": "affine", "weight": self._place(weight), "bias": self._place(bias)}

    def _normalization(self, layer: Any) -> list[Step] | None:
        """A normalization's steps, without the activation in `activate`; None for no such layer."""
        match layer:
            case Affine():
                return [self._affine(layer.weight, layer.bias)]
            case FusedNorm() if layer.groups is not None:
                return [
                    _normalize(layer.groups, layer.eps, centre=layer.centre),
                    self._affine(layer.weight, layer.bias),
                ]
            case nn.LayerNorm():  # ln-full
                return [
                    _normalize(1, layer.eps),
                    self._affine(layer.weight, layer.bias) | {"each": True},
                ]
            case ChannelLayerNorm():
                norm = layer.norm
                return [
                    {"op": "normalizePixels", "eps": norm.eps},
                    self._affine(norm.weight, norm.bias),
                ]
            case LocalResponseNorm():
                return [*self._steps(layer.affine), {"op": "localResponse"}]
            case DynamicTanh():
                return [
                    {"op": "tanh", "slope": float(layer.slope)},
                    self._affine(layer.weight, layer.bias),
                ]
            case ProxyNorm():
                return [*self._steps(layer.norm), self._proxy(layer)]
            case FilterResponseNorm():
                steps = [
                    _normalize(len(layer.weight), 1e-6, centre=False),
                    self._affine(layer.weight, layer.bias),
                ]
                if layer.threshold is not None:
                    steps.append({"op": "maximum", "threshold": self._place(layer.threshold)})
                return steps
            case EvoNormB0():  # without a slope it was folded
                return [
                    {
                        "op": "evonormB0",
                        "deviation": self._place((layer.running_var + EPSILON).sqrt()),
                        "slope": self._place(layer.slope),
                        "eps": EPSILON,
                    },
                    self._affine(layer.weight, layer.bias),
                ]
            case EvoNormS0():
                return [
                    {
                        "op": "evonormS0",
                        "groups": layer.groups,
                        "slope": self._place(layer.slope),
                        "eps": EPSILON,
                    },
                    self._affine(layer.weight, layer.bias),
                ]
        return None

    def _proxy(self, layer: Any) -> Step:
        """What follows a normalization and its activation: the proxy's moments are constants."""
        weight, bias = layer.norm.weight, layer.norm.bias
        mean, variance = normal_moments(
            layer.norm.activate,
            weight * (1 + layer.proxy_scale),
            weight * layer.proxy_mean + bias,
        )
        scale = (variance + layer.EPSILON).rsqrt()
        return self._affine(scale, -mean * scale)


def _normalize(groups: int, eps: float, *, centre: bool = True) -> Step:
    return {"op": "normalize", "groups": groups, "eps": eps, "centre": centre}


def is_finite(weights: bytes) -> bool:
    """Whether all weights are finite numbers."""
    return bool(np.isfinite(np.frombuffer(weights, "<f4")).all())
