"""The fused normalizations, compared with their formulas in float64.

Tolerances are in units of float32's rounding, `U`. If a mean is `ratio` times the deviation, the
rounding of x · scale + shift alone is `ratio` units of the result, so tolerances grow with it.
"""

import contextlib
import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from normlab.data import Dataset, Split
from normlab.data.augment import STEPS
from normlab.layers import kernels, norms
from normlab.layers.fused import FusedNorm
from normlab.network.model import Network
from normlab.recipes import RECIPES
from normlab.training.batches import Batches
from passes import DTYPES, by_dtype, compiled, maps

EPSILON = 1e-5
U = 2.0**-23
BF16 = 2.0**-8  # the relative rounding error of a result stored in bfloat16
BATCH = ("bn", "ebn")
NAMES = (*BATCH, "gn=3", "ln", "in", "rms")
SHAPE = (6, 4, 5)
by_name = pytest.mark.parametrize("name", NAMES)


class Reference(NamedTuple):
    """All in float64. `map` is before the ReLU, `normal` before weight and bias."""

    map: Tensor
    normal: Tensor
    mean: Tensor
    variance: Tensor


def reference(name, x, weight, bias):
    count = name.partition("=")[2]
    groups = {"bn": None, "ebn": None, "ln": 1, "rms": 1, "in": x.shape[1]}.get(
        name, int(count or 0)
    )
    grouped = x if groups is None else x.unflatten(1, (groups, -1))
    axes = (0, 2, 3) if groups is None else (2, 3, 4)
    mean = grouped.mean(axes, keepdim=True) * (name != "rms")
    variance = (grouped - mean).square().mean(axes, keepdim=True)
    if name == "ebn":
        variance = variance.mean(1, keepdim=True)
    normal = ((grouped - mean) / torch.sqrt(variance + EPSILON)).reshape(x.shape)
    y = normal * weight[:, None, None]
    y = y if bias is None else y + bias[:, None, None]
    mean, variance = (t.expand_as(grouped).reshape(x.shape) for t in (mean, variance))
    return Reference(y, normal, mean, variance)


def build(name, shape, *, activate=False, dropout=0.0, seed=1):
    """A layer with random weights and biases."""
    layer = norms.build(name, shape, activate=activate, dropout=dropout)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_within(actual, expected, tolerance, what):
    error = (actual.double() - expected).abs()
    assert (error <= tolerance).all(), f"{what}: off by {(error / tolerance).max():.3g} tolerances"


def check(layer, name, x, *, lost=1.0):
    """Compares a layer in training with its formula: forward, backward, running statistics.

    Tolerances are 16 units, times `lost`: the factor by which the sum of the variance cancels.
    """
    u = 16 * U
    bf16 = BF16 if x.dtype == torch.bfloat16 else 0.0
    relu = layer.activation is not None
    p64 = {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()}
    x64 = x.detach().double().requires_grad_()
    ref = reference(name, x64, p64["weight"], p64.get("bias"))

    weight = p64["weight"].detach().abs()[:, None, None]
    normal = ref.normal.detach().abs() * lost + 1
    rounding = 1 / (ref.variance.detach() + EPSILON).sqrt()
    ratio = ref.mean.detach().abs() * rounding
    tolerance = u * (weight * (normal + ratio) + ref.map.detach().abs())
    y64 = ref.map.detach().clamp(min=0) if relu else ref.map.detach()

    x = x.detach().requires_grad_()
    y = layer(x)
    assert y.dtype == x.dtype
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_within(y, y64, tolerance + bf16 * y64.abs(), "forward")

    # No gradient where rounding decides on which side of the ReLU's bend a value is.
    upstream = maps(x.shape, seed=2, dtype=x.dtype)
    if relu:
        upstream = upstream * (ref.map.detach().abs() > tolerance)
    (y * upstream).sum().backward()
    g = upstream.double() * (ref.map.detach() > 0 if relu else 1)
    (ref.map * g).sum().backward()

    size = (weight * g.abs()).max() * rounding
    tolerance = u * size * normal * (1 + ratio) * lost
    assert_within(x.grad, x64.grad, tolerance + bf16 * x64.grad.abs() + 1e-30, "gradient of x")
    assert x.grad.dtype == x.dtype
    for key, each in (("weight", normal * (1 + ratio)), ("bias", 1)):
        if key in p64:
            grad = getattr(layer, key).grad
            room = u * (g.abs() * each).sum((0, 2, 3)) * lost + 1e-30
            assert_within(grad, p64[key].grad, room, f"gradient of {key}")
    if name in BATCH:
        count = x.numel() // x.shape[1]
        mean, variance = ref.mean.detach()[0, :, 0, 0], ref.variance.detach()[0, :, 0, 0]
        spread = (variance + EPSILON).sqrt()
        room = u * (mean.abs() + spread * lost)
        assert_within(layer.running_mean, 0.1 * mean, room, "running mean")
        unbiased = variance * count / (count - 1)
        room = u * (1 + lost * unbiased + mean.square() * U)
        assert_within(layer.running_var, 0.9 + 0.1 * unbiased, room, "running variance")


