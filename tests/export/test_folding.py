"""Normalizations that are one affine map per channel in eval mode, and how they are folded."""

import pytest
import torch
from torch import nn

import normlab
from normlab.export.folding import InferenceModel
from normlab.layers import norms
from normlab.layers.fused import ChannelAffine
from normlab.layers.norms import registry
from normlab.network.model import Network

SHAPE = (6, 4, 5)
AFFINE = ("none", "bn", "ghost-bn", "brn", "sync-bn", "ebn", "sws")
PIXELS = torch.randint(
    256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)


def core(layer):
    """A normalization without the activation and dropout that may follow it."""
    return layer[0] if isinstance(layer, nn.Sequential) else layer


def trained(module):
    """With random parameters and running statistics, in eval mode."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=draws) + 0.5)
    return module.eval()


@pytest.mark.parametrize("activate", [False, True])
@pytest.mark.parametrize("name", AFFINE)
def test_as_affine_is_what_the_layer_computes_in_eval_mode(name, activate):
    layer = core(trained(norms.build(name, SHAPE, activate=activate)))
    weight, bias, followed_by = layer.as_affine()
    x = torch.randn(3, *SHAPE)
    expected = x * weight[:, None, None] + bias[:, None, None]
    if followed_by:
        expected = followed_by(expected)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", sorted(set(norms.REGISTRY) - set(AFFINE)))
def test_the_others_are_not_affine(name):
    layer = core(norms.build(name, SHAPE, activate=True))
    assert not hasattr(layer, "as_affine") or layer.as_affine() is None


def agrees(network):
    """Whether the folded network computes what the network does."""
    expected = network.eval()(PIXELS / 255).softmax(1)
    return torch.allclose(InferenceModel(network)(PIXELS), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", AFFINE)
def test_a_derived_class_that_computes_something_else_is_not_folded(name):
    network = trained(Network("C:8 D:8 C:8*2 P P FC", norm=name))
    assert agrees(network)
    for module in list(network.modules()):
        if "as_affine" in vars(type(module)):
            kind = type(module)

            class Derived(kind):
                def forward(self, x, *rest, kind=kind):
                    return kind.forward(self, x, *rest) - 0.5 * x

            module.__class__ = Derived
    assert agrees(network)
    assert any(type(module).__name__ == "Derived" for module in InferenceModel(network).modules())


def test_a_registered_layer_with_as_affine_is_folded(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @normlab.register("double", formula="2 x", paper="", axes="none", parameters="0")
    class Double(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.channels = shape[0]

        def forward(self, x):
            return 2 * x

        def as_affine(self):
            return ChannelAffine(torch.full((self.channels,), 2.0), torch.zeros(self.channels))

    network = Network("C:8 D:8+ P P FC", norm="double")
    assert agrees(network)
    assert not any(isinstance(module, Double) for module in InferenceModel(network).modules())
