"""Products in bfloat16, on processors that have instructions for them and on others."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from normlab.training import precision
from normlab.training.precision import RoundedProducts, products_in

CPU = torch.device("cpu")
BF16 = 2.0**-8  # the relative error of rounding to bfloat16


def gradients(compute, x, weight, dy):
    """The output of a product, and the gradients of what was multiplied."""
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = compute(x, weight)
    y.backward(dy.to(y.dtype))
    return y.detach(), x.grad, weight.grad


def assert_rounded_once(products, exact):
    """Each value of the products is within bfloat16's rounding of the exact one."""
    for value, expected in zip(products, exact, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(value.double(), expected, rtol=BF16, atol=1e-6 * scale)


@given(
    images=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    size=st.integers(3, 9),
    by_name=st.booleans(),
)
def test_a_rounded_convolution_is_the_exact_one_rounded(
    images, channels, kernel, stride, size, by_name
):
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels[0], size, size, generator=draws).bfloat16()
    weight = torch.randn(channels[1], channels[0], kernel, kernel, generator=draws)
    settings = {"stride": stride, "padding": kernel // 2}
    side = (size - 1) // stride + 1
    dy = torch.randn(images, channels[1], side, side, generator=draws).bfloat16()

    def rounded(x, weight):
        with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
            if by_name:
                return F.conv2d(input=x, weight=weight, **settings)
            return F.conv2d(x, weight, None, stride, kernel // 2)

    products = gradients(rounded, x, weight, dy)
    assert [value.dtype for value in products] == [torch.bfloat16, torch.bfloat16, torch.float32]
    exact = gradients(
        lambda x, weight: F.conv2d(x, weight, **settings),
        x.double(),
        weight.bfloat16().double(),
        dy.double(),
    )
    assert_rounded_once(products, exact)


def test_a_rounded_linear_layer_is_the_exact_one_rounded():
    draws = torch.Generator().manual_seed(0)
    x, weight, dy = (torch.randn(shape, generator=draws) for shape in ((7, 33), (10, 33), (7, 10)))
    bias = torch.randn(10, generator=draws)

    def rounded(x, weight):
        with torch.autocast("cpu", torch.bfloat16), RoundedProducts():
            return F.linear(x, weight, bias=bias)

    products = gradients(rounded, x, weight, dy.bfloat16())
    assert [value.dtype for value in products] == [torch.bfloat16, torch.float32, torch.float32]
    exact = gradients(
        lambda x, weight: F.linear(x, weight, bias.bfloat16().double()),
        *(value.bfloat16().double() for value in (x, weight, dy)),
    )
    assert_rounded_once(products, exact)


def test_other_operations_and_other_types_stay_as_they_are():
    x, kernel = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)

    def others():
        return [
            x.exp(),
            x.mean(),
            F.max_pool2d(x, 2),
            F.conv2d(x.double(), kernel.double()),
            F.linear(x.double(), x.double()[0, 0]),
        ]

    with torch.autocast("cpu", torch.bfloat16):
        expected = others()
        with RoundedProducts():
            values = others()
            with torch.autocast("cpu", enabled=False):
                values.append(F.conv2d(x, kernel))
    expected.append(F.conv2d(x, kernel))
    for value, same in zip(values, expected, strict=True):
        assert value.dtype == same.dtype
        assert torch.equal(value, same)


@pytest.mark.parametrize(
    ("name", "there", "dtype", "rounds"),
    [
        ("float32", False, torch.float32, False),
        ("bfloat16", True, torch.bfloat16, False),
        ("bfloat16", False, torch.bfloat16, True),
    ],
)
def test_products_are_rounded_only_where_there_are_none_of_bfloat16(
    name, there, dtype, rounds, monkeypatch
):
    monkeypatch.setattr(precision, "has_bfloat16_products", lambda: there)
    used = []
    within = RoundedProducts.__torch_function__

    def watched(self, *args, **kwargs):
        used.append(self)
        return within(self, *args, **kwargs)

    monkeypatch.setattr(RoundedProducts, "__torch_function__", watched)
    x, weight = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with products_in(name, CPU):
        y = F.conv2d(x, weight)
    assert y.dtype == dtype
    assert bool(used) == rounds
    assert F.conv2d(x, weight).dtype == torch.float32