@st.composite
def cases(draw, fewest=1, means=(0.0, -1.0, 30.0), dtypes=DTYPES):
    """A normalization and maps for it; means are in units of the deviation."""
    channels, height, width = draw(st.integers(1, 70)), *(draw(st.integers(1, 9)) for _ in "HW")
    # Groups of one value are refused.
    values = channels * height * width
    divisors = [k for k in range(1, channels + 1) if channels % k == 0 and k < values]
    kinds = [*BATCH, "ln", "rms", *([f"gn={draw(st.sampled_from(divisors))}"] if divisors else [])]
    kinds += ["in"] if height * width > 1 else []
    name = draw(st.sampled_from(kinds))
    if name in BATCH and height * width == 1:
        fewest = 2
    x = maps(
        (draw(st.integers(fewest, 6)), channels, height, width),
        seed=draw(st.integers(0, 2**31)),
        dtype=draw(st.sampled_from(dtypes)),
        mean=draw(st.sampled_from(means)),
        deviation=draw(st.sampled_from([0.01, 1.0, 100.0])),
    )
    return name, x


@compiled
@settings(max_examples=80)
@given(cases(), st.booleans())
@example(("bn", maps((2, 1, 1, 1))), True)
@example(("bn", maps((1, 67, 1, 2))), False)
@example(("gn=61", maps((3, 61, 1, 2))), True)
@example(("ln", maps((1, 1, 1, 1))), False)
@example(("in", maps((2, 300, 7, 3), dtype=torch.bfloat16)), True)
@example(("bn", maps((3, 31, 32, 32), mean=1.0)), True)
def test_the_compiled_passes_compute_the_formula(case, activate):
    name, x = case
    assert kernels.usable(x)
    layer = build(name, x.shape[1:], activate=activate)
    check(layer, name, x, lost=2)


@settings(max_examples=25)
# PyTorch's group_norm refuses a group of one value if there is only one sample.
@given(cases(fewest=2, dtypes=DTYPES[:1]), st.booleans())
def test_the_pytorch_path_computes_the_formula(case, activate):
    """In float64, because PyTorch's float32 sums have other rounding errors."""
    name, x = case
    check(build(name, x.shape[1:], activate=activate).double(), name, x.double())


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("activate", [False, True])
def test_both_paths_agree(name, dtype, activate, monkeypatch):
    x = maps((5, *SHAPE), dtype=dtype, mean=0.5)
    got = []
    for usable in (kernels.usable, lambda x: False):
        monkeypatch.setattr(kernels, "usable", usable)
        layer = build(name, SHAPE, activate=activate)
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.float().square().sum().backward()
        grads = [parameter.grad for parameter in layer.parameters()]
        got.append([y, leaf.grad, *grads, *layer.buffers()])
    # In bfloat16 the two round at different points between normalization, ReLU and loss.
    rtol, atol = (1e-5, 1e-4) if dtype == torch.float32 else (0.05, 0.1)
    for one, other in zip(*got, strict=True):
        torch.testing.assert_close(one.float(), other.float(), rtol=rtol, atol=atol)


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_mean_a_thousand_times_the_deviation(name, dtype, sign):
    """The mean of squares minus the squared mean would lose 1000² of float32's 2²³ here.

    Only 1000 units may be lost, by the rounding of x · scale + shift (`ratio` in the tolerance).
    """
    x = maps((7, 6, 8, 8), dtype=dtype, mean=sign * 1000.0)
    check(build(name, x.shape[1:], activate=True), name, x)


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize(("column", "lost"), [(0, 1), (10, 4)])
@pytest.mark.parametrize("outlier", [-1e4, 1e4])
def test_one_pixel_is_an_outlier(name, dtype, outlier, column, lost):
    """Deviations are taken from the mean of eight pixels, one in column 10 of the first row.
    If that one is the outlier, four times the variance cancels.
    """
    x = maps((2, 6, 16, 16), dtype=dtype)
    x[:, :, 0, column] = outlier
    check(build(name, x.shape[1:], activate=True), name, x, lost=lost)


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("value", [0.0, -3.0, 1000.0])
def test_maps_without_variance(name, dtype, value):
    x = torch.full((3, *SHAPE), value, dtype=dtype).contiguous(memory_format=torch.channels_last)
    layer = build(name, SHAPE)
    check(layer, name, x)
    if value == 0:
        bias = torch.zeros(6) if layer.bias is None else layer.bias
        assert torch.equal(layer(x), bias.to(dtype)[:, None, None].expand_as(x))


