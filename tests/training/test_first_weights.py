"""First weights: a first update changes a network by nothing but the update."""

import dataclasses

import pytest
import torch
from torch import nn

from normlab import (
    RECIPES,
    Callback,
    Network,
    RunConfig,
    data,
    norms,
    recipes,
    resume,
    train,
)
from normlab.data import Split
from normlab.inference.evaluate import to_input
from normlab.training.setup import data_card, new_network
from normlab.training.step import TrainStep

# Weights before every kind of block, also where no normalization follows, and in residual branches.
EVERY_PLACE = "C:8 c:6 P C:8 C:8+ D:8 c:8+ P C:8+*2 c:8*2 D:8+ c:12 GAP C:8 FC:8 FC"
WITH_MUON = [name for name, recipe in RECIPES.items() if recipe.muon]
INVARIANT = [name for name, entry in norms.REGISTRY.items() if entry.scale_invariant]


@pytest.fixture(scope="module")
def digits():
    """Sixteen of the embedded digits, which one batch holds."""
    whole = data.load("digits")
    few = Split(whole.train.images[:16], whole.train.labels[:16])
    return dataclasses.replace(whole, train=few, test=few)


def first_network(digits, norm, recipe, layout=EVERY_PLACE, seed=0):
    config = RunConfig(network=layout, norm=norm, recipe=recipe, dataset="digits", seed=seed)
    return new_network(config, recipes.resolve(config), data_card(digits, holdout=0))[0]


def answers(network, inputs):
    """The logits, in training: without running averages, which follow every batch."""
    torch.manual_seed(0)  # dropout's draws
    with torch.no_grad():
        return network(inputs)


def moved_by_a_step(network, recipe, digits, rate):
    """How far the answers move with a training step, as a share of their largest value."""
    inputs, labels = to_input(torch.from_numpy(digits.train.images)), digits.train.labels
    train_step = TrainStep(network.train(), recipe, "float32")
    before = answers(network, inputs)
    loss, _ = train_step.step(rate, inputs, torch.from_numpy(labels))
    assert loss > 0
    return ((answers(network, inputs) - before).abs().max() / before.abs().max()).item()


@pytest.mark.parametrize(("recipe", "rate"), [("micro", 0.0), *((r, 1e-9) for r in RECIPES)])
@pytest.mark.parametrize("norm", [*norms.REGISTRY, "gn=1", "evonorm-s0=2"])
def test_an_update_at_a_vanishing_rate_leaves_the_answers_as_they_were(norm, recipe, rate, digits):
    """To rounding; where Muon rescales weights before a normalization, as far as its ε allows."""
    network = first_network(digits, norm, recipe)
    moved = moved_by_a_step(network, RECIPES[recipe], digits, rate)
    assert moved < (1e-3 if norm in INVARIANT or norm == "gn=1" else 1e-5)


@pytest.mark.parametrize("layout", ["C:8 C:8+ c:6 P D:8 C:12/bn GAP FC", "sprint"])
@pytest.mark.parametrize("norm", norms.REGISTRY)
def test_the_second_step_of_a_run_starts_from_the_loss_of_its_first(norm, layout, digits, tmp_path):
    losses = []

    class Watch(Callback):
        def on_step_end(self, state):
            losses.append(state.loss)

    config = RunConfig(
        network=layout,
        norm=norm,
        recipe="sprint",  # one without augmentation: both steps see the same batch
        dataset="digits",
        epochs=2,
        learning_rate=1e-9,
    )
    train(config, tmp_path / "run", dataset=digits, callbacks=[Watch()], quiet=True)
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if norm in INVARIANT else 1e-5)


@pytest.mark.parametrize("recipe", WITH_MUON)
@pytest.mark.parametrize("norm", ["none", "lrn", "evonorm-s0", "sws", "dyt"])
def test_with_muon_a_network_computes_at_first_what_it_computes_without(norm, recipe, digits):
    layout = "C:8 C:8+ P D:12 C:12*2 GAP FC"
    with_muon, without = (first_network(digits, norm, r, layout) for r in (recipe, "demo"))
    inputs = to_input(torch.from_numpy(digits.train.images))
    expected = answers(without, inputs)
    torch.testing.assert_close(answers(with_muon, inputs), expected, rtol=1e-4, atol=1e-5)
    *mixing, _ = (weight for weight in with_muon.weights if weight.shape[1] > 1)
    for weight in mixing:
        assert weight.norm().item() == pytest.approx(len(weight) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("norm", ["none", "lrn", "sws", "dyt"])
@pytest.mark.parametrize(
    "line", ["C:24 c:24 c:24 C:24 c:24 C:24 GAP FC", "C:24 D:24 c:24 D:24 GAP FC"]
)
def test_with_muon_features_start_at_the_scale_of_the_input_without_normalization(
    line, norm, digits
):
    """Also where a layer has no weight that could preserve it but Muon's."""
    x = torch.randn(64, 3, 16, 16)
    for seed in range(3):
        y = x
        for block in first_network(digits, norm, "micro", line, seed).blocks[:-2]:
            y = block(y)
            assert 0.2 < y.square().mean() / x.square().mean() < 5


def plain_weights(digits, norm, layout):
    """PyTorch's first weights: those of a network that no recipe was named for."""
    return Network(layout, norm=norm, classes=len(digits.classes)).state_dict()


def assert_weights_are_pytorchs(digits, norm, recipe, layout):
    first = first_network(digits, norm, recipe, layout).state_dict()
    for name, expected in plain_weights(digits, norm, layout).items():
        if not name.startswith("input_"):
            assert torch.equal(first[name], expected), name


@pytest.mark.parametrize("norm", norms.REGISTRY)
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name not in WITH_MUON])
def test_without_muon_the_first_weights_are_pytorchs(recipe, norm, digits):
    assert_weights_are_pytorchs(digits, norm, recipe, EVERY_PLACE)


