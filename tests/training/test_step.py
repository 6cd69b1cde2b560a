"""A training step compared with its formulas."""

import math

import pytest
import torch
from torch import nn

from normlab.layers import norms
from normlab.network.model import Network
from normlab.recipes import Recipe
from normlab.training.step import TrainStep

LAYOUT = "C:6 C:6+ P D:8 GAP FC"


def recipe(**own):
    plain = {"epochs": 4, "batch_size": 16, "learning_rate": 0.1, "schedule": "step"}
    return Recipe(**{**plain, **own})


def descend(network, precision="float32", **own):
    return TrainStep(network, recipe(**own), precision)


def network(norm="bn", layout=LAYOUT, **own):
    return Network(layout, norm=norm, seed=1, **own).to(memory_format=torch.channels_last)


def batch(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (count,), generator=generator)
    return inputs.contiguous(memory_format=torch.channels_last), labels


def weights_that_decay(net):
    """Names of the weights of convolutions and of `FC`."""
    return {
        f"{name}.weight"
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def state(net):
    return {name: parameter.detach().clone() for name, parameter in net.named_parameters()}


def smoothed_cross_entropy(logits, labels, share):
    """Szegedy et al. 2016, section 7: the target's share 1 − share, the rest spread over all."""
    log_p = logits.double().log_softmax(1)
    picked = log_p[torch.arange(len(labels)), labels]
    return -((1 - share) * picked + share * log_p.mean(1)).mean()


@pytest.mark.parametrize("norm", ["bn", "rms", "none", "ln-full"])
def test_weights_of_convolutions_and_of_fc_decay_and_nothing_else(norm):
    rate, decay = 0.1, 0.5
    after = []
    for weight_decay in (0.0, decay):
        net = network(norm)
        before = state(net)
        descend(net, weight_decay=weight_decay).step(rate, *batch())
        after.append(state(net))
    decaying = weights_that_decay(net)
    assert {len(before[name].shape) for name in decaying} == {2, 4}
    assert len(decaying) == 5  # two convolutions, a depthwise one and its pointwise one, and FC
    for name, start in before.items():
        taken_off = after[0][name] - after[1][name]
        if name in decaying:
            torch.testing.assert_close(taken_off, rate * decay * start, rtol=1e-4, atol=1e-6)
        else:
            assert torch.equal(after[0][name], after[1][name]), name


@pytest.mark.parametrize("share", [0.0, 0.1, 0.35])
def test_label_smoothing_matches_the_formula(share):
    net, (inputs, labels) = network(), batch()
    with torch.no_grad():
        logits = net(inputs)
    expected = smoothed_cross_entropy(logits, labels, share)
    loss, right = descend(net, label_smoothing=share).step(0.1, inputs, labels)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert right == sum(row.argmax() == label for row, label in zip(logits, labels, strict=True))


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_sgd_with_momentum_by_hand(nesterov):
    """Sutskever et al. 2013 in PyTorch's form: v ← μ v + g, w ← w − rate (g + μ v), or rate v."""
    momentum, decay, share = 0.8, 0.02, 0.1
    net = network("gn")
    own = {"momentum": momentum, "weight_decay": decay, "label_smoothing": share}
    descent = descend(net, nesterov=nesterov, **own)
    twin = network("gn")
    velocity = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for count, rate in enumerate((0.1, 0.03, 0.2)):
        inputs, labels = batch(seed=count)
        descent.step(rate, inputs, labels)
        parameters = dict(twin.named_parameters())
        loss = smoothed_cross_entropy(twin(inputs), labels, share)
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        with torch.no_grad():
            for (name, p), g in zip(parameters.items(), gradients, strict=True):
                if name in weights_that_decay(twin):
                    g = g + decay * p
                velocity[name] = momentum * velocity[name] + g
                p -= rate * (g + momentum * velocity[name] if nesterov else velocity[name])
        for name, p in net.named_parameters():
            torch.testing.assert_close(p, parameters[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["bn", "gn", "none"])
@pytest.mark.parametrize("muon", [0.0, 0.1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_leaves_the_weights_as_they_were(value, muon, norm, precision):
    net, (inputs, labels) = network(norm), batch()
    descent = descend(net, precision, weight_decay=0.1, nesterov=True, muon=muon)
    descent.step(0.1, inputs, labels)
    before = state(net)
    spoilt = inputs.clone()
    spoilt[3, 1, 5, 5] = value
    loss, _ = descent.step(0.1, spoilt, labels)
    assert not math.isfinite(loss)
    assert all(torch.equal(start, state(net)[name]) for name, start in before.items())


def types_inside(net, precision):
    """The loss of a step, and the output types of convolutions, normalizations and `FC`."""
    types = {}
    for name, module in net.named_modules():
        if not list(module.children()) or ".norms." in name:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: types.__setitem__(name, output.dtype)
            )
    loss, _ = descend(net, precision, nesterov=True).step(0.05, *batch())
    return loss, types


@pytest.mark.parametrize("norm", [*norms.REGISTRY, "gn=2"])
def test_bfloat16_is_for_activations_and_float32_for_weights(norm):
    losses = []
    for precision, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        net = network(norm)
        loss, types = types_inside(net, precision)
        fused = norm.partition("=")[0] in ("bn", "gn", "ln", "in", "rms")
        inside = {
            name: of
            for name, of in types.items()
            if fused or "conv" in name or "linear" in name or name.endswith("depthwise")
        }
        assert len(inside) >= 5
        assert set(inside.values()) == {dtype}, inside
        for name, parameter in net.named_parameters():
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name
            assert parameter.isfinite().all()
        losses.append(loss)
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("norm", ["bn", "ln", "rms"])
def test_steps_on_one_batch_bring_its_loss_down(norm, precision):
    net, (inputs, labels) = network(norm, dropout=0.01), batch()
    descent = descend(net, precision, nesterov=True)
    losses = [descent.step(0.1, inputs, labels)[0] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_network_without_normalizations_can_be_trained():
    """One linear convolution: all its parameters decay."""
    net = network(layout="c GAP")
    before = state(net)
    descend(net, weight_decay=0.1).step(0.1, *batch())
    assert weights_that_decay(net) == set(before)
    assert not any(torch.equal(start, state(net)[name]) for name, start in before.items())


def test_matrices_in_a_custom_normalization_do_not_decay(monkeypatch):
    monkeypatch.setattr(norms.registry, "REGISTRY", dict(norms.REGISTRY))

    @norms.register("mixed", formula="", paper="", axes="", parameters="")
    class Mixed(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.linear = nn.Linear(shape[0], shape[0])

        def forward(self, x):
            return self.linear(x.movedim(1, 3)).movedim(3, 1)

    after = []
    for weight_decay in (0.0, 0.5):
        net = network("mixed")
        descend(net, weight_decay=weight_decay).step(0.1, *batch())
        after.append(state(net))
    for name, plain in after[0].items():
        if ".norms." in name:
            assert torch.equal(plain, after[1][name]), name
