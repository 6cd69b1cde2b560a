"""A network's numbers as integers: Jacob et al. 2018, arXiv:1712.05877, section 2.

A value is an integer of 8 bits times its map's scale. Zero is 0: maps after a ReLU have the
integers 0 to 255, the others -128 to 127. Filters are -127 to 127 times a scale per output channel.
A convolution adds up products in 32 bits. A multiplier per channel, the product of the scales and
of the folded normalization's weight, takes the sum to the scale of the output:

    output = (sum · multiplier / 2^32 + offset) / 2^shift, both divisions rounded down,

where the offset has the bias and the half that rounds the last division to the nearest integer.
Zero padding is then 0, so it can be left out of the sums.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from normlab.errors import NormlabError
from normlab.export.firmware.parameters import Parameters, batches, compute
from normlab.layers import activations
from normlab.network.steps import NORMS, STATISTICS, Step

CALIBRATION_IMAGES = 500  # of the training split
FIXED = 16  # fractional bits of a normalization's coefficients
GATE = 15  # fractional bits of the logistic function
# The logistic function of -8 to 8 in steps of 1 / 16: beyond, it is 0 or 1 for 8 bits.
GATES = np.rint(2.0**GATE / (1 + np.exp(-np.arange(-128, 128) / 16))).astype(np.uint16)

_LARGEST = 0.249  # of a factor from sums to outputs: below 2^31 / 2^33
_SCORE_STEP = 4  # scores are in steps of at least 2^-4 nats
_BINS = 2048
_PLACES = 50 * 32 * 32  # pixels that are processed at a time

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Addition:
    """How a skip is added: (value · own + skip · other) / 2^shift, rounded to the nearest.

    Attributes:
        own: The factor of the value.
        other: The factor of the skip.
        shift: As above, at least 1.
        low: The least output.
        high: The largest.
    """

    own: int
    other: int
    shift: int
    low: int
    high: int


@dataclass(kw_only=True)
class Integers:
    """A step's numbers.

    Attributes:
        step: The step.
        scale: The scale of its target, in real units; of a normalization's source per channel.
        low: The least value before the addition.
        high: The largest.
        filters: int8, C' × rows × columns × C (`depthwise`: C × 3 × 3 × 1), or None.
        multipliers: int32 per channel, one for `mean`, or H × W × C for `map-affine`; of a
            `gated-norm` what takes a value to the place of its gate.
        offsets: int32, likewise.
        shift: The last division's, 1 to 20; 0 for a step without multipliers.
        table: The activation of each of the 256 bytes, or None.
        slopes: int16 per channel, times 2^12, or None.
        addition: How the skip is added, or None.
        floats: float32 numbers of a normalization, in the program's order: per channel `scale` of
            its source (one for `pixel-norm`), `weight` and `bias` in units of the target.
            `bounded-norm` has `slope` and `deviation`, too; its `weight` and `slope` have the
            source's scale in them.
        epsilon: ε of a normalization.
    """

    step: Step
    scale: Array | float
    low: int
    high: int
    filters: NDArray[np.int8] | None = None
    multipliers: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    offsets: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    shift: int = 0
    table: NDArray[np.uint8] | None = None
    slopes: NDArray[np.int16] | None = None
    addition: Addition | None = None
    floats: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    epsilon: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A network in integers.

    Attributes:
        steps: Its steps. The last one's results are logits in units of 2^-`unit` nats.
        unit: As above.
        score_shift: A score is 127 less a logit's distance from the largest, divided by
            2^`score_shift`, and at least -128.
    """

    steps: tuple[Integers, ...]
    unit: int
    score_shift: int

    @property
    def score_step(self) -> float:
        """Nats from one score to the next."""
        return float(2.0 ** (self.score_shift - self.unit))