@compiled
@by_name
@by_dtype
def test_weights_of_zero(name, dtype):
    x = maps((3, *SHAPE), dtype=dtype, mean=1.0)
    layer = build(name, SHAPE, activate=True)
    with torch.no_grad():
        layer.weight.zero_()
    check(layer, name, x)
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert not leaf.grad.any()
    assert name == "rms" or layer.weight.grad.any()


# Operations whose gradient has another memory layout than the map.
FOLLOWERS = {
    "global average pooling": lambda y: F.adaptive_avg_pool2d(y, 1),
    "mean": lambda y: y.mean((2, 3)),
    "sum": lambda y: y.sum()[None],
    "contiguous": lambda y: y.contiguous(memory_format=torch.contiguous_format).flatten(1),
    "slice": lambda y: y[:, 1::2, ::2],
    "transpose": lambda y: y.transpose(2, 3),
    "one channel": lambda y: y[:, :1].expand(-1, 3, -1, -1),
}


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("follower", FOLLOWERS)
def test_gradients_may_have_any_memory_layout(name, dtype, follower):
    x = maps((3, *SHAPE), dtype=dtype, mean=0.3)
    layer = build(name, SHAPE)
    leaf = x.clone().requires_grad_()
    out = FOLLOWERS[follower](layer(leaf))
    upstream = maps((1, 1, 1, out.numel()), seed=3, dtype=dtype).view(out.shape)
    out.backward(upstream)

    p64 = {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()}
    x64 = x.double().requires_grad_()
    y64 = reference(name, x64, p64["weight"], p64.get("bias")).map
    FOLLOWERS[follower](y64).backward(upstream.double())
    # In bfloat16 the follower's backward pass rounds too.
    rtol, atol = (1e-4, 1e-5) if dtype == torch.float32 else (0.02, 0.02)
    torch.testing.assert_close(leaf.grad.double(), x64.grad, rtol=rtol, atol=atol)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), p64[key].grad, rtol=rtol, atol=10 * atol
        )


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(1, 2, 0, 0), (1, 2, 3, 4)])
def test_non_finite_values_stay_non_finite(name, dtype, activate, value, place):
    x = maps((3, *SHAPE), dtype=dtype)
    x[place] = value
    layer = build(name, SHAPE, activate=activate)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    spoilt = torch.zeros(x.shape, dtype=torch.bool)
    rows = {"bn": (slice(None), 2), "ebn": (slice(None),), "gn=3": (1, slice(2, 4)), "in": (1, 2)}
    where = rows.get(name, (1,))
    spoilt[where] = True
    if name == "rms" and value != value:
        assert y.isnan()[spoilt].all()
    elif name == "rms":  # x / infinity is 0, except for the infinity itself
        assert not y[place].isfinite()
    else:
        assert y.isnan()[spoilt].all()
    assert y[~spoilt].isfinite().all()
    y.sum().backward()
    assert not layer.weight.grad.isfinite().all()
    assert not leaf.grad[where].isfinite().all()
    if name in BATCH:
        others = [] if name == "ebn" else [0, 1, 3, 4, 5]
        assert layer.running_var.isfinite().nonzero().flatten().tolist() == others
        assert not layer.running_mean[2].isfinite()


@compiled
@by_name
@by_dtype
def test_a_non_finite_gradient_stays_non_finite(name, dtype):
    x = maps((3, *SHAPE), dtype=dtype).requires_grad_()
    layer = build(name, SHAPE, activate=True)
    y = layer(x)
    upstream = torch.ones_like(y)
    place = tuple(y[1].nonzero()[0].tolist())
    upstream[1][place] = float("nan")
    y.backward(upstream)
    assert x.grad[1][place].isnan()
    assert layer.weight.grad[place[0]].isnan()