@pytest.mark.parametrize("norm", INVARIANT)
@pytest.mark.parametrize("layout", ["micro", "nano", "line", "line-5k", "sprint", "seed-bn"])
def test_first_weights_before_scale_invariant_normalizations_are_pytorchs(layout, norm, digits):
    """So runs repeat bit by bit what they were before."""
    if norm == "ln-full":
        layout = "C:8 C:8+ c:6 P C:8 GAP c"  # in a named network it exceeds the budget
    assert_weights_are_pytorchs(digits, norm, layout if layout in RECIPES else "micro", layout)


@pytest.mark.parametrize("norm", INVARIANT)
def test_the_scale_of_the_input_has_no_effect_where_the_registry_says_so(norm):
    x = torch.randn(16, 12, 5, 6)
    layer = norms.build(norm, (12, 5, 6), activate=True)
    torch.testing.assert_close(layer(4 * x), layer(x), rtol=1e-3, atol=1e-4)


def test_a_custom_normalization_can_make_up_for_the_scale(monkeypatch, digits):
    """One that cannot starts at another function, and its first step keeps that too."""
    monkeypatch.setattr(norms.registry, "REGISTRY", dict(norms.REGISTRY))
    entry = {"formula": "", "paper": "", "axes": "", "parameters": "1"}

    @norms.register("tanh", **entry)
    class Tanh(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.slope = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return (self.slope * x).tanh()

    @norms.register("tanh-undo", **entry)
    class Undoing(Tanh):
        def undo_scale(self, scale):
            self.slope /= scale

    inputs = to_input(torch.from_numpy(digits.train.images))
    for norm, same in (("tanh", False), ("tanh-undo", True)):
        networks = [first_network(digits, norm, r, "C:8 C:8+ GAP FC") for r in ("micro", "demo")]
        with_muon, without = (answers(network, inputs) for network in networks)
        assert torch.allclose(with_muon, without, rtol=1e-4, atol=1e-5) == same
        assert moved_by_a_step(networks[0], RECIPES["micro"], digits, 1e-9) < 1e-5


@pytest.mark.slow(1)
def test_a_run_with_every_normalization_resumes_to_the_same_weights(digits, tmp_path):
    """Also their running averages, from the middle of an epoch."""

    class Stop(Callback):
        def on_step_end(self, state):
            if state.step == 3:
                raise KeyboardInterrupt

    blocks = " ".join(f"C:8/{norm}+ D:8/{norm}" for norm in norms.REGISTRY)
    config = RunConfig(
        network=f"C:8 P {blocks} P GAP FC",
        recipe="demo",
        dataset="digits",
        epochs=2,
        batch_size=4,
        learning_rate=0.01,
    )
    whole = train(config, tmp_path / "whole", dataset=digits, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", dataset=digits, callbacks=[Stop()], quiet=True)
    parts = resume(tmp_path / "parts", dataset=digits, quiet=True)
    expected = whole.network().state_dict()
    for name, values in parts.network().state_dict().items():
        assert torch.equal(values, expected[name]), name


def test_a_run_without_normalization_resumes_to_the_same_weights(digits, tmp_path):
    class Stop(Callback):
        def on_step_end(self, state):
            if state.epoch == 1:
                raise KeyboardInterrupt

    config = RunConfig(
        network="C:8 C:8+ P C:8 GAP FC", norm="none", recipe="sprint", dataset="digits", epochs=3
    )
    whole = train(config, tmp_path / "whole", dataset=digits, quiet=True)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", dataset=digits, callbacks=[Stop()], quiet=True)
    parts = resume(tmp_path / "parts", dataset=digits, quiet=True)
    for name, weight in whole.network().state_dict().items():
        assert torch.equal(weight, parts.network().state_dict()[name]), name
