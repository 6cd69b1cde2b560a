"""The activations of the table, and one without a compiled pass in layers and networks."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulas import FORMULAS, by_proxy, parameters
from normlab.export.folding import InferenceModel
from normlab.layers import kernels, norms
from normlab.layers.activations import ACTIVATIONS, Activation, normal_moments
from normlab.network.model import Network

SHAPE = (6, 4, 5)
SQUARED_RELU = Activation(
    name="squared-relu", formula=lambda x: x.relu().square(), second_moment=1.5
)
WITH_THEIR_OWN = ("frn", "evonorm-s0", "evonorm-b0")
LATER = ("lrn", "proxy-gn", "proxy-ln")  # they compute something after the activation
FOLLOWED = [name for name in norms.REGISTRY if name not in (*WITH_THEIR_OWN, *LATER)]


def channels_last(*shape, seed=0):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws)
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), SQUARED_RELU])
def test_the_second_moment_is_that_of_a_standard_normal(activation):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    moment = torch.trapezoid(activation.formula(z) ** 2 * density, z)
    assert moment.item() == pytest.approx(activation.second_moment, rel=1e-6)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), SQUARED_RELU])
@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.0), (-0.7, 0.4), (0.0, 0.3), (2.0, -1.0)])
def test_the_moments_of_normal_values_are_near_the_integrals(activation, weight, bias):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    values = activation.formula(weight * z + bias)
    expected = torch.trapezoid(values * density, z)
    deviations = torch.trapezoid((values - expected) ** 2 * density, z)
    one = torch.ones(3, dtype=torch.float64)
    mean, variance = normal_moments(activation, weight * one, bias * one)
    smooth = activation is not SQUARED_RELU  # whose tails are heavy
    torch.testing.assert_close(mean, expected * one, rtol=5e-3 if smooth else 2e-2, atol=1e-3)
    torch.testing.assert_close(variance, deviations * one, rtol=2e-2 if smooth else 0.2, atol=1e-3)


@pytest.mark.parametrize("name", ["proxy-gn", "proxy-ln"])
def test_proxy_normalization_takes_the_moments_of_any_activation(name):
    layer = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 1.5)
    x = channels_last(5, *SHAPE)
    p = {key: values.detach().double() for key, values in parameters(layer).items()}
    y = FORMULAS[name](x.double(), p, None)
    expected = by_proxy(y, p, SQUARED_RELU.formula)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_every_activation_is_listed_by_its_name():
    assert all(name == activation.name for name, activation in ACTIVATIONS.items())
    with_a_pass = {a for a in ACTIVATIONS.values() if a.compiled}
    assert set(kernels.ACTIVATION_NUMBERS) == {None, *with_a_pass}


@pytest.mark.skipif(kernels.library() is None, reason="no GCC here builds the passes")
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS.values() if a.compiled])
def test_a_compiled_pass_computes_the_formula_and_its_gradient(activation):
    """Compared with the same activation without a pass, which PyTorch computes."""
    results = []
    for compiled in (activation.compiled, None):
        one = replace(activation, compiled=compiled)
        assert (one in kernels.ACTIVATION_NUMBERS) == (compiled is not None)
        layer = norms.build("gn", SHAPE, activate=True, activation=one)
        x = channels_last(5, *SHAPE).requires_grad_()
        y = layer(x)
        y.backward(channels_last(5, *SHAPE, seed=1))
        results.append((y, x.grad, *(p.grad for p in layer.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FOLLOWED)
def test_an_activation_without_a_pass_follows_every_normalization(name, training, memory_format):
    layer = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU).train(training)
    plain = norms.build(name, SHAPE, activate=False).train(training)
    if name in ("none", "sws", "dyt"):  # its first weights depend on the activation
        plain.load_state_dict(layer.state_dict())
    upstream = channels_last(5, *SHAPE, seed=1)
    x = channels_last(5, *SHAPE).contiguous(memory_format=memory_format)
    results = []
    for compute in (layer, lambda x: plain(x).relu().square()):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        y.backward(upstream)
        results.append((y, leaf.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), results[0][0].detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bn", "gn", "rms"])
def test_dropout_and_the_residual_come_after_an_activation_without_a_pass(name):
    layer = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU, dropout=0.5)
    x, residual = channels_last(9, *SHAPE), channels_last(9, *SHAPE, seed=1)
    whole = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU)(x)
    change = layer(x, residual) - residual
    dropped = change == 0
    torch.testing.assert_close(change[~dropped], 2 * whole[~dropped], rtol=1e-4, atol=1e-4)
    assert 0.3 < dropped[whole > 0.01].float().mean() < 0.7


def test_without_normalization_the_first_weights_keep_the_scale():
    """From one layer's activations to the next layer's, through PyTorch's first convolution."""
    torch.manual_seed(0)
    x = SQUARED_RELU.formula(torch.randn(64, 512, 1, 1))
    layer = norms.build("none", (1024, 1, 1), activate=True, activation=SQUARED_RELU)
    y = layer(nn.Conv2d(512, 1024, 1, bias=False)(x))
    assert y.square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.15)


@pytest.mark.parametrize("norm", norms.REGISTRY)
def test_a_network_with_another_activation_trains_and_is_folded(norm, monkeypatch):
    line = "C:6 C:6+*2 P D:8 c:8 GAP FC"
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    images = (pixels / 255).contiguous(memory_format=torch.channels_last)
    with_relu = Network(line, norm=norm)(images)
    with_squares = functools.partial(norms.build, activation=SQUARED_RELU)
    monkeypatch.setattr(norms, "build", with_squares)
    network = Network(line, norm=norm).to(memory_format=torch.channels_last)
    logits = network(images)
    assert torch.allclose(logits, with_relu, atol=1e-5) == (norm in WITH_THEIR_OWN)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    expected = network.eval()(images).softmax(1)
    torch.testing.assert_close(InferenceModel(network)(pixels), expected, rtol=1e-4, atol=1e-5)
