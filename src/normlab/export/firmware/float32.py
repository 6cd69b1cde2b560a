"""The program in single floats, and what it computes, in NumPy: the same floats to the last bit.

All sums are taken one after another, in the program's order, and no step uses more than +, −, ×, ÷
and √, which IEEE 754 rounds alike everywhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from normlab.export.firmware import emit
from normlab.export.firmware.parameters import Parameters, batches
from normlab.network.memory import Memory
from normlab.network.steps import Step

Values = NDArray[np.float32]
_F = np.float32
_PLACES = 25 * 32 * 32  # pixels that are processed at a time
STEP = 64  # bytes of a step in the program's table, where a pointer has 4


def source(origin: emit.Origin, parameters: Sequence[Parameters], memory: Memory) -> emit.Source:
    """The C program of a network in floats."""
    steps = memory.steps
    constants = emit.Constants()
    parts: set[str] = set()
    entries = []
    for k, (step, own) in enumerate(zip(steps, parameters, strict=True)):
        function, needed = emit.kernel(step, last=k == len(steps) - 1)
        if step.kind == "gated-norm":
            needed = (*needed, "exponential", "logistic")
        activation, more = _ACTIVATIONS[step.activation or "none"]
        parts |= {*needed, *more}
        parts |= {"slopes"} if own.slopes is not None else set()
        parts |= {"addition"} if step.skip is not None else set()
        weighted = step.weighted or step.kind not in _WEIGHTLESS
        entries.append(
            {
                "run": function,
                "activation": activation,
                "filters": constants.filters("float", own.filters, step),
                "weight": constants.name("weight", "float", _weights(own) if weighted else None),
                "bias": constants.name("bias", "float", own.bias if weighted else None),
                "slopes": constants.name("slopes", "float", own.slopes),
                "epsilon": emit.real(own.epsilon) if own.epsilon else 0,
                "branch": emit.real(own.branch) if step.skip is not None else 0,
            }
        )
    dialect = emit.Dialect(
        folder="float32",
        parts=frozenset(parts),
        entries=entries,
        values="float",
        sums="float",
        score="float",
        scores="    memcpy(scores, arena->logits, sizeof arena->logits);",
        meaning="A probability is proportional to exp(score).",
        fill={},
        step_size=STEP,
    )
    return emit.source(origin, memory, dialect, constants)


_WEIGHTLESS = ("maximum", "average", "mean", "local-response")

# The function of each activation, and its parts; `prelu` has slopes instead.
_ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "none": ("NULL", ()),
    "prelu": ("NULL", ()),
    "relu": ("relu", ("activation", "relu")),
    "leaky": ("leaky", ("activation", "leaky")),
    "hard-swish": ("hard_swish", ("activation", "hard_swish")),
    "silu": ("silu", ("activation", "exponential", "logistic", "silu")),
    "gelu": ("gelu", ("activation", "exponential", "logistic", "gelu")),
    "tanh": ("squashed", ("activation", "exponential", "tanh")),
}


def _weight(own: Parameters) -> Values:
    """A convolution's weight per channel, with the α of the tanh that follows."""
    if own.filters is None:
        return own.weight
    return (own.weight * _F(own.squash)).astype(_F)


def _weights(own: Parameters) -> Values:
    """The same, and after it EvoNorm's slopes and deviations."""
    more = (own.gates, own.deviations)
    return np.concatenate([_weight(own), *(values for values in more if values is not None)])