@compiled
@by_dtype
@pytest.mark.parametrize("weight", [1.0, 1 + 2**-8, -3.0, 0.7])
def test_every_bfloat16_value_is_rounded_as_in_pytorch(dtype, weight):
    """BatchNorm in eval mode with a variance that makes it weight · x; 1 + 2⁻⁸ makes ties."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    x = bits.view(torch.bfloat16).view(1, 1, 256, 256).to(dtype)
    layer = norms.build("bn", (1, 256, 256), activate=False).eval()
    with torch.no_grad():
        layer.weight.fill_(weight)
        layer.running_var.fill_(1 - EPSILON)
        y = layer(x)
    expected = (x.float() * weight).to(dtype)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


# Dropout


def dropped(y):
    """Where dropout has put a zero; no value is zero otherwise."""
    return y == 0


@compiled
@by_dtype
@pytest.mark.parametrize("probability", [0.025, 0.3, 0.999])
def test_dropout_drops_its_share_and_keeps_the_mean(probability, dtype):
    x = maps((40, 12, 24, 24), dtype=dtype)
    layer = build("in", (12, 24, 24), dropout=probability)
    torch.manual_seed(0)
    with torch.no_grad():
        y, whole = layer(x), layer.eval()(x)
    count = x.numel()
    spread = (probability * (1 - probability) / count) ** 0.5
    assert abs(dropped(y).double().mean() - probability) < 5 * spread
    kept = ~dropped(y)
    expected = whole.double()[kept] / (1 - probability)
    # 1 − p is a difference in float32.
    rtol = 1e-6 + U / (1 - probability) + 2 * BF16 * (dtype == torch.bfloat16)
    torch.testing.assert_close(y.double()[kept], expected, rtol=rtol, atol=0)
    drift = (y.double() - whole.double()).mean()
    scatter = (probability / (1 - probability) * whole.double().square().mean() / count).sqrt()
    assert abs(drift) < 5 * scatter + rtol * whole.double().abs().mean()


@compiled
def test_dropout_is_independent_of_position_and_of_earlier_masks():
    """The share is the same in every channel, row and sample. Masks are independent: both values of
    a pair of neighbours, or of one position in two masks, are dropped with probability p².
    """
    probability = 0.3
    x = maps((32, 16, 16, 16))
    layer = build("in", (16, 16, 16), dropout=probability)
    torch.manual_seed(1)
    with torch.no_grad():
        one, other = dropped(layer(x)), dropped(layer(x))
    assert not torch.equal(one, other)
    for axis in range(4):
        shares = one.double().transpose(0, axis).flatten(1).mean(1)
        spread = (probability * (1 - probability) / (one.numel() / len(shares))) ** 0.5
        assert (shares - probability).abs().max() < 5 * spread
    pairs = [one & other, *(one & one.roll(1, axis) for axis in range(4))]
    spread = (probability**2 * (1 - probability**2) / one.numel()) ** 0.5
    for pair in pairs:
        assert abs(pair.double().mean() - probability**2) < 6 * spread


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("probability", [0.025, 0.6, 0.999])
def test_the_backward_pass_drops_the_same_values_as_the_forward_pass(name, dtype, probability):
    x = maps((9, 6, 8, 8), dtype=dtype)
    layer = build(name, (6, 8, 8), activate=True, dropout=probability)
    torch.manual_seed(2)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    p64 = {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()}
    x64 = x.double().requires_grad_()
    z64 = reference(name, x64, p64["weight"], p64.get("bias")).map
    upstream = maps(x.shape, seed=3, dtype=dtype) * (z64.detach().abs() > 1e-4)
    mask = (y != 0).double() / (1 - probability)
    (z64 * mask * upstream.double()).sum().backward()
    y.backward(upstream)
    rtol, atol = (1e-3, 1e-4) if dtype == torch.float32 else (BF16, 1e-3)
    atol /= 1 - probability
    torch.testing.assert_close(leaf.grad.double(), x64.grad, rtol=rtol, atol=atol)
    for key, parameter in layer.named_parameters():
        expected = p64[key].grad
        torch.testing.assert_close(parameter.grad.double(), expected, rtol=1e-3, atol=10 * atol)


@compiled
@by_dtype
def test_the_dropout_mask_depends_only_on_torchs_seed(dtype):
    x = maps((5, *SHAPE), dtype=dtype)
    layer = build("gn", SHAPE, dropout=0.4)

    def mask(seed, count, layer=layer):
        torch.manual_seed(seed)
        with threads(count):
            return dropped(layer(x))

    first = mask(7, 1)
    assert torch.equal(first, mask(7, 1))
    assert torch.equal(first, mask(7, 2))
    assert torch.equal(first, mask(7, 1, build("ln", SHAPE, dropout=0.4, seed=9)))
    assert not torch.equal(first, mask(8, 1))
    torch.manual_seed(7)
    layer(x)
    assert not torch.equal(first, dropped(layer(x)))


@by_name
@pytest.mark.parametrize("grad", [False, True])
def test_in_eval_mode_there_is_no_dropout_and_no_random_draw(name, grad):
    x = maps((5, *SHAPE))
    with torch.set_grad_enabled(grad):
        state = torch.get_rng_state()
        y = build(name, SHAPE, dropout=0.9).eval()(x)
        assert torch.equal(state, torch.get_rng_state())
        torch.testing.assert_close(y, build(name, SHAPE).eval()(x), rtol=0, atol=0)


# Threads, eval mode, other kinds of maps


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("shape", [(5, 6, 7, 9), (1, 6, 8, 8), (160, 240, 2, 1)])
def test_results_are_bit_equal_for_any_number_of_threads(name, dtype, shape):
    """The last shape has enough cells for PyTorch to split their sums between threads too."""
    results = []
    for count in (1, 2, 3):
        with threads(count):
            torch.manual_seed(0)
            layer = build(name, shape[1:], activate=True, dropout=0.1)
            x = maps(shape, dtype=dtype).requires_grad_()
            y = layer(x)
            y.backward(maps(shape, seed=3, dtype=dtype))
            grads = [parameter.grad for parameter in layer.parameters()]
            results.append([y, x.grad, *grads, *layer.buffers()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def used(name, shape=SHAPE):
    """A layer in eval mode, after three batches that set the running averages."""
    layer = build(name, shape, activate=True)
    for seed in range(3):
        layer(maps((8, *shape), seed=seed, mean=2.0, deviation=3.0))
    return layer.eval()


@by_name
@by_dtype
def test_in_eval_mode_it_computes_the_same_with_and_without_gradients(name, dtype):
    layer, x = used(name), maps((5, *SHAPE), dtype=dtype)
    before = [buffer.clone() for buffer in layer.buffers()]
    with torch.no_grad():
        y = layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), y, rtol=0, atol=0)
    rtol, atol = (1e-5, 1e-5) if dtype == torch.float32 else (2 * BF16, 1e-5)
    torch.testing.assert_close(layer(x), y, rtol=rtol, atol=atol)
    assert y.dtype == dtype
    if name in BATCH:
        p = {k: v.detach()[:, None, None].double() for k, v in layer.state_dict().items()}
        scale = p["weight"] / (p["running_var"] + EPSILON).sqrt()
        expected = ((x.double() - p["running_mean"]) * scale + p["bias"]).clamp(min=0)
        torch.testing.assert_close(y.double(), expected, rtol=rtol, atol=atol)
        single = layer(x[:1])  # the other images of the batch have no effect
        torch.testing.assert_close(single, y[:1], rtol=rtol, atol=atol)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


@by_name
def test_gradients_flow_in_eval_mode(name):
    layer, x = used(name), maps((5, *SHAPE)).requires_grad_()
    p64 = {k: v.detach().double().requires_grad_() for k, v in layer.named_parameters()}
    x64 = x.detach().double().requires_grad_()
    if name in BATCH:
        mean, variance = (t[:, None, None].double() for t in layer.buffers())
        normal = (x64 - mean) / (variance + EPSILON).sqrt()
        y64 = normal * p64["weight"][:, None, None] + p64["bias"][:, None, None]
    else:
        y64 = reference(name, x64, p64["weight"], p64.get("bias")).map
    upstream = maps(x.shape, seed=3) * (y64.detach().abs() > 1e-4)
    y64.clamp(min=0).backward(upstream.double())
    layer(x).backward(upstream)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-4, atol=1e-5)
    for key, parameter in layer.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), p64[key].grad, rtol=1e-4, atol=1e-4)


@compiled
@by_name
@pytest.mark.parametrize("training", [True, False])
def test_other_kinds_of_maps_are_left_to_pytorch_and_agree(name, training):
    x = maps((5, *SHAPE), mean=0.5)
    expected = build(name, SHAPE, activate=True).train(training)(x)
    kinds = {
        "channels first": x.contiguous(memory_format=torch.contiguous_format),
        "a part of a larger map": F.pad(x, (0, 1, 0, 1))[:, :, :4, :5],
        "double": x.double(),
    }
    for kind, other in kinds.items():
        assert not kernels.usable(other), kind
        layer = build(name, SHAPE, activate=True).train(training).to(other.dtype)
        got = layer(other)
        assert got.dtype == other.dtype
        torch.testing.assert_close(got.float(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BATCH)
def test_a_single_value_per_channel_is_refused_as_in_pytorch(name):
    layer = build(name, (4, 1, 1))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        layer(maps((1, 4, 1, 1)))
    assert layer.eval()(maps((1, 4, 1, 1))).shape == (1, 4, 1, 1)


@compiled
@by_name
@by_dtype
@pytest.mark.parametrize("usable", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_residual_is_added_at_the_end(name, dtype, usable, training, monkeypatch):
    """After ReLU and dropout. Its gradient is the upstream gradient, and it changes no other."""
    if not usable:
        monkeypatch.setattr(kernels, "usable", lambda x: False)
    x, addend = maps((5, *SHAPE), dtype=dtype), maps((5, *SHAPE), seed=5, dtype=dtype, mean=2.0)
    upstream = maps(x.shape, seed=3, dtype=dtype)
    got = []
    for residual in (None, addend.clone().requires_grad_()):
        layer = build(name, SHAPE, activate=True, dropout=0.3).train(training)
        leaf = x.clone().requires_grad_()
        torch.manual_seed(0)
        y = layer(leaf) if residual is None else layer(leaf, residual=residual)
        y.backward(upstream)
        got.append([leaf.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
        if residual is None:
            alone = y.detach()
        with torch.no_grad():
            torch.manual_seed(0)
            without_grad = layer(x, residual)
        bf16 = 0 if dtype == torch.float32 else 2 * BF16
        torch.testing.assert_close(without_grad, y, rtol=bf16 + 1e-5, atol=bf16 + 1e-5)
    expected = alone.double() + addend.double()
    room = 2 * U * expected.abs() + (dtype == torch.bfloat16) * BF16 * (
        alone.double().abs() + expected.abs()
    )
    assert_within(y, expected, room + 1e-6, "sum")
    assert torch.equal(residual.grad, upstream)
    assert all(torch.equal(one, other) for one, other in zip(*got, strict=True))


@compiled
@by_name
def test_the_residual_may_have_another_memory_layout_and_type(name):
    x, addend = maps((5, *SHAPE)), maps((5, *SHAPE), seed=5)
    layer = build(name, SHAPE, activate=True)
    expected = layer(x, addend)
    others = [
        addend.contiguous(memory_format=torch.contiguous_format),
        F.pad(addend, (0, 1, 0, 1))[:, :, :4, :5],
        addend.double(),
    ]
    for other in others:
        leaf = other.detach().requires_grad_()
        y = layer(x, leaf)
        torch.testing.assert_close(y.float(), expected, rtol=1e-6, atol=1e-6)
        y.sum().backward()
        assert torch.equal(leaf.grad, torch.ones_like(leaf))
    same = addend[:, :1, :1, :1].expand_as(x)
    torch.testing.assert_close(layer(x, same), layer(x) + same, rtol=1e-6, atol=1e-6)


@compiled
@pytest.mark.parametrize("name", [*norms.REGISTRY, "gn=2"])
@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("C:6 C:6+ P D:8 D:8+ P C:8 GAP FC", (3, 32, 32)),
        ("C:6vs2 P D:8v/gn=2 A C:8/ln+*2 c:6 D:4 GAP C:5 FC", (3, 32, 32)),
        ("C:6 C:6+ P D:8 D:8+ P C:8 GAP FC", (1, 27, 27)),
    ],
)
def test_a_network_computes_what_it_does_in_float64(layout, shape, name):
    """In float64, PyTorch computes all layers."""
    images = maps((6, *shape), mean=0.5)
    got = []
    for dtype in (torch.float32, torch.float64):
        network = Network(layout, norm=name, seed=1, shape=shape)
        network = network.to(memory_format=torch.channels_last)
        network = network.to(dtype)
        logits = network(images.to(dtype))
        logits.logsumexp(1).sum().backward()
        used = network.eval()(images.to(dtype))
        got.append([logits, used, *(p.grad for p in network.parameters()), *network.buffers()])
    for one, other in zip(*got, strict=True):
        scale = other.detach().abs().max()
        atol = float(1e-4 * scale) + 1e-7
        torch.testing.assert_close(one.double(), other.double(), rtol=1e-3, atol=atol)


@compiled
@settings(max_examples=20, deadline=None)
@given(
    channels=st.sampled_from([1, 3]),
    size=st.integers(16, 70),
    steps=st.lists(st.sampled_from(list(STEPS)), max_size=2),
    mirror=st.booleans(),
    training=st.booleans(),
    bfloat16=st.booleans(),
)
def test_the_passes_compute_the_maps_of_every_size(
    channels, size, steps, mirror, training, bfloat16
):
    """An image in one channel has two orders of memory at once: none may turn the passes off."""
    network = Network("C:6 P D:8 C:8+ P C:8 GAP FC", shape=(channels, size, size))
    network = network.to(memory_format=torch.channels_last).train(training)
    layers = [module for module in network.modules() if isinstance(module, FusedNorm)]
    usable = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: usable.append(kernels.usable(inputs[0])))
    pixels = np.zeros((4, channels, size, size), np.uint8)
    data = Split(pixels, np.arange(4))
    recipe = dataclasses.replace(RECIPES["demo"], augment=tuple(steps), mirror=mirror, batch_size=4)
    dataset = Dataset("black", tuple("abcd"), data, data)
    inputs, _ = Batches(dataset, recipe, 0, torch.device("cpu"))(0, 0)
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        network(inputs)
    assert usable == [True] * len(layers)


@compiled
@by_name
def test_several_normalizations_in_a_row_share_no_memory(name):
    """Each keeps what its backward pass needs: compared with three layers and sums by hand."""
    x = maps((4, *SHAPE)).requires_grad_()
    layers = [build(name, SHAPE, activate=True, seed=k) for k in range(3)]
    y = x
    for layer in layers:
        y = y + layer(y)
    y.square().sum().backward()
    x64 = x.detach().double().requires_grad_()
    y64 = x64
    for layer in layers:
        bias = None if layer.bias is None else layer.bias.detach().double()
        y64 = y64 + reference(name, y64, layer.weight.detach().double(), bias).map.clamp(min=0)
    y64.square().sum().backward()
    torch.testing.assert_close(y.double(), y64, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-3, atol=1e-3)


@by_name
def test_its_repr_names_statistics_and_dropout(name):
    text = repr(norms.build(name, SHAPE, activate=True, dropout=0.25))
    assert "6, " in text
    assert ("batch" if name in BATCH else "groups=") in text
    assert "dropout=0.25" in text


# Inputs that would be misread as raw memory


@compiled
@pytest.mark.parametrize(
    ("name", "dtype", "training"),
    [
        ("bn", torch.bfloat16, False),
        *((name, torch.float64, training) for name in ("ebn", "rms") for training in (False, True)),
    ],
)
def test_parameters_of_another_type_are_used(name, dtype, training):
    """As after `network.bfloat16()`."""
    x = maps((5, *SHAPE), dtype=torch.bfloat16)
    expected = build(name, SHAPE).train(training)(x)
    with torch.no_grad():
        y = build(name, SHAPE).train(training).to(dtype)(x)
    torch.testing.assert_close(y, expected, rtol=0.05, atol=0.05, check_dtype=False)


@compiled
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ebn", "rms")])
def test_parameters_that_pytorchs_layers_refuse_are_refused(name, training):
    layer = build(name, SHAPE).train(training).double()
    with torch.no_grad(), pytest.raises(RuntimeError, match="mixed dtype"):
        layer(maps((5, *SHAPE), dtype=torch.bfloat16))


@compiled
def test_another_default_dtype(monkeypatch):
    x, layer = maps((5, *SHAPE)), build("ln", SHAPE)
    expected = layer(x)
    torch.set_default_dtype(torch.float64)
    try:
        y = layer(x)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(y, expected)


@compiled
@by_name
def test_a_second_derivative_is_refused(name):
    x = maps((5, *SHAPE)).requires_grad_()
    (g,) = torch.autograd.grad(build(name, SHAPE)(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.square().sum().backward()


@compiled
@by_name
def test_an_empty_batch(name):
    """As in PyTorch's layers, the output is empty too."""
    assert build(name, SHAPE)(maps((0, *SHAPE))).shape == (0, *SHAPE)


