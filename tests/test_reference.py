"""Networks of any layout against NumPy in float64, and their gradients against differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from torch.func import functional_call

from normlab import layout, norms
from normlab.model import Network

# A step of batch renormalization treats its corrections as constants (Ioffe 2017, algorithm 1):
# its gradient is not that of its output.
DIFFERENTIABLE = sorted(set(norms.REGISTRY) - {"brn"})


def convolved(x, weight, *, stride, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    if weight.shape[1] == 1 and x.shape[1] > 1:
        return np.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    return np.einsum("nchwij,ocij->nohw", windows, weight)


def normalized(x, weight, bias, norm):
    axes = {"bn": (0, 2, 3), "ln": (1, 2, 3), "in": (2, 3)}[norm]
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight[:, None, None] + bias[:, None, None]


def pooled(x, reduce):
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    cells = x[:, :, :height, :width].reshape(*x.shape[:2], height // 2, 2, width // 2, 2)
    return reduce(cells, axis=(3, 5))


def reference(line, norm, weights, images):
    """What a layout computes, block by block, as the notation's page says it."""
    x, after_gap = images, False
    for index, block in enumerate(layout.parse(line)):
        own = {
            name.removeprefix(f"blocks.{index}."): values
            for name, values in weights.items()
            if name.startswith(f"blocks.{index}.")
        }
        match block.kind:
            case "P":
                x = pooled(x, np.max)
            case "A":
                x = pooled(x, np.mean)
            case "GAP":
                x, after_gap = x.mean((2, 3), keepdims=True), True
            case "FC":
                flat = x.reshape(len(x), -1)
                x = (flat @ own["linear.weight"].T + own["linear.bias"])[:, :, None, None]
            case kind:
                padding = 0 if block.valid or kind == "c" or after_gap else 1
                for k in range(block.repeat):
                    y, stride = x, block.stride
                    if kind == "D":
                        y = convolved(y, own["depthwise.weight"], stride=stride, padding=padding)
                        names = (f"depthwise_norms.{k}.{part}" for part in ("weight", "bias"))
                        y = normalized(y, *(own[name] for name in names), norm)
                        stride, padding = 1, 0
                    y = convolved(y, own["conv.weight"], stride=stride, padding=padding)
                    if kind != "c" and not after_gap:
                        names = (f"norms.{k}.{part}" for part in ("weight", "bias"))
                        y = np.maximum(normalized(y, *(own[name] for name in names), norm), 0)
                    x = x + y if block.residual else y
                    padding = 0 if block.valid or kind == "c" or after_gap else 1
    return x.reshape(len(x), -1)


@st.composite
def layouts(draw):
    """A line of up to six blocks and a classifier, its maps never smaller than 4 × 4."""
    tokens, channels, side = [], 3, 32
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from("CCDDcPA"))
        if kind in "PA":
            if side >= 8:
                tokens.append(kind)
                side //= 2
            continue
        if draw(st.booleans()):
            repeat = draw(st.sampled_from(["", "*2", "*3"]))
            tokens.append(f"{kind}:{channels}+{repeat}")
            continue
        channels = draw(st.integers(2, 7))
        options = [""]
        if kind != "c" and side >= 6:
            options.append("v")
        if side >= 8:
            options.append("s2")
        option = draw(st.sampled_from(options))
        side = {"": side, "v": side - 2, "s2": (side + 1) // 2}[option]
        tokens.append(f"{kind}:{channels}{option}")
    end = draw(st.sampled_from(["GAP FC", "c GAP", "GAP c", "GAP C:5 FC", "A FC"]))
    return " ".join([*tokens, end])


@settings(max_examples=60)
@given(layouts(), st.sampled_from(["bn", "ln", "in"]), st.integers(0, 2**31))
def test_a_network_of_any_layout_computes_what_the_notation_says(line, norm, seed):
    network = Network(line, norm=norm, seed=seed).double().train()
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "norms" in name:
            parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    network.input_mean.fill_(0.5)
    network.input_std.fill_(0.25)
    images = torch.rand(3, 3, 32, 32, generator=draws, dtype=torch.float64)
    weights = {name: values.detach().numpy() for name, values in network.named_parameters()}
    expected = reference(line, norm, weights, (images.numpy() - 0.5) / 0.25)
    np.testing.assert_allclose(network(images).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_a_normalization_are_those_of_its_output(name, activate):
    torch.manual_seed(3)
    layer = norms.build(name, (4, 3, 2), activate=activate).double()
    names = [name for name, _ in layer.named_parameters()]
    shapes = [parameter.shape for parameter in layer.parameters()]
    parameters = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    x = torch.randn(3, 4, 3, 2, dtype=torch.float64, requires_grad=True)

    def output(x, *parameters):
        return functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *parameters))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
@pytest.mark.parametrize("line", ["C:4s2 P D:4+*2 c:3 A GAP FC", "D:4s2 A C:4v P FC"])
def test_gradients_of_a_network_are_those_of_its_output(line, name):
    torch.manual_seed(5)
    network = Network(line, norm=name, classes=3).double()
    names = [name for name, _ in network.named_parameters()]
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)

    def output(*parameters):
        return functional_call(network, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(output, tuple(network.parameters()), fast_mode=True)