def logits(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> Values:
    """The logits of images, uint8 N × C × H × W: float32 N × classes."""
    parts = batches(pixels, _PLACES)
    return np.concatenate([_logits(steps, parameters, batch) for batch in parts])


def _logits(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> Values:
    x: Values = pixels.transpose(0, 2, 3, 1).astype(_F)
    skips = {step.skip for step in steps}
    kept: dict[int, Values] = {}
    for k, (step, own) in enumerate(zip(steps, parameters, strict=True)):
        x = _value(step, own, x)
        if own.slopes is not None:
            x = np.where(x < 0, x * own.slopes, x)
        elif step.activation is not None:
            x = _activated(step.activation, x)
        if step.skip is not None:
            x = x * _F(own.branch) + kept[step.skip]
        if k in skips:
            kept[k] = x
    found: Values = x.reshape(len(pixels), -1)
    return found


def _value(step: Step, own: Parameters, x: Values) -> Values:
    """A step's values before the activation, N × H × W × C."""
    match step.kind:
        case "maximum" | "average":
            height, width = step.target[1:]
            above, below = x[:, : 2 * height : 2], x[:, 1 : 2 * height : 2]
            places = [rows[:, :, j : 2 * width : 2] for rows in (above, below) for j in (0, 1)]
            if step.kind == "maximum":
                return np.maximum(
                    np.maximum(places[0], places[1]), np.maximum(places[2], places[3])
                )
            return ((places[0] + places[1]) + (places[2] + places[3])) * _F(0.25)
        case "mean":
            height, width = step.source[1:]
            total = _added_up(x.reshape(len(x), -1, x.shape[3]), 1)
            return (total / _F(height * width))[:, None, None]
        case "convolution" | "depthwise":
            x = _sums(step, own, x)
        case "group-norm" | "rms-norm" | "deviation-norm":
            multipliers, offsets = _group_statistics(step, own, x)
            return x * multipliers + offsets
        case "gated-norm":
            assert own.gates is not None
            multipliers, offsets = _group_statistics(step, own, x)
            return x * _logistic(own.gates * x) * multipliers + offsets
        case "bounded-norm":
            assert own.gates is not None
            assert own.deviations is not None
            _, deviation = _moments(step, own, x)
            bound = np.maximum(own.gates * x + deviation, own.deviations)
            bounded: Values = x / bound * own.weight + own.bias
            return bounded
        case "local-response":
            return _local_response(x)
        case "pixel-norm":
            count = _F(x.shape[3])
            mean = (_added_up(x, 3) / count)[..., None]
            squares = _added_up((x - mean) * (x - mean), 3)[..., None]
            reciprocal = _F(1) / np.sqrt(squares / count + _F(own.epsilon))
            normalized: Values = (x - mean) * reciprocal * own.weight + own.bias
            return normalized
    return x * _weight(own) + own.bias


def _added_up(values: Values, axis: int) -> Values:
    """The sum along an axis, one after another: NumPy's own sum adds up in pairs."""
    total: Values = np.add.accumulate(values, axis=axis).take(-1, axis=axis)
    return total


def _sums(step: Step, own: Parameters, x: Values) -> Values:
    filters = own.filters
    assert filters is not None
    (rows, columns), stride, pad = step.window, step.stride, step.padding
    channels, height, width = step.target
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sums: Values = np.zeros((len(x), height, width, channels), _F)
    for i in range(rows):
        for j in range(columns):
            part = x[:, i : i + stride * height : stride, j : j + stride * width : stride]
            part = part[:, :height, :width]
            if step.kind == "depthwise":
                sums = sums + part * filters[:, i, j, 0]
                continue
            for c in range(part.shape[3]):
                sums = sums + part[..., c : c + 1] * filters[:, i, j, c]
    return sums


def _moments(step: Step, own: Parameters, x: Values) -> tuple[Values, Values]:
    """The mean and the deviation of each channel's group, N × 1 × 1 × C."""
    channels, height, width = step.source
    size = channels // step.groups
    count = _F(size * height * width)
    means, deviations = np.zeros((2, len(x), 1, 1, channels), _F)
    for first in range(0, channels, size):
        group = slice(first, first + size)
        values = x[..., group].reshape(len(x), -1)
        mean = np.zeros((len(x), 1), _F)
        if step.kind != "rms-norm":
            mean = (_added_up(values, 1) / count)[:, None]
        distance = values - mean
        variance = (_added_up(distance * distance, 1) / count)[:, None]
        means[:, 0, 0, group] = mean
        deviations[:, 0, 0, group] = np.sqrt(variance + _F(own.epsilon))
    return means, deviations


def _group_statistics(step: Step, own: Parameters, x: Values) -> tuple[Values, Values]:
    """The multipliers and offsets of each image's channels, N × 1 × 1 × C."""
    mean, deviation = _moments(step, own, x)
    multipliers = own.weight * (_F(1) / deviation)
    if step.kind != "group-norm":
        mean = np.zeros_like(mean)
    return multipliers, own.bias - mean * multipliers


def _local_response(x: Values) -> Values:
    squares = np.pad(x * x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    total = np.zeros_like(x)
    for k in range(5):
        total = total + squares[..., k : k + x.shape[3]]
    root = np.sqrt(_F(2) + _F(1e-4) * total)
    divided: Values = x / (root * np.sqrt(root))
    return divided


def _activated(name: str, x: Values) -> Values:
    match name:
        case "relu":
            return np.where(x > 0, x, _F(0))
        case "leaky":
            return np.where(x < 0, _F(0.01) * x, x)
        case "hard-swish":
            swished: Values = x * np.clip(x + _F(3), _F(0), _F(6)) / _F(6)
            return swished
        case "silu":
            return x * _logistic(x)
        case "gelu":
            return x * _logistic(_F(1.59576912) * (x + _F(0.044715) * (x * x * x)))
        case "tanh":
            return _F(1) - _F(2) / (_exponential(_F(2) * x) + _F(1))
    raise AssertionError(f"{name} has no C")


def _logistic(x: Values) -> Values:
    return _F(1) / (_F(1) + _exponential(-x))


def _exponential(x: Values) -> Values:
    """e^x as 2^n · (1 + r + r²/2 + …): Cody & Waite 1980, Software Manual, chapter 6, for r."""
    x = np.clip(x, _F(-87), _F(87))
    n: Any = np.trunc(x * _F(1.44269504) + np.where(x < 0, _F(-0.5), _F(0.5)))
    r = x - n * _F(0.693359375) - n * _F(-2.12194440e-4)
    total: Any = _F(1) + r * (_F(1) / _F(6))
    for k in (5, 4, 3, 2):
        total = _F(1) + r * total * (_F(1) / _F(k))
    total = _F(1) + r * total
    power = ((n.astype(np.int32) + 127) << 23).view(_F)
    result: Values = total * power
    return result
