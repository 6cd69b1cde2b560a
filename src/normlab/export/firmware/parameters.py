"""The trained numbers of each step, and what the steps compute with them in float32."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from normlab.export.folding import as_affine
from normlab.layers import activations
from normlab.layers.activations import Activate
from normlab.layers.fused import FusedNorm
from normlab.layers.norms.batch import EvoNormB0
from normlab.layers.norms.dyt import DynamicTanh
from normlab.layers.norms.none import LocalResponseNorm, local_response
from normlab.layers.norms.proxy import ProxyNorm
from normlab.layers.norms.registry import EPSILON
from normlab.layers.norms.sample import (
    ChannelLayerNorm,
    EvoNormS0,
    FilterResponseNorm,
    StandardizedConv2d,
)
from normlab.network.model import Convolution, FullyConnected, Network
from normlab.network.steps import Step

Values = NDArray[np.float32]


@dataclass(kw_only=True)
class Parameters:
    """What a step has learned; None where it has no such thing.

    Attributes:
        filters: The convolution's filters, C' × rows × columns × C; one for each channel, C × 3 × 3
            × 1, in `depthwise`.
        weight: A weight per channel, for the convolution's output or the normalized value; H × W ×
            C for a `map-affine`.
        bias: A bias per channel, likewise.
        epsilon: ε of a normalization.
        squash: α of a tanh.
        slopes: The activation's slope per channel.
        gates: v of EvoNorm per channel.
        deviations: The deviation per channel that divides at least.
        branch: The scale of what is added to a skip.
    """

    filters: Values | None = None
    weight: Values
    bias: Values
    epsilon: float = 0.0
    squash: float = 1.0
    slopes: Values | None = None
    gates: Values | None = None
    deviations: Values | None = None
    branch: float = 1.0


def parameters_of(network: Network, steps: Sequence[Step]) -> list[Parameters]:
    """The parameters of each step of a network."""
    return [_parameters(network, steps, k) for k in range(len(steps))]


def _parameters(network: Network, steps: Sequence[Step], k: int) -> Parameters:
    step = steps[k]
    channels = step.target[0]
    found = Parameters(weight=np.ones(channels, np.float32), bias=np.zeros(channels, np.float32))
    if step.block < 0:
        std = network.input_std.double().numpy()
        found.weight = (1 / (255 * std)).astype(np.float32)
        found.bias = (-network.input_mean.double().numpy() / std).astype(np.float32)
        return found
    block = network.blocks[step.block]
    if isinstance(block, FullyConnected):
        shape = (channels, *step.source)
        found.filters = _array(block.linear.weight).reshape(shape).transpose(0, 2, 3, 1)
        found.bias = _array(block.linear.bias)
    if not isinstance(block, Convolution):
        return found
    norm = _norm_of(block, steps, k)
    if step.weighted:
        conv = block.depthwise if step.kind == "depthwise" else block.conv
        filters: Any = conv.weight  # type: ignore[union-attr]
        if isinstance(conv, StandardizedConv2d) and conv.groups == 1:
            filters = conv.standardized()
        found.filters = _array(filters).transpose(0, 2, 3, 1)
    first, *rest = norm if type(norm) is nn.Sequential else [norm]
    activate = next((layer for layer in rest if isinstance(layer, Activate)), None)
    if step.folded:
        assert first is not None
        affine = as_affine(first.affine if isinstance(first, LocalResponseNorm) else first)
        assert affine is not None
        weight, bias, own = affine
        found.weight, found.bias = _array(weight), _array(bias)
        activate = own or activate
    elif isinstance(first, DynamicTanh):
        found.squash = first.slope.item()
        if step.kind == "affine":
            found.weight, found.bias = _array(first.weight), _array(first.bias)
            activate = first.activate
    elif step.kind == "affine" and isinstance(first, ProxyNorm):
        mean, scale = first.proxy()
        found.weight, found.bias = _array(scale), _array(-mean * scale)
    elif step.kind == "affine" and isinstance(first, FilterResponseNorm):
        assert first.threshold is not None
        found.bias = _array(first.threshold)
    elif isinstance(first, nn.LayerNorm):
        found.epsilon = first.eps
        if step.kind == "map-affine":
            found.weight, found.bias = (
                _array(values.permute(1, 2, 0)) for values in (first.weight, first.bias)
            )
    elif not step.weighted and isinstance(first, (EvoNormS0, EvoNormB0)):
        found.weight, found.bias = _array(first.weight), _array(first.bias)
        found.epsilon = EPSILON
        if first.slope is not None:
            found.gates = _array(first.slope)
        if isinstance(first, EvoNormB0):
            found.deviations = _array((first.running_var + EPSILON).sqrt())
    elif not step.weighted and step.kind != "local-response":
        if isinstance(first, ProxyNorm):
            first = first.norm
        if isinstance(first, ChannelLayerNorm):
            found.epsilon = first.norm.eps
            first = first.norm
        if isinstance(first, FusedNorm):
            found.epsilon, activate = first.eps, first.activate
        learned: Any = first
        found.weight = _array(learned.weight)
        if learned.bias is not None:
            found.bias = _array(learned.bias)
        if isinstance(first, FilterResponseNorm):
            found.epsilon = first.EPSILON
            if first.threshold is not None:
                found.bias = found.bias - _array(first.threshold)
    if step.activation == "prelu" and activate is not None:
        found.slopes = _array(activate.slope)  # type: ignore[arg-type]
    if block.branch_scales is not None and step.scaled:
        found.branch = block.branch_scales[step.application].item()
    return found


def _norm_of(block: Convolution, steps: Sequence[Step], k: int) -> nn.Module | None:
    """The normalization that a step is, or that follows it."""
    if not block.norms:
        return None
    norms = block.norms
    if block.depthwise is not None:
        # Its depthwise convolution and what follows that come before its 1 × 1 convolution.
        own = [s.kind for s in steps[: k + 1] if _same(s, steps[k])]
        if "convolution" not in own:
            norms = block.depthwise_norms
    return norms[steps[k].application]


def _same(step: Step, other: Step) -> bool:
    return (step.block, step.application) == (other.block, other.application)


def _array(tensor: Tensor) -> Values:
    return tensor.detach().float().numpy().copy()


@dataclass(frozen=True)
class Computed:
    """What a step computes in float32, N × C × H × W.

    Attributes:
        before: Before the activation.
        after: After it.
        output: After the skip's addition.
    """

    before: Tensor
    after: Tensor
    output: Tensor


@torch.inference_mode()
def compute(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> Iterator[Computed]:
    """What each step computes of pixels, uint8 N × C × H × W: what integers stand for."""
    x = torch.from_numpy(pixels).float()
    skips = {step.skip for step in steps}
    kept: dict[int, Tensor] = {}
    for k, (step, own) in enumerate(zip(steps, parameters, strict=True)):
        before = _before(step, own, x)
        after = _activated(step, own, before)
        x = after if step.skip is None else after * own.branch + kept[step.skip]
        if k in skips:
            kept[k] = x
        yield Computed(before, after, x)


def batches(pixels: NDArray[np.uint8], places: int) -> Iterator[NDArray[np.uint8]]:
    """Images in batches of about so many pixels in all."""
    count = max(1, places // (pixels.shape[2] * pixels.shape[3]))
    return (pixels[k : k + count] for k in range(0, len(pixels), count))


def _before(step: Step, own: Parameters, x: Tensor) -> Tensor:
    match step.kind:
        case "maximum":
            return F.max_pool2d(x, 2)
        case "average":
            return F.avg_pool2d(x, 2)
        case "mean":
            return x.mean((2, 3), keepdim=True)
        case "convolution" | "depthwise":
            assert own.filters is not None
            filters = torch.from_numpy(own.filters).permute(0, 3, 1, 2).contiguous()
            groups = len(filters) if step.kind == "depthwise" else 1
            x = F.conv2d(x, filters, None, step.stride, step.padding, groups=groups)
        case "group-norm":
            return F.group_norm(x, step.groups, *_affine(own), own.epsilon)
        case "rms-norm":
            grouped = x.reshape(len(x), step.groups, -1, *x.shape[2:])
            squares = grouped.square().mean((2, 3, 4), keepdim=True)
            x = (grouped * (squares + own.epsilon).rsqrt()).flatten(1, 2)
        case "deviation-norm" | "gated-norm":
            grouped = x.reshape(len(x), step.groups, -1)
            variance = grouped.var(2, correction=0).repeat_interleave(
                x.shape[1] // step.groups, dim=1
            )
            if own.gates is not None:
                x = x * (x * torch.from_numpy(own.gates)[:, None, None]).sigmoid()
            x = x * (variance + own.epsilon).rsqrt()[:, :, None, None]
        case "bounded-norm":
            assert own.gates is not None
            assert own.deviations is not None
            gates, deviations = torch.from_numpy(own.gates), torch.from_numpy(own.deviations)
            of_image = (x.var((2, 3), correction=0, keepdim=True) + own.epsilon).sqrt()
            x = x / torch.maximum(deviations[:, None, None], x * gates[:, None, None] + of_image)
        case "local-response":
            return local_response(x)
        case "pixel-norm":
            normalized = F.layer_norm(
                x.permute(0, 2, 3, 1), x.shape[1:2], *_affine(own), own.epsilon
            )
            return normalized.permute(0, 3, 1, 2)
    weight, bias = _affine(own)
    if step.kind == "map-affine":
        return x * weight.permute(2, 0, 1) + bias.permute(2, 0, 1)
    return x * weight[:, None, None] + bias[:, None, None]


def _affine(own: Parameters) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(own.weight), torch.from_numpy(own.bias)


def _activated(step: Step, own: Parameters, z: Tensor) -> Tensor:
    if step.activation is None:
        return z
    if step.activation == "tanh":
        return (z * own.squash).tanh()
    if own.slopes is not None:
        return F.prelu(z, torch.from_numpy(own.slopes))
    return activations.find(step.activation).formula(z)
