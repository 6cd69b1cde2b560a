"""Depthwise convolution by the compiled passes, compared with PyTorch's in float64."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normlab.layers import kernels
from normlab.layers.depthwise import FEWEST_CHANNELS, DepthwiseConv2d
from normlab.network.model import Network
from passes import compiled, maps, products_of


def layer(channels, *, stride=1, padding=1, seed=0):
    torch.manual_seed(seed)
    return DepthwiseConv2d(channels, channels, 3, stride, padding, groups=channels, bias=False)


def computed(conv, x, dy):
    """The maps, and the gradients of x and of the filters, in the precision of x."""
    x = x.clone().requires_grad_()
    conv.weight.grad = None
    with products_of(x.dtype):
        y = conv(x)
    y.backward(dy)
    return y.detach(), x.grad, conv.weight.grad


def reference(conv, x, dy):
    """The same in float64."""
    x = x.double().requires_grad_()
    weight = conv.weight.detach().double().requires_grad_()
    y = F.conv2d(x, weight, None, conv.stride, conv.padding, groups=conv.groups)
    y.backward(dy.double())
    return y.detach(), x.grad, weight.grad


@compiled
@settings(max_examples=80)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(8, 70), st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
@example((1, 8, 1, 1), torch.float32, 0)
@example((2, 12, 2, 1), torch.float32, 0)
@example((2, 12, 2, 1), torch.bfloat16, 0)  # PyTorch's
@example((2, 16, 2, 1), torch.bfloat16, 0)
@example((2, 16, 5, 32), torch.float32, 0)
@example((3, 17, 4, 16), torch.bfloat16, 0)
@example((2, 48, 70, 2), torch.float32, 0)
@example((1, 19, 2, 128), torch.bfloat16, 0)
def test_maps_and_gradients_are_those_of_float64(shape, dtype, seed):
    conv, x, dy = layer(shape[1]), maps(shape, seed=seed), maps(shape, seed=seed + 1)
    x, dy = x.to(dtype), dy.to(dtype)
    results = computed(conv, x, dy)
    assert [result.dtype for result in results] == [dtype, dtype, torch.float32]
    rounding = 2**-8 if dtype == torch.bfloat16 else 1e-6  # of a sum to the type of its maps
    own = rounding if shape[1] < FEWEST_CHANNELS[dtype] else 1e-6  # PyTorch casts the filters, too
    for result, exact, allowed in zip(
        results, reference(conv, x, dy), (rounding, rounding, own), strict=True
    ):
        room = (1e-6 if own == 1e-6 else rounding) * max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(result.double(), exact, rtol=allowed, atol=room)


@compiled
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16])
def test_any_number_of_threads_computes_the_same(threads):
    """More threads than samples, and numbers that do not divide them, too."""
    conv, x, dy = layer(24), maps((7, 24, 9, 10), seed=0), maps((7, 24, 9, 10), seed=1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        first, again = computed(conv, x, dy), computed(conv, x, dy)
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, first, again))
    for result, exact in zip(first, reference(conv, x, dy), strict=True):
        torch.testing.assert_close(result.double(), exact, rtol=1e-6, atol=1e-5)


IN_A_PROCESS = """if True:
    import threading, torch
    import torch.nn.functional as F
    from normlab.layers.depthwise import DepthwiseConv2d

    torch.set_num_threads({threads})
    torch.manual_seed(0)
    conv = DepthwiseConv2d(16, 16, 3, 1, 1, groups=16, bias=False)
    x = torch.randn(8, 16, 9, 10).contiguous(memory_format=torch.channels_last)
    weight = conv.weight.detach().double().requires_grad_()
    # Not PyTorch's own convolution: some versions are wrong with fewer threads than asked for.
    padded = F.pad(x.double(), (1, 1, 1, 1))
    windows = padded.unfold(2, 3, 1).unfold(3, 3, 1)
    expected = (windows * weight[None, :, 0, None, None]).sum((4, 5))
    expected.sum().backward()

    def run():
        conv(x).sum().backward()

    if {small}:
        threading.stack_size(256 * 1024)
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    else:
        run()
    torch.testing.assert_close(conv.weight.grad.double(), weight.grad, rtol=1e-5, atol=1e-4)
    print("equal")
"""


@compiled
@pytest.mark.slow(3)
@pytest.mark.parametrize(
    ("threads", "small", "variables"),
    [
        (6, False, {"OMP_THREAD_LIMIT": "5"}),  # fewer threads than asked for
        (3, True, {"OMP_STACKSIZE": "256K"}),
    ],
    ids=["fewer threads", "small stacks"],
)
def test_what_the_environment_allows_is_enough(threads, small, variables):
    code = IN_A_PROCESS.format(threads=threads, small=small)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_a_network_without_values_computes_shapes():
    network = Network("C:8 D:16 P D:16+ GAP FC", norm="bn").to("meta")
    assert network(torch.rand(2, 3, 32, 32, device="meta")).shape == (2, 10)


def test_in_eval_mode_it_can_be_differentiated_twice():
    conv, x = layer(16).eval(), maps((2, 16, 5, 5), seed=0).requires_grad_()
    (first,) = torch.autograd.grad(conv(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.abs().max() > 0


@compiled
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_reaches_its_neighbours_alone(value, dtype):
    conv, x = layer(16), maps((2, 16, 6, 7), seed=0, dtype=dtype)
    x[1, 3, 2, 4] = value
    with products_of(dtype):
        y = conv(x)
    expected = torch.ones_like(y, dtype=torch.bool)
    expected[1, 3, 1:4, 3:6] = False
    assert torch.equal(y.isfinite(), expected)


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (layer(16, stride=2), maps((2, 16, 8, 8), seed=0)),
        (layer(16, padding=0), maps((2, 16, 8, 8), seed=0)),
        (layer(7), maps((2, 7, 8, 8), seed=0)),
        (layer(16), torch.randn(2, 16, 8, 8)),  # not channels last
        (layer(16).double(), maps((2, 16, 8, 8), seed=0, dtype=torch.float64)),
    ],
    ids=["stride", "no padding", "few channels", "contiguous", "float64"],
)
def test_other_maps_are_pytorchs(conv, x):
    y = conv(x)
    expected = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)
    assert torch.equal(y, expected)


def test_maps_of_another_type_are_refused_as_by_pytorch():
    with pytest.raises(RuntimeError, match="type"):
        layer(16)(maps((2, 16, 8, 8), seed=0, dtype=torch.bfloat16))


@compiled
@pytest.mark.parametrize("norm", ["brn", "gn-ws", "sws", "none"])
def test_a_networks_depthwise_convolutions_are_compiled(norm, monkeypatch):
    calls = []
    monkeypatch.setattr(
        kernels, "depthwise", lambda name, x, **tensors: calls.append((name, tuple(x.shape)))
    )
    network = Network("C:8 D:16 P D:16+ GAP FC", norm=norm)
    network(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert calls == [("forward", (2, 8, 32, 32)), ("forward", (2, 16, 16, 16))]
