"""The activations of the table, and one without a compiled pass in layers and networks."""

import copy
import pickle
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formulas import FORMULAS, by_proxy, parameters
from normlab.config import ActivationName
from normlab.errors import UsageError
from normlab.export.folding import InferenceModel
from normlab.layers import kernels, norms
from normlab.layers.activations import (
    ACTIVATIONS,
    PRELU,
    Activate,
    Activation,
    find,
    normal_moments,
)
from normlab.network.model import Network
from passes import by_dtype, compiled, maps

SHAPE = (6, 4, 5)
SQUARED_RELU = Activation(
    name="squared-relu", formula=lambda x: x.relu().square(), second_moment=1.5
)
WITH_THEIR_OWN = ("frn", "evonorm-s0", "evonorm-b0")
LATER = ("lrn", "proxy-gn", "proxy-ln")  # they compute something after the activation
FOLLOWED = [name for name in norms.REGISTRY if name not in (*WITH_THEIR_OWN, *LATER)]


@pytest.mark.parametrize("activation", ACTIVATIONS.values())
def test_a_copy_of_a_layer_has_the_same_passes(activation):
    layer = norms.build("gn", (8, 4, 4), activate=True, activation=activation)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.activation == activation
        assert (other.activation in kernels.ACTIVATION_NUMBERS) == (activation.compiled is not None)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), SQUARED_RELU])
def test_the_second_moment_is_that_of_a_standard_normal(activation):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    moment = torch.trapezoid(Activate(activation, 1).double()(z[None])[0] ** 2 * density, z)
    assert moment.item() == pytest.approx(activation.second_moment, rel=1e-6)


@pytest.mark.parametrize("activation", [*ACTIVATIONS.values(), SQUARED_RELU])
@pytest.mark.parametrize(("weight", "bias"), [(1.0, 0.0), (-0.7, 0.4), (0.0, 0.3), (2.0, -1.0)])
def test_the_moments_of_normal_values_are_near_the_integrals(activation, weight, bias):
    z = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    density = torch.exp(-(z**2) / 2) / (2 * torch.pi) ** 0.5
    values = Activate(activation, 1).double()((weight * z + bias)[None])[0]
    expected = torch.trapezoid(values * density, z)
    deviations = torch.trapezoid((values - expected) ** 2 * density, z)
    one = torch.ones(3, dtype=torch.float64)
    mean, variance = normal_moments(Activate(activation, 3), weight * one, bias * one)
    smooth = activation is not SQUARED_RELU  # whose tails are heavy
    torch.testing.assert_close(mean, expected * one, rtol=5e-3 if smooth else 2e-2, atol=1e-3)
    torch.testing.assert_close(variance, deviations * one, rtol=2e-2 if smooth else 0.2, atol=1e-3)


@pytest.mark.parametrize("name", ["proxy-gn", "proxy-ln"])
def test_proxy_normalization_takes_the_moments_of_any_activation(name):
    layer = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 1.5)
    x = maps((5, *SHAPE))
    p = {key: values.detach().double() for key, values in parameters(layer).items()}
    y = FORMULAS[name](x.double(), p, None)
    expected = by_proxy(y, p, SQUARED_RELU.formula)
    torch.testing.assert_close(layer(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["proxy-gn", "proxy-ln"])
def test_proxy_normalization_takes_the_moments_with_the_learned_slopes(name):
    layer = norms.build(name, SHAPE, activate=True, activation=PRELU).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-0.5, 1.5)
        (slope,) = (p for key, p in layer.named_parameters() if key.endswith("slope"))
        slope.fill_(0.6)
    x = maps((5, *SHAPE)).double()
    p = {key: values.detach() for key, values in parameters(layer).items()}
    y = FORMULAS[name](x, p, None)
    expected = by_proxy(y, p, lambda z: torch.where(z > 0, z, 0.6 * z))
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_every_activation_is_listed_by_its_name():
    assert all(name == activation.name for name, activation in ACTIVATIONS.items())
    assert get_args(ActivationName) == tuple(ACTIVATIONS)  # what --activation takes
    with pytest.raises(
        UsageError, match="no activation 'swish': use one of relu, hard-swish, silu"
    ):
        find("swish")
    with_a_pass = {a for a in ACTIVATIONS.values() if a.compiled}
    assert set(kernels.ACTIVATION_NUMBERS) == {None, *with_a_pass}