@compiled
def test_any_nan_stays_nan_in_bfloat16():
    layer = build("bn", SHAPE, activate=True).eval()
    with torch.no_grad():
        layer.weight.copy_(torch.full((6,), -1, dtype=torch.int32).view(torch.float32))
        assert layer.weight.isnan().all()
        assert layer(maps((2, *SHAPE), dtype=torch.bfloat16)).isnan().all()


def test_rms_in_pytorch_keeps_bfloat16():
    x = maps((2, *SHAPE), dtype=torch.bfloat16).contiguous(memory_format=torch.contiguous_format)
    assert build("rms", SHAPE)(x).dtype == torch.bfloat16


@compiled
def test_a_smaller_residual_is_broadcast():
    x, addend = maps((5, *SHAPE)), maps((1, 6, 1, 1), seed=5)
    layer = build("gn", SHAPE)
    torch.testing.assert_close(layer(x, addend), layer(x) + addend)


@compiled
@pytest.mark.parametrize("dropout", [-0.1, 1.5])
def test_an_invalid_dropout_probability_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout must be 0 or more"):
        build("gn", SHAPE, dropout=dropout)(maps((5, *SHAPE)))


# What the passes must not be given


@pytest.mark.parametrize(("samples", "whole"), [(2, 5), (4, 2), (0, 4), (-1, 4)])
def test_parts_divide_the_batch(samples, whole):
    layer = FusedNorm((8, 4, 4), groups=None, activation=None, dropout=0.0, eps=1e-5)
    with pytest.raises(ValueError, match=f"parts of {samples} samples do not divide a batch of"):
        layer(maps((whole, 8, 4, 4)), samples=samples)