def quantize(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> Quantized:
    """The integers of a network.

    Args:
        steps: Its steps.
        parameters: Their parameters.
        pixels: Images to measure the ranges of values with, uint8 N × C × H × W.

    Raises:
        NormlabError: A number does not fit its integer.
    """
    ranges = _measure(steps, parameters, pixels)
    done: list[Integers] = []
    unit = 0
    for k, (step, own) in enumerate(zip(steps, parameters, strict=True)):
        source = done[-1].scale if done else 1.0
        if k == len(steps) - 1:
            last, unit = _classifier(step, own, float(source))
            done.append(last)
            break
        done.append(_integers(step, own, ranges[k], source, done, raw=_reader(steps, k)))
    return Quantized(steps=tuple(done), unit=unit, score_shift=max(0, unit - _SCORE_STEP))


def _reader(steps: Sequence[Step], k: int) -> str | None:
    """The kind of the normalization that reads a step's target."""
    return steps[k + 1].kind if steps[k].raw else None


@dataclass(frozen=True, kw_only=True)
class _Range:
    """The largest magnitudes that are kept: before the activation, after it, after the addition."""

    before: Array
    after: float
    output: float


def _measure(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> list[_Range]:
    """The ranges: first the largest magnitudes, then histograms up to these."""
    signs = [(True, step.activation != "relu", step.signed) for step in steps]
    largest: dict[tuple[int, int], Array] = {}
    for key, magnitudes in _magnitudes(steps, parameters, pixels):
        found = magnitudes.amax(1).double().numpy()
        largest[key] = np.maximum(found, largest.get(key, 0.0))
    counts = {key: np.zeros((len(found), _BINS)) for key, found in largest.items()}
    for key, magnitudes in _magnitudes(steps, parameters, pixels):
        for row, values in enumerate(magnitudes):
            top = float(largest[key][row])
            if top > 0:
                counts[key][row] += torch.histc(values, _BINS, 0, top).double().numpy()

    def clips(k: int, part: int) -> Array:
        rows = zip(largest[k, part], counts[k, part], strict=True)
        return np.array([_clip(top, row, signed=signs[k][part]) for top, row in rows])

    return [
        _Range(before=clips(k, 0), after=float(clips(k, 1)[0]), output=float(clips(k, 2)[0]))
        for k in range(len(steps))
    ]


def _magnitudes(
    steps: Sequence[Step], parameters: Sequence[Parameters], pixels: NDArray[np.uint8]
) -> Iterator[tuple[tuple[int, int], torch.Tensor]]:
    """The magnitudes of each step's values, before, after and with the addition: rows × values.

    There is one row for each channel of what a normalization with statistics reads, else one.
    """
    for batch in batches(pixels, _PLACES):
        for k, computed in enumerate(compute(steps, parameters, batch)):
            for part, values in enumerate((computed.before, computed.after, computed.output)):
                by_channel = part == 0 and _reader(steps, k) in STATISTICS
                rows = values.transpose(0, 1).flatten(1) if by_channel else values.reshape(1, -1)
                yield (k, part), rows.abs()


def _clip(largest: float, counts: Array, *, signed: bool) -> float:
    """The largest magnitude to keep, of those that are tried, by the squared error.

    Larger values are cut, smaller ones are rounded to a finer grid the smaller it is.
    """
    if not largest > 0:
        return 1.0
    centers = (np.arange(_BINS) + 0.5) * largest / _BINS
    levels = 127 if signed else 255
    errors = {}
    for percent in range(40, 101, 2):
        clip = largest * percent / 100
        cut = np.maximum(centers - clip, 0)
        errors[clip] = (counts * np.where(cut > 0, cut**2, (clip / levels) ** 2 / 12)).sum()
    return float(min(errors, key=errors.__getitem__))


def _levels(signed: bool) -> tuple[int, int, int]:
    """The number that the largest magnitude becomes, and the limits."""
    return (127, -128, 127) if signed else (255, 0, 255)


def _integers(
    step: Step,
    own: Parameters,
    kept: _Range,
    source: Array | float,
    done: list[Integers],
    *,
    raw: str | None,
) -> Integers:
    if step.kind in ("maximum", "average"):
        _, low, high = _levels(step.signed)
        return Integers(step=step, scale=source, low=low, high=high)
    alike = step.kind in ("mean", "local-response")  # as signed as its source
    signed = step.signed if alike and step.skip is None else step.activation != "relu"
    levels, low, high = _levels(signed)
    after = kept.after / levels
    before: Array | float = after
    largest = float(kept.before.max())
    if step.activation == "prelu":
        before = after = max(after, largest / levels)
    elif step.activation not in (None, "relu"):
        before = largest / 127
        if step.activation == "tanh":
            after, before = 1 / 127, min(before, 4 / (127 * max(abs(own.squash), 1e-6)))
    elif raw in STATISTICS:
        before = kept.before / 127
    integers = Integers(step=step, scale=after, low=low, high=high, epsilon=own.epsilon)
    if step.kind == "input":
        before = after = max(np.abs([own.bias, 255 * own.weight + own.bias]).max(), 1e-6) / 127
        _set_coefficients(integers, own.weight / before, own.bias / before)
    elif step.kind == "local-response":
        integers.floats = {
            "scale": np.array([1e-4 * float(source) ** 2], np.float32),
            "weight": np.array([float(source) / after], np.float32),
            "bias": np.zeros(0, np.float32),
        }
    elif step.kind in NORMS:
        _set_norm(integers, own, source, float(before))
    else:
        before = _set_sums(integers, own, source, before)
    if step.activation in (None, "relu", "prelu"):
        after = before  # type: ignore[assignment]
    elif step.activation is not None:
        integers.table = _table(step, own, float(before), after)
    if own.slopes is not None:
        integers.slopes = _whole(own.slopes * 2.0**12, 2**15 - 1, "a slope").astype(np.int16)
    integers.scale = after
    if step.skip is not None:
        other = float(done[step.skip].scale)
        levels, low, high = _levels(step.signed)
        integers.scale = kept.output / levels
        integers.addition = _addition(
            float(after) * own.branch / integers.scale, other / integers.scale, low, high
        )
    return integers


def _set_sums(
    integers: Integers, own: Parameters, source: Array | float, scale: Array | float
) -> Array | float:
    """Filters, multipliers, offsets and shift of a convolution or `mean`. The scale may grow."""
    factors, bias = _factors(integers, own, float(source)), own.bias.astype(np.float64)
    if integers.step.kind == "mean":
        bias = np.zeros(1)
    least = np.abs(factors) / _LARGEST
    grown = np.maximum(scale, least if np.ndim(scale) else least.max())
    _set_multipliers(integers, factors / grown, bias / grown)
    return grown if np.ndim(scale) else float(grown)


def _factors(integers: Integers, own: Parameters, source: float) -> Array:
    """What a unit of each sum is worth. Sets the filters."""
    step = integers.step
    if step.kind == "mean":
        return np.array([source / (MEAN_FACTOR * step.source[1] * step.source[2])])
    assert own.filters is not None
    filters = own.filters.astype(np.float64)
    largest = np.abs(filters).max((1, 2, 3))
    scales = np.where(largest > 0, largest, 1) / 127
    integers.filters = np.rint(filters / scales[:, None, None, None]).astype(np.int8)
    if (np.abs(integers.filters.astype(np.int64)).sum((1, 2, 3)) * 255 >= 2**31).any():
        raise NormlabError(
            f"the sums over {filters[0].size:,} inputs do not fit into 32 bits: pool before that "
            "layer"
        )
    return np.where(largest > 0, scales * source * own.weight, 0.0)


MEAN_FACTOR = 64  # the sums of `mean` are multiplied by it, so that a small map's mean is exact


def _set_multipliers(integers: Integers, factors: Array, biases: Array) -> None:
    largest, offset = np.abs(factors).max(), np.abs(biases).max()
    shift = 20
    while shift > 1 and (largest * 2.0**shift >= 0.499 or offset * 2.0**shift >= 2.0**29):
        shift -= 1
    integers.shift = shift
    integers.multipliers = _whole(factors * 2.0 ** (32 + shift), 2**31 - 1, "a multiplier")
    integers.offsets = _whole(biases * 2.0**shift, 2**29, "a bias") + 2 ** (shift - 1)


def _set_coefficients(integers: Integers, weight: Array, bias: Array) -> None:
    """Sets what makes (value · multiplier + offset) / 2^16, rounded down."""
    integers.shift = FIXED
    integers.multipliers = _whole(weight * 2.0**FIXED, 2**22, "a weight")
    integers.offsets = _whole(bias * 2.0**FIXED, 2**29, "a bias") + 2 ** (FIXED - 1)


def _set_norm(integers: Integers, own: Parameters, source: Array | float, scale: float) -> None:
    weight, bias = own.weight.astype(np.float64) / scale, own.bias.astype(np.float64) / scale
    if integers.step.kind in ("affine", "map-affine"):
        _set_coefficients(integers, weight * source, bias)
        return
    integers.floats = {
        "scale": np.atleast_1d(np.asarray(source, np.float32)),
        "weight": weight.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    if own.gates is None:
        return
    slope = own.gates.astype(np.float64) * source
    if integers.step.kind == "gated-norm":  # beyond the limit every value has the last gate
        places = np.clip(np.rint(slope * 16 * 2.0**FIXED), -(2**23), 2**23)
        integers.multipliers = places.astype(np.int32)
        return
    assert own.deviations is not None
    integers.floats |= {
        "weight": (weight * source).astype(np.float32),
        "slope": slope.astype(np.float32),
        "deviation": own.deviations,
    }


def _whole(values: Array, limit: int, noun: str) -> NDArray[np.int32]:
    rounded = np.rint(values)
    if not (np.abs(rounded) <= limit).all():
        raise NormlabError(
            f"{noun} of the network is too large for int8: export it with --float instead"
        )
    return rounded.astype(np.int32)


def _table(step: Step, own: Parameters, before: float, after: float) -> NDArray[np.uint8]:
    """The activation of each byte, read as -128 to 127."""
    z = torch.arange(256, dtype=torch.uint8).view(torch.int8).double() * before
    if step.activation == "tanh":
        values = (z * own.squash).tanh()
    else:
        values = activations.find(step.activation or "").formula(z)
    rounded = (values / after).round().clamp(-128, 127).to(torch.int8)
    return rounded.view(torch.uint8).numpy()


def _addition(own: float, other: float, low: int, high: int) -> Addition:
    largest = max(abs(own), abs(other))
    shift = 24
    while shift > 1 and largest * 2.0**shift >= 2.0**21:
        shift -= 1
    if largest * 2.0**shift >= 2.0**21:
        raise NormlabError("a residual branch of the network is too large for int8: use --float")
    return Addition(
        own=round(own * 2.0**shift),
        other=round(other * 2.0**shift),
        shift=shift,
        low=low,
        high=high,
    )


def _classifier(step: Step, own: Parameters, source: float) -> tuple[Integers, int]:
    """The last step, whose results are logits, and their unit: 2^-unit nats."""
    integers = Integers(step=step, scale=0.0, low=0, high=0)
    factors = _factors(integers, own, source)
    largest = max(np.abs(factors).max(), 2.0**-40)
    unit = int(np.clip(np.floor(np.log2(_LARGEST / largest)), -16, 16))
    bias = np.zeros(1) if step.kind == "mean" else own.bias.astype(np.float64)
    _set_multipliers(integers, factors * 2.0**unit, bias * 2.0**unit)
    integers.scale = 2.0**-unit
    return integers, unit
