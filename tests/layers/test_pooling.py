"""Max pooling by the compiled passes, compared with the largest of each four pixels."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normlab.layers import kernels
from normlab.layers.pooling import MaxPool
from passes import DTYPES, by_dtype, compiled


def reference(x, dy):
    """The pooled maps, and dx: each value of dy at the first of the largest of four values."""
    samples, channels, height, width = x.shape
    y = torch.empty(samples, channels, height // 2, width // 2, dtype=x.dtype)
    dx = torch.zeros_like(x)
    for h in range(height // 2):
        for w in range(width // 2):
            place = (..., slice(2 * h, 2 * h + 2), slice(2 * w, 2 * w + 2))
            four = x[place].flatten(2)
            first = (four == four.amax(2, keepdim=True)).int().argmax(2, keepdim=True)
            y[..., h, w] = four.gather(2, first)[..., 0]
            chosen = torch.zeros_like(four).scatter(2, first, dy[..., h, w, None])
            dx[place] = chosen.unflatten(2, (2, 2))
    return y, dx


def maps(shape, *, seed, dtype, kinds=2**20):
    """N × C × H × W, channels last; with few kinds of values, many are equal."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randint(-kinds, kinds + 1, shape, generator=draws) / kinds
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


@compiled
@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(2, 9), st.integers(2, 9)),
    dtype=st.sampled_from(DTYPES),
    kinds=st.sampled_from([1, 3, 2**20]),
    seed=st.integers(0, 2**31),
)
@example((2, 16, 7, 5), torch.bfloat16, 1, 0)
@example((2, 17, 9, 3), torch.bfloat16, 2**20, 0)
@example((1, 8, 2, 2), torch.float32, 1, 0)
@example((3, 7, 3, 2), torch.float32, 2**20, 0)
def test_maximum_and_gradient_are_exact(shape, dtype, kinds, seed):
    x = maps(shape, seed=seed, dtype=dtype, kinds=kinds)
    assert kernels.usable(x)
    leaf = x.clone().requires_grad_()
    y = MaxPool()(leaf)
    dy = maps(y.shape, seed=seed + 1, dtype=dtype)
    y.backward(dy)
    expected, gradient = reference(x, dy)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, expected)
    assert torch.equal(leaf.grad, gradient)


@compiled
@by_dtype
@pytest.mark.parametrize("shape", [(3, 12, 8, 8), (3, 20, 7, 5)])
def test_it_agrees_with_pytorch(shape, dtype):
    """All values of a channel differ, because PyTorch may choose another of equal ones."""
    x = torch.rand(shape).flatten(2).argsort(2).view(shape).to(dtype)
    got = []
    for form in (torch.channels_last, torch.contiguous_format):
        leaf = x.contiguous(memory_format=form).requires_grad_()
        y = MaxPool()(leaf)
        y.backward(torch.arange(y.numel()).view(y.shape).to(dtype))
        got.append((y, leaf.grad))
    for one, other in zip(*got, strict=True):
        assert torch.equal(one, other)


@compiled
@by_dtype
def test_a_nan_is_the_largest_wherever_it_is(dtype):
    for place in range(4):
        x = torch.full((1, 16, 2, 2), float("inf"), dtype=dtype)
        x[..., place // 2, place % 2] = float("nan")
        assert MaxPool()(x.contiguous(memory_format=torch.channels_last)).isnan().all()


@compiled
def test_a_gradient_may_have_another_memory_layout():
    x = maps((3, 10, 6, 6), seed=0, dtype=torch.float32).requires_grad_()
    MaxPool()(x).mean((2, 3)).sum().backward()
    _, expected = reference(x.detach(), torch.full((3, 10, 3, 3), 1 / 9))
    assert torch.equal(x.grad, expected)


@compiled
@by_dtype
def test_results_are_bit_equal_for_any_number_of_threads(dtype):
    x = maps((5, 10, 7, 8), seed=0, dtype=dtype)
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = x.clone().requires_grad_()
            y = MaxPool()(leaf)
            y.backward(maps(y.shape, seed=1, dtype=dtype))
            results.append((y, leaf.grad))
    finally:
        torch.set_num_threads(before)
    for y, gradient in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(gradient, results[0][1])