@pytest.mark.parametrize("groups", [3, 16, 0, -1])
def test_groups_divide_the_channels(groups):
    with pytest.raises(ValueError, match=f"{groups} groups do not divide 8 channels"):
        FusedNorm((8, 4, 4), groups=groups, activation=None, dropout=0.0, eps=1e-5)


@pytest.mark.parametrize("samples", [1, 2, None])
@pytest.mark.parametrize("strided", [lambda x: x[::2], lambda x: x[:1].expand(4, -1, -1, -1)])
def test_a_batch_with_gaps_or_repetitions_is_normalized_as_its_copy(samples, strided):
    x = strided(maps((8, 8, 4, 4)))
    results = []
    for batch in (x, x.contiguous(memory_format=torch.channels_last)):
        layer = FusedNorm((8, 4, 4), groups=None, activation=None, dropout=0.0, eps=1e-5)
        results.append((layer(batch, samples=samples), layer.running_mean, layer.running_var))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("strided", [torch.ones(1).expand(8), torch.linspace(1, 2, 16)[::2]])
def test_weights_may_lie_in_any_order(groups, strided):
    x, dy = maps((4, 8, 4, 4)), maps((4, 8, 4, 4), seed=1)
    results = []
    for values in (strided, strided.clone(memory_format=torch.contiguous_format)):
        layer = FusedNorm((8, 4, 4), groups=groups, activation=None, dropout=0.0, eps=1e-5)
        layer.weight, layer.bias = torch.nn.Parameter(values), torch.nn.Parameter(values)
        y = layer(x)
        results.append((y, *torch.autograd.grad(y, [layer.weight, layer.bias], dy)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("before", [1.0, 1e4, 1e6])
def test_with_a_momentum_of_one_nothing_of_earlier_statistics_remains(before):
    layer = FusedNorm((8, 4, 4), groups=None, activation=None, dropout=0.0, eps=1e-5, momentum=1.0)
    layer.running_mean.fill_(before)
    layer.running_var.fill_(before)
    x = 0.05 * maps((4, 8, 4, 4))
    layer(x)
    torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-5, atol=0)


def test_groups_of_one_sample_have_no_pooled_variance():
    with pytest.raises(ValueError, match="only BatchNorm has a pooled variance"):
        FusedNorm(SHAPE, groups=2, pooled=True, activation=None, dropout=0.0, eps=EPSILON)
