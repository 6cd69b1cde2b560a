"""What the C program computes, in NumPy: the same integers and floats, to the last bit.

It computes whole maps where the program computes rows, so that an error in one of them shows. Float
sums have the same order as in the program, and no step uses more than +, −, ×, ÷ and √, which
IEEE 754 rounds alike everywhere.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.export.firmware.parameters import batches
from normlab.export.firmware.quantize import (
    FIXED,
    GATE,
    GATES,
    MEAN_FACTOR,
    Integers,
    Quantized,
)

Array = NDArray[Any]
ONE = np.float32(1)
_PLACES = 100 * 32 * 32  # pixels that are processed at a time


def logits(network: Quantized, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The logits of images, uint8 N × C × H × W: int32 N × classes, in 2^-`unit` nats."""
    return np.concatenate([_logits(network, batch) for batch in batches(pixels, _PLACES)])


def scores(network: Quantized, logits: NDArray[np.int32]) -> NDArray[np.int8]:
    """The scores of logits: int8 N × classes."""
    distance = (logits.max(1, keepdims=True).astype(np.int64) - logits) >> network.score_shift
    result: NDArray[np.int8] = (127 - np.minimum(distance, 255)).astype(np.int8)
    return result


def _logits(network: Quantized, pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    x: Array = pixels.transpose(0, 2, 3, 1).astype(np.int32)
    skips = {own.step.skip for own in network.steps}
    kept: dict[int, Array] = {}
    for k, own in enumerate(network.steps):
        value = _value(own, x)
        if k == len(network.steps) - 1:
            return value.reshape(len(pixels), -1).astype(np.int32)
        x = np.clip(value, own.low, own.high).astype(np.int32)
        if own.slopes is not None:
            x = np.where(x < 0, (x * own.slopes.astype(np.int32) + 2**11) >> 12, x)
            x = np.clip(x, own.low, own.high)
        if own.table is not None:
            x = own.table.view(np.int8).astype(np.int32)[x & 255]
        if own.addition is not None:
            a = own.addition
            assert own.step.skip is not None
            x = (x * a.own + kept[own.step.skip] * a.other + (1 << a.shift >> 1)) >> a.shift
            x = np.clip(x, a.low, a.high)
        if k in skips:
            kept[k] = x
    raise AssertionError("a network has steps")


def _value(own: Integers, x: Array) -> Array:
    """A step's values before the limits, N × H × W × C."""
    step = own.step
    match step.kind:
        case "input" | "affine" | "map-affine":
            return (x * own.multipliers + own.offsets) >> FIXED
        case "maximum" | "average":
            height, width = step.target[1:]
            x = x[:, : 2 * height, : 2 * width]
            x = x.reshape(len(x), height, 2, width, 2, -1)
            pooled: Array = x.max((2, 4))
            if step.kind == "average":
                pooled = (x.sum((2, 4)) + 2) >> 2
            return pooled
        case "mean":
            return _scaled(own, x.sum((1, 2), keepdims=True) * MEAN_FACTOR)
        case "convolution" | "depthwise":
            return _scaled(own, _sums(own, x))
        case "pixel-norm":
            return _pixel_norm(own, x)
        case "local-response":
            return _local_response(own, x)
        case "bounded-norm":
            return _bounded_norm(own, x)
    multipliers, offsets = _group_statistics(own, x)
    if step.kind == "gated-norm":
        places = np.clip((x * own.multipliers + (1 << FIXED >> 1)) >> FIXED, -128, 127)
        gated = x * GATES[places + 128].astype(np.int64)
        products: Array = gated * multipliers >> GATE
    else:
        products = x * multipliers
    return (products + offsets) >> FIXED


def _scaled(own: Integers, sums: Array) -> Array:
    high = (sums.astype(np.int64) * own.multipliers) >> 32
    return (high + own.offsets) >> own.shift


def _sums(own: Integers, x: Array) -> Array:
    """The sums of a convolution, by the fast products of floats: exact below 2^24, or 2^53."""
    step, filters = own.step, own.filters
    assert filters is not None
    largest = 255 * np.abs(filters.astype(np.int64)).sum((1, 2, 3)).max()
    real = np.float32 if largest < 2**24 else np.float64
    (rows, columns), stride, (_, height, width) = step.window, step.stride, step.target
    pad = step.padding
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sums: Array = np.zeros((len(x), height, width, step.target[0]), real)
    for i in range(rows):
        for j in range(columns):
            part = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            part = part[:, :height, :width].astype(real)
            taps = filters[:, i, j].astype(real)
            sums += part * taps[:, 0] if step.kind == "depthwise" else part @ taps.T
    return sums.astype(np.int64)


def _group_statistics(own: Integers, x: Array) -> tuple[Array, Array]:
    """The multipliers and offsets of each image's channels, N × 1 × 1 × C."""
    step = own.step
    channels, height, width = step.source
    scale, weight, bias = (own.floats[name] for name in ("scale", "weight", "bias"))
    sums = x.sum((1, 2)).astype(np.float32)
    squares = (x * x).sum((1, 2)).astype(np.float32)
    size = channels // step.groups
    inverse = ONE / np.float32(size * height * width)
    multipliers, offsets = np.empty((2, len(x), 1, 1, channels), np.int32)
    for first in range(0, channels, size):
        total = np.zeros(len(x), np.float32)
        square = np.zeros(len(x), np.float32)
        for c in range(first, first + size):
            total = total + scale[c] * sums[:, c]
            square = square + (scale[c] * scale[c]) * squares[:, c]
        mean = total * inverse
        if step.kind == "rms-norm":
            mean = np.zeros_like(mean)
        variance = np.maximum(square * inverse - mean * mean, np.float32(0))
        if step.kind != "group-norm":
            mean = np.zeros_like(mean)
        reciprocal = ONE / np.sqrt(variance + np.float32(own.epsilon))
        for c in range(first, first + size):
            a = weight[c] * reciprocal
            multipliers[:, 0, 0, c] = _fixed(a * scale[c], 2**23)
            offsets[:, 0, 0, c] = _fixed(bias[c] - mean * a, 2**29)
    return multipliers, offsets + (1 << FIXED >> 1)


def _bounded_norm(own: Integers, x: Array) -> Array:
    _, height, width = own.step.source
    scale, weight, bias, slope, bound = own.floats.values()
    sums = x.sum((1, 2), keepdims=True).astype(np.float32)
    squares = (x * x).sum((1, 2), keepdims=True).astype(np.float32)
    inverse = ONE / np.float32(height * width)
    mean = scale * sums * inverse
    variance = np.maximum(scale * scale * squares * inverse - mean * mean, np.float32(0))
    deviation = np.sqrt(variance + np.float32(own.epsilon))
    values = x.astype(np.float32)
    divisor = np.maximum(slope * values + deviation, bound)
    return _rounded(values * weight / divisor + bias)


def _fixed(values: Array, limit: int) -> Array:
    """Floats times 2^16 as integers, within a limit."""
    return _rounded(values * np.float32(2**FIXED), limit)


def _rounded(values: Array, limit: int = 1000) -> Array:
    """Floats as integers, rounded to the nearest, within a limit: by default beyond any byte."""
    values = np.clip(values, np.float32(-limit), np.float32(limit))
    half = np.where(values < 0, np.float32(-0.5), np.float32(0.5))
    whole: Array = np.trunc(values + half).astype(np.int32)
    return whole


def _pixel_norm(own: Integers, x: Array) -> Array:
    channels = own.step.source[0]
    scale, weight, bias = (own.floats[name] for name in ("scale", "weight", "bias"))
    count = np.float32(channels)
    per_count = scale[0] / count
    sums = x.sum(3, keepdims=True)
    spread = channels * (x * x).sum(3, keepdims=True).astype(np.int64) - sums.astype(np.int64) ** 2
    variance = spread.astype(np.float32) * (per_count * per_count)
    factor = per_count * (ONE / np.sqrt(variance + np.float32(own.epsilon)))
    return _rounded((x * channels - sums).astype(np.float32) * factor * weight + bias)


def _local_response(own: Integers, x: Array) -> Array:
    channels = x.shape[3]
    squares = np.pad(x * x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    sums: Array = np.sum([squares[..., k : k + channels] for k in range(5)], 0)
    root = np.sqrt(np.float32(2) + own.floats["scale"][0] * sums.astype(np.float32))
    return _rounded(x.astype(np.float32) * (own.floats["weight"][0] / (root * np.sqrt(root))))
