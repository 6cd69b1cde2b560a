"""Networks of any layout, compared with plain sums in float64; gradients with differences."""

from math import gcd

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from formulas import FORMULAS, normalized, standardized_filters
from normlab import notation
from normlab.layers import norms
from normlab.network.model import Network
from random_networks import ENDS, layouts

# Batch renormalization treats its corrections as constants (Ioffe 2017, algorithm 1), so its
# gradient is not that of its output.
DIFFERENTIABLE = sorted(set(norms.REGISTRY) - {"brn"})

GROUPED = [name for name, entry in norms.REGISTRY.items() if entry.divides]


def convolved(x, weight, *, stride, padding):
    side = weight.shape[2]
    x = torch.nn.functional.pad(x, (padding,) * 4)
    windows = x.unfold(2, side, stride).unfold(3, side, stride)
    if weight.shape[1] == 1 and x.shape[1] > 1:
        return torch.einsum("nchwij,cij->nchw", windows, weight[:, 0])
    return torch.einsum("nchwij,ocij->nohw", windows, weight)


def cells(x):
    """Cells of four pixels; an odd last row or column is ignored."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)


def reference(line, norm, parameters, images):
    """What a layout computes, block by block, as docs/notation.md defines it."""
    x, after_gap = images, False
    for index, block in enumerate(notation.parse(line)):
        own = {
            name.removeprefix(f"blocks.{index}."): values
            for name, values in parameters.items()
            if name.startswith(f"blocks.{index}.")
        }

        def norm_of(y, place, *, activate, own=own, name=block.norm or norm):
            p = {k.rpartition(".")[2]: v for k, v in own.items() if k.startswith(f"{place}.")}
            return normalized(name, y, p, activate=activate)

        match block.kind:
            case "P":
                x = cells(x).max(-1).values
            case "A":
                x = cells(x).mean(-1)
            case "GAP":
                x, after_gap = x.mean((2, 3), keepdim=True), True
            case "FC":
                flat = x.flatten(1)
                x = (flat @ own["linear.weight"].T + own["linear.bias"])[:, :, None, None]
            case kind:
                bare = kind == "c" or after_gap
                mixing = own["conv.weight"]
                name = (block.norm or norm).partition("=")[0]
                if not bare and name in ("gn-ws", "sws"):
                    mixing = standardized_filters(mixing, name)
                for k in range(block.repeat):
                    y, stride, padding = x, block.stride, 0 if block.valid or bare else 1
                    if kind == "D":
                        y = convolved(y, own["depthwise.weight"], stride=stride, padding=padding)
                        y = norm_of(y, f"depthwise_norms.{k}", activate=False)
                        stride, padding = 1, 0
                    y = convolved(y, mixing, stride=stride, padding=padding)
                    if not bare:
                        y = norm_of(y, f"norms.{k}", activate=True)
                        if block.residual and name in ("none", "lrn", "sws"):
                            y = y * own["branch_scales"][k]
                    x = x + y if block.residual else y
    return x.flatten(1)


def norms_of(inputs, channels):
    """The normalizations of a block."""
    numbered = [f"{name}={gcd(inputs, channels)}" for name in GROUPED]
    return [*FORMULAS, "ghost-bn=2", *numbered]


LAYOUTS = layouts(norms_of, ends=(*ENDS, "GAP c"))


@settings(max_examples=60)
@given(LAYOUTS, st.sampled_from([*FORMULAS]), st.integers(0, 2**31))
def test_any_network_and_its_gradients_agree_with_the_notation(line, norm, seed):
    network = Network(line, norm=norm, seed=seed).double().train()
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "norms" in name or "branch_scales" in name:
            parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    network.input_mean.fill_(0.5)
    network.input_std.fill_(0.25)
    images = torch.rand(3, 3, 32, 32, generator=draws, dtype=torch.float64)
    upstream = torch.randn(3, 10, generator=draws, dtype=torch.float64)
    parameters = dict(network.named_parameters())
    results = []
    for logits in (network(images), reference(line, norm, parameters, (images - 0.5) / 0.25)):
        gradients = torch.autograd.grad((logits * upstream).sum(), [*parameters.values()])
        results.append({"logits": logits} | dict(zip(parameters, gradients, strict=True)))
    got, expected = results
    for name, values in expected.items():
        error = (got[name] - values).abs().max()
        assert error <= 1e-9 * (1 + values.abs().max()), name


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_a_normalization_agree_with_differences(name, activate):
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
@pytest.mark.parametrize("line", ["C:4s2 P D:4+*2 c:3 A GAP FC", "D:4vs2/gn=1 A C:4v P FC"])
def test_gradients_of_a_network_agree_with_differences(line, name):
    torch.manual_seed(5)
    network = Network(line, norm=name, classes=3).double()
    names = [name for name, _ in network.named_parameters()]
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)

    def output(*parameters):
        return functional_call(network, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(output, tuple(network.parameters()), fast_mode=True)