@compiled
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS.values() if a.compiled])
def test_a_compiled_pass_computes_the_formula_and_its_gradient(activation):
    """Compared with the same activation without a pass, which PyTorch computes."""
    results = []
    for its_pass in (activation.compiled, None):
        one = replace(activation, compiled=its_pass)
        assert (one in kernels.ACTIVATION_NUMBERS) == (its_pass is not None)
        layer = norms.build("gn", SHAPE, activate=True, activation=one)
        x = maps((5, *SHAPE)).requires_grad_()
        y = layer(x)
        y.backward(maps((5, *SHAPE), seed=1))
        results.append((y, x.grad, *(p.grad for p in layer.parameters())))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


OF_ACTIVATIONS = {
    "relu": lambda z: z.clamp(min=0),
    "hard-swish": lambda z: z * (z / 6 + 0.5).clamp(0, 1),
    "silu": lambda z: z / (1 + torch.exp(-z)),
    "gelu": lambda z: 0.5 * z * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (z + 0.044715 * z**3))),
    "prelu": lambda z: torch.where(z > 0, z, 0.25 * z),
    "leaky": lambda z: torch.where(z > 0, z, 0.01 * z),
}


@by_dtype
@pytest.mark.parametrize("norm", ["bn", "gn=3", "ln"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_computes_its_formula_and_gradient_in_float64(name, norm, dtype):
    """After the normalization, with dropout's place empty and values far out on both sides."""
    layer = norms.build(norm, SHAPE, activate=True, activation=find(name))
    with torch.no_grad():  # z reaches from about -60 to 60
        layer.weight.copy_(torch.tensor([0.5, 1.0, 2.0, 4.0, 10.0, 20.0]))
        layer.bias.copy_(torch.linspace(-2, 2, 6))
    plain = norms.build(norm, SHAPE, activate=False).double()
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = maps((9, *SHAPE), dtype=dtype)
    upstream = maps((9, *SHAPE), seed=1, dtype=dtype)
    leaf, leaf64 = (x.detach().to(kind).requires_grad_() for kind in (dtype, torch.float64))
    y, y64 = layer(leaf), OF_ACTIVATIONS[name](plain(leaf64))
    assert y.dtype == dtype
    y.backward(upstream)
    y64.backward(upstream.double())
    in_a_pass = kernels.library() is not None and find(name).compiled is not None
    rounding = 2**-22 if dtype == torch.float32 else 2**-8
    for one, exact in ((y, y64), (leaf.grad, leaf64.grad)):
        # Without a pass, the affine map and the activation are rounded one after the other.
        room = rounding * (1 if in_a_pass else 4)
        largest = float(exact.detach().abs().max())
        torch.testing.assert_close(one.double(), exact, rtol=8 * room, atol=room * largest)
    rounding = 2**-22 if in_a_pass else 4 * rounding  # the passes' sums are in float32
    for each in ("weight", "bias"):  # sums of values, which may cancel
        one, exact = getattr(layer, each).grad, getattr(plain, each).grad
        room = rounding * float(upstream.double().abs().sum()) / SHAPE[0]
        torch.testing.assert_close(one.double(), exact, rtol=8 * rounding, atol=room)


@compiled
@pytest.mark.parametrize("name", [a.name for a in ACTIVATIONS.values() if a.compiled])
def test_a_compiled_pass_is_exact_to_rounding_wherever_z_is(name):
    """Value and gradient of the pass alone, for 40,000 values from -120 to 120."""
    z = torch.cat([torch.linspace(-120, 120, 20_000), torch.linspace(-4, 4, 20_000)])
    x = z.reshape(5_000, 8, 1, 1).contiguous(memory_format=torch.channels_last)
    ones, zeros = torch.ones(8), torch.zeros(8)
    activation, affine = find(name), {"scale": ones, "shift": zeros}
    y = torch.empty_like(x)
    kernels.normalize("apply", x, kernels.Settings(activation), out=y, **affine)
    cells = torch.zeros(8, 5_000, 8)
    cells[1:3] = 1
    mean, rstd, scale, shift, sums, products, factor, constant = cells
    kernels.normalize(
        "backward",
        x,
        kernels.Settings(activation, groups=8, part=1),
        dy=torch.ones_like(x),
        out=torch.empty_like(x),
        weight=ones,
        mean=mean,
        rstd=rstd,
        scale=scale,
        shift=shift,
        d_weight=torch.empty(8),
        d_bias=torch.empty(8),
        sums=sums,  # of one pixel: the gradient before the normalization's own
        products=products,
        factor=factor,
        constant=constant,
    )
    exact = x.double().requires_grad_()
    value = activation.formula(exact)
    value.sum().backward()
    assert value.isfinite().all()
    for ours, expected in ((y, value.detach()), (sums[:, :, None, None], exact.grad)):
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=1e-6)
    nan = torch.full_like(x, torch.nan)
    kernels.normalize("apply", nan, kernels.Settings(activation), out=y, **affine)
    assert y.isnan().all()


@pytest.mark.parametrize("norm", ["bn", "gn=3", "none", "ln-channel"])
def test_prelu_learns_a_slope_for_each_channel(norm):
    layer = norms.build(norm, SHAPE, activate=True, activation=PRELU)
    (slope,) = (p for name, p in layer.named_parameters() if name.endswith("slope"))
    assert slope.tolist() == [0.25] * 6
    plain = norms.build(norm, SHAPE, activate=False)
    plain.load_state_dict(
        {name.removeprefix("0."): value for name, value in layer.state_dict().items()},
        strict=False,
    )
    with torch.no_grad():
        slope.copy_(torch.linspace(-1, 1, 6))
    x, upstream = maps((9, *SHAPE)), maps((9, *SHAPE), seed=1)
    z = plain(x).detach()
    y = layer(x)
    y.backward(upstream)
    torch.testing.assert_close(y.detach(), torch.where(z > 0, z, slope[:, None, None] * z).detach())
    expected = (torch.where(z > 0, 0, z) * upstream).sum((0, 2, 3))
    torch.testing.assert_close(slope.grad, expected)
    assert layer(x.bfloat16()).dtype in (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    "norm", ["bn", "gn", "none", "gn-ws", "frn", "sws", "dyt", "proxy-gn", "proxy-ln"]
)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_network_with_each_activation_trains_and_is_folded(name, norm):
    network = Network("C:6 C:6+*2 P D:8a c:8 GAP FC", norm=norm, activation=name)
    network = network.to(memory_format=torch.channels_last)
    pixels = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    images = (pixels / 255).contiguous(memory_format=torch.channels_last)
    logits = network(images)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    slopes = [m for m in network.modules() if isinstance(m, Activate) and m.slope is not None]
    assert len(slopes) == (5 if name == "prelu" and norm != "frn" else 0)
    expected = copy.deepcopy(network).eval()(images).softmax(1)
    torch.testing.assert_close(InferenceModel(network)(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", FOLLOWED)
def test_an_activation_without_a_pass_follows_every_normalization(name, training, memory_format):
    layer = norms.build(name, SHAPE, activate=True, activation=SQUARED_RELU).train(training)
    plain = norms.build(name, SHAPE, activate=False).train(training)
    if name in ("none", "sws", "dyt"):  # its first weights depend on the activation
        plain.load_state_dict(layer.state_dict())
    upstream = maps((5, *SHAPE), seed=1)
    x = maps((5, *SHAPE)).contiguous(memory_format=memory_format)
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
    x, residual = maps((9, *SHAPE)), maps((9, *SHAPE), seed=1)
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
    monkeypatch.setitem(ACTIVATIONS, SQUARED_RELU.name, SQUARED_RELU)
    network = Network(line, norm=norm, activation=SQUARED_RELU.name).to(
        memory_format=torch.channels_last
    )
    logits = network(images)
    assert torch.allclose(logits, with_relu, atol=1e-5) == (norm in WITH_THEIR_OWN)
    F.cross_entropy(logits, torch.arange(4)).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    expected = network.eval()(images).softmax(1)
    torch.testing.assert_close(InferenceModel(network)(pixels), expected, rtol=1e-4, atol=1e-5)
