"""Each normalization, compared with PyTorch's own layer or with its formula in float64."""

import re
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from formulas import (
    ACTIVATED,
    EPSILON,
    FORMULAS,
    affine,
    normalized,
    parameters,
    per_channel,
    standardized_filters,
)
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import registry
from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.training.recalibration import recalibrate

SHAPE = (12, 5, 6)
NAMES = [*FORMULAS, "ghost-bn=3", "gn=3", "evonorm-s0=3", "proxy-gn=3"]

FIRST_WEIGHTS = {"none", "sws", "dyt"}  # those whose first weights depend on the activation


def with_random_parameters(layer):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


def test_every_normalization_has_a_reference():
    assert set(norms.REGISTRY) == set(FORMULAS)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("name", "activate"),
    [
        *((name, False) for name in NAMES),
        *((name, True) for name in NAMES if name.partition("=")[0] in ACTIVATED),
    ],
)
def test_forward_and_backward_match_the_formula_in_float64(name, activate, memory_format):
    layer = with_random_parameters(norms.build(name, SHAPE, activate=activate))
    x = (3 * torch.randn(7, *SHAPE) + 2).to(memory_format=memory_format).requires_grad_()
    upstream = torch.randn(7, *SHAPE)
    output = layer(x)
    (output * upstream).sum().backward()

    x64 = x.detach().double().requires_grad_()
    p64 = {k: v.detach().double().requires_grad_() for k, v in parameters(layer).items()}
    expected = normalized(name, x64, p64, activate=activate)
    (expected * upstream.double()).sum().backward()

    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-4)
    for key, parameter in parameters(layer).items():
        torch.testing.assert_close(parameter.grad.double(), p64[key].grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "pytorch"),
    [
        ("bn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("brn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("sync-bn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("ghost-bn", lambda x: F.batch_norm(x, None, None, training=True)),
        ("none", lambda x: 3**0.5 * x),
        (
            "lrn",
            lambda x: F.local_response_norm(3**0.5 * 2**0.75 * x, 5, alpha=5e-4, beta=0.75, k=2),
        ),
        ("sws", lambda x: 3**0.5 * x),
        ("dyt", lambda x: 2 * 3**0.5 * torch.tanh(x / 2)),
        ("gn=6", lambda x: F.group_norm(x, 6)),
        ("proxy-gn=6", lambda x: F.group_norm(x, 6)),
        ("proxy-ln", lambda x: F.group_norm(x, 1)),
        ("ln", lambda x: F.group_norm(x, 1)),
        ("ln-full", lambda x: F.layer_norm(x, SHAPE)),
        ("ln-channel", lambda x: F.layer_norm(x.movedim(1, -1), SHAPE[:1]).movedim(-1, 1)),
        ("in", lambda x: F.instance_norm(x)),
        ("rms", lambda x: F.rms_norm(x, SHAPE, eps=EPSILON)),
    ],
)
def test_with_its_first_weights_it_equals_pytorchs_layer(name, pytorch):
    x = torch.randn(4, *SHAPE)
    torch.testing.assert_close(norms.build(name, SHAPE, activate=False)(x), pytorch(x))


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - set(ACTIVATED) - FIRST_WEIGHTS))
def test_a_relu_follows_if_requested(name):
    x = torch.randn(4, *SHAPE)
    plain = norms.build(name, SHAPE, activate=False)(x)
    torch.testing.assert_close(norms.build(name, SHAPE, activate=True)(x), plain.clamp(min=0))


@pytest.mark.parametrize("name", NAMES)
def test_the_documented_number_of_parameters_is_correct(name):
    formula = norms.find(name)[0].parameters.replace("·", "*")
    c, h, w = SHAPE
    expected = eval(formula, {"C": c, "H": h, "W": w})
    layer = norms.build(name, SHAPE, activate=True)
    assert sum(p.numel() for p in layer.parameters()) == expected


def test_every_entry_is_documented():
    for entry in norms.REGISTRY.values():
        assert entry.formula
        assert entry.axes
        assert entry.paper


def test_batch_norm_uses_running_statistics_in_eval_mode():
    layer = norms.build("bn", SHAPE, activate=False)
    x = 3 * torch.randn(64, *SHAPE) + 2
    for _ in range(200):
        layer(x)
    values = x.double().movedim(1, 0).flatten(1)
    expected = (x.double() - per_channel(values.mean(1))) / torch.sqrt(
        per_channel(values.var(1)) + EPSILON
    )
    torch.testing.assert_close(layer.eval()(x).double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["brn", "sync-bn", "ghost-bn=64"])
def test_its_variants_use_running_statistics_in_eval_mode(name):
    layer = norms.build(name, SHAPE, activate=False)
    x = 3 * torch.randn(64, *SHAPE) + 2
    for _ in range(1500):
        layer(x)
    expected = norms.build("bn", SHAPE, activate=False)(x)
    torch.testing.assert_close(layer.eval()(x), expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("steps", "r_max", "d_max"),
    [(250, 1, 0), (750, 1 + 2 * 500 / 1750, 2.5), (1250, 1 + 2 * 1000 / 1750, 5), (9999, 3, 5)],
)
def test_batch_renormalization_corrects_within_its_limits(steps, r_max, d_max):
    """Ioffe's algorithm 1 in float64."""
    layer = with_random_parameters(norms.build("brn", SHAPE, activate=False))
    generator = torch.Generator().manual_seed(2)
    running_mean = 4 * torch.randn(12, generator=generator)
    running_std = torch.rand(12, generator=generator) * 5 + 0.1
    layer.running_mean.copy_(running_mean)
    layer.running_std.copy_(running_std)
    layer.steps.fill_(steps)
    x = (3 * torch.randn(7, *SHAPE) + 2).requires_grad_()
    upstream = torch.randn(7, *SHAPE)
    output = layer(x)
    (output * upstream).sum().backward()

    x64 = x.detach().double().requires_grad_()
    mean, std = x64.mean((0, 2, 3)), (x64.var((0, 2, 3), correction=0) + EPSILON).sqrt()
    before_mean, before_std = running_mean.double(), running_std.double()
    r = (std.detach() / before_std).clamp(1 / r_max, r_max)
    d = ((mean.detach() - before_mean) / before_std).clamp(-d_max, d_max)
    normalized = (x64 - per_channel(mean)) / per_channel(std) * per_channel(r) + per_channel(d)
    expected = affine(normalized, {k: v.detach().double() for k, v in layer.named_parameters()})
    (expected * upstream.double()).sum().backward()
    torch.testing.assert_close(output.double(), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-4)
    moved = before_mean + 0.01 * (mean.detach() - before_mean)
    torch.testing.assert_close(layer.running_mean.double(), moved, atol=1e-6, rtol=1e-5)
    moved = before_std + 0.01 * (std.detach() - before_std)
    torch.testing.assert_close(layer.running_std.double(), moved, atol=1e-6, rtol=1e-5)
    assert layer.steps == steps + 1


def test_batch_renormalization_counts_its_steps():
    layer = norms.build("brn", SHAPE, activate=False)
    assert layer.steps == 0
    layer(torch.randn(2, *SHAPE))
    layer.eval()(torch.randn(2, *SHAPE))
    assert layer.steps == 1


def test_with_one_process_sync_bn_is_batch_norm():
    ours, pytorch = norms.build("sync-bn", (4, 1, 1), activate=False), nn.BatchNorm2d(4)
    for _ in range(3):
        x = 3 * torch.randn(2, 4, 1, 1) + 2
        torch.testing.assert_close(ours(x), pytorch(x))
    torch.testing.assert_close(ours.running_mean, pytorch.running_mean)
    torch.testing.assert_close(ours.running_var, pytorch.running_var)
    torch.testing.assert_close(ours.eval()(x), pytorch.eval()(x))


def test_ghost_batches_have_32_images_by_default():
    x = torch.randn(33, *SHAPE)
    ghosts = norms.build("ghost-bn", SHAPE, activate=False)(x)
    torch.testing.assert_close(ghosts, norms.build("ghost-bn=32", SHAPE, activate=False)(x))


@given(count=st.integers(2, 12), size=st.integers(2, 6))
def test_ghost_batches_equal_pytorchs_layer_on_each_part_in_turn(count, size):
    ours = with_random_parameters(norms.build(f"ghost-bn={size}", SHAPE, activate=False))
    pytorch = nn.BatchNorm2d(SHAPE[0]).double()
    pytorch.load_state_dict(
        {name.removeprefix("norm."): t for name, t in ours.state_dict().items()}
        | {"num_batches_tracked": torch.tensor(0)}
    )
    x = torch.randn(count, *SHAPE, requires_grad=True)
    reference = x.detach().double().requires_grad_()
    upstream = torch.randn(count, *SHAPE)
    y = ours(x)
    expected = torch.cat([pytorch(part) for part in reference.split(size)])
    torch.testing.assert_close(y, expected.float())
    y.backward(upstream)
    expected.backward(upstream.double())
    torch.testing.assert_close(x.grad, reference.grad.float(), rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(
            getattr(ours.norm, name).grad, getattr(pytorch, name).grad.float(), rtol=1e-4, atol=1e-4
        )
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours.norm, name), getattr(pytorch, name).float())


@pytest.mark.parametrize("name", ["bn", "ghost-bn", "brn", "sync-bn", "ebn", "evonorm-b0"])
def test_one_value_per_channel_is_refused_in_training(name):
    layer = norms.build(name, (4, 1, 1), activate=False)
    with pytest.raises(ValueError, match=r"^Expected more than 1 value per channel when training"):
        layer(torch.randn(1, 4, 1, 1))
    assert layer(torch.randn(2, 4, 1, 1)).isfinite().all()
    assert layer.eval()(torch.randn(1, 4, 1, 1)).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_dropout_acts_only_in_training(name):
    layer = norms.build(name, SHAPE, activate=True, dropout=0.5)
    plain = norms.build(name, SHAPE, activate=True)
    x = torch.randn(8, *SHAPE)
    torch.testing.assert_close(layer.eval()(x), plain.eval()(x))
    dropped, kept = layer.train()(x), plain.train()(x)
    assert 0.4 < (dropped[kept != 0] == 0).float().mean() < 0.6
    left = dropped != 0
    torch.testing.assert_close(dropped[left], 2 * kept[left])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_the_output_of_bfloat16_is_bfloat16(name, training):
    """It is rounded once; without normalization, also before the bias is added."""
    x = (3 * torch.randn(7, *SHAPE) + 2).bfloat16()
    outputs = [
        norms.build(name, SHAPE, activate=True).train(training)(images) for images in (x, x.float())
    ]
    assert outputs[0].dtype == torch.bfloat16
    rounding = 2**-6 if name in ("none", "lrn", "sws") else 2**-8
    torch.testing.assert_close(outputs[0].float(), outputs[1], rtol=rounding, atol=1e-5)


def test_without_normalization_the_first_weights_keep_the_scale():
    """From one ReLU's output to the next one's, through PyTorch's first convolution."""
    torch.manual_seed(0)
    x = torch.randn(8, 512, 1, 1).relu()
    y = norms.build("none", (4096, 1, 1), activate=True)(nn.Conv2d(512, 4096, 1, bias=False)(x))
    assert y.square().mean().item() == pytest.approx(x.square().mean().item(), rel=0.08)


@pytest.mark.parametrize("channels", [8, 2])
def test_weight_standardization_applies_to_convolutions_that_mix_channels(channels):
    network = Network(f"C:{channels} D:12 GAP FC", norm="gn-ws")
    first, second = network.blocks[:2]
    x = torch.randn(2, channels, 6, 6)
    plain = F.conv2d(x, second.depthwise.weight, None, 1, 1, 1, channels)
    assert torch.equal(second.depthwise(x), plain)
    x = torch.randn(2, 3, 6, 6)
    weight = standardized_filters(first.conv.weight.detach().double())
    expected = F.conv2d(x.double(), weight, padding=1)
    torch.testing.assert_close(first.conv(x).double(), expected, atol=1e-4, rtol=1e-4)
    # Scaling or shifting a filter changes nothing.
    before = first.conv(x)
    with torch.no_grad():
        first.conv.weight.mul_(3).add_(0.2)
    torch.testing.assert_close(first.conv(x), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [8, 2])
def test_scaled_weight_standardization_keeps_the_norm_of_filters_at_1(channels):
    """Those of convolutions that mix channels. The features' statistics are not used."""
    network = Network(f"C:{channels} D:12 GAP FC", norm="sws")
    first, second = network.blocks[:2]
    x = torch.randn(2, channels, 6, 6)
    plain = F.conv2d(x, second.depthwise.weight, None, 1, 1, 1, channels)
    assert torch.equal(second.depthwise(x), plain)
    for conv in (first.conv, second.conv):
        filters = standardized_filters(conv.weight.detach().double(), "sws").flatten(1)
        norms_of = filters.norm(dim=1)  # below 1 where the variance is hardly above ε
        torch.testing.assert_close(norms_of, torch.ones_like(norms_of), rtol=0.01, atol=0.0)
        torch.testing.assert_close(filters.mean(1), 0 * filters[:, 0])
        x = torch.randn(2, conv.in_channels, 6, 6)
        expected = F.conv2d(x.double(), filters.view_as(conv.weight), padding=conv.padding)
        torch.testing.assert_close(conv(x).double(), expected, atol=1e-3, rtol=1e-3)
        before = conv(x)
        with torch.no_grad():
            conv.weight.mul_(3).add_(0.2)
        torch.testing.assert_close(conv(x), before, atol=1e-2, rtol=1e-2)


def test_after_standardized_filters_the_gain_keeps_the_variance_of_a_relu():
    """Brock et al.: the activation times 1.714 has the variance of its normal input, 1."""
    layer = norms.build("sws", (3, 1, 1), activate=True)
    exact = (2 / (1 - 1 / torch.pi)) ** 0.5
    assert layer.weight.tolist() == pytest.approx([exact] * 3, rel=2e-3)
    assert layer(torch.randn(300_000, 3, 1, 1)).var().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("name", ["ebn", "evonorm-b0"])
def test_in_eval_mode_batch_variances_are_running_averages(name):
    """They change with no batch and no neighbour in it; the variance is the unbiased one."""
    layer = with_random_parameters(norms.build(name, SHAPE, activate=True))
    x = 3 * torch.randn(64, *SHAPE) + 2
    for _ in range(200):
        layer(x)
    kept = {key: values.clone() for key, values in layer.state_dict().items()}
    trained = layer(x[:9])
    layer.load_state_dict(kept)
    used = layer.eval()(x)
    assert not torch.allclose(trained, used[:9], atol=1e-3)
    torch.testing.assert_close(layer(x[:1]), used[:1], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(values, kept[key]) for key, values in layer.state_dict().items())
    p = {key: values.detach().double() for key, values in parameters(layer).items()}
    expected = normalized(name, x.double(), p, activate=True)
    torch.testing.assert_close(used.double(), expected, atol=1e-2, rtol=1e-3)
    values = x.double().movedim(1, 0).flatten(1)
    variance = values.var(1).mean().reshape(1) if name == "ebn" else values.var(1)
    running = dict(layer.named_buffers())
    (place,) = (key for key in running if key.endswith("running_var"))
    torch.testing.assert_close(running[place].double(), variance, atol=1e-4, rtol=1e-4)


def test_the_running_average_of_a_batch_starts_at_its_tenth():
    for name in ("ebn", "evonorm-b0"):
        layer = norms.build(name, SHAPE, activate=False)
        x = 2 * torch.randn(5, *SHAPE)
        layer(x)
        values = x.movedim(1, 0).flatten(1)
        variance = values.var(1).mean().reshape(1) if name == "ebn" else values.var(1)
        torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * variance)


def test_extended_batch_norm_divides_all_channels_by_one_deviation():
    """So their relative scales stay, but for the weights; bn would remove them."""
    scales = torch.arange(1.0, 13)[:, None, None]
    x = scales * torch.randn(50, *SHAPE)
    y = norms.build("ebn", SHAPE, activate=False)(x)
    deviations = y.std((0, 2, 3)) / scales.flatten()
    torch.testing.assert_close(deviations, deviations.mean().expand(12), rtol=0.1, atol=0.0)
    assert y.square().mean().item() == pytest.approx(1, rel=1e-3)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(12), atol=1e-5, rtol=0.0)


def test_evonorm_b0_without_an_activation_is_affine_in_eval_mode():
    layer = with_random_parameters(norms.build("evonorm-b0", SHAPE, activate=False)).eval()
    layer.running_var.uniform_(0.5, 2.0)
    weight, bias, activation = layer.as_affine()
    x = torch.randn(3, *SHAPE)
    torch.testing.assert_close(layer(x), x * weight[:, None, None] + bias[:, None, None])
    assert activation is None


@pytest.mark.parametrize("name", ["proxy-gn", "proxy-ln"])
def test_proxy_normalization_brings_activations_near_mean_0_and_variance_1(name):
    """Channel by channel, without measuring them, where the features are normal."""
    layer = norms.build(name, (8, 16, 16), activate=True)
    with torch.no_grad():
        layer.norm.weight.uniform_(0.2, 1.5)
        layer.norm.bias.uniform_(0.2, 1.5)
    y = layer(torch.randn(64, 8, 16, 16))
    means = y.mean((0, 2, 3))
    assert means.abs().max() < 0.05
    assert (y.var((0, 2, 3)) - 1).abs().max() < 0.4  # the 0.03 matters where the weight is small
    plain = norms.build(name.removeprefix("proxy-"), (8, 16, 16), activate=True)
    assert plain(torch.randn(64, 8, 16, 16)).mean((0, 2, 3)).min() > 0.3


@pytest.mark.parametrize("norm", ["none", "lrn", "sws", "dyt"])
@pytest.mark.parametrize("line", ["C:16 C:16 C:16 C:16 C:16 GAP FC", "C:16 D:16 D:16 D:16 GAP FC"])
def test_without_normalization_features_start_at_the_scale_of_the_input(line, norm):
    """As in He et al.: the second moment neither vanishes nor explodes with depth."""
    x = torch.randn(64, 3, 16, 16)
    for seed in range(3):
        network = Network(line, norm=norm, seed=seed)
        y = x
        for block in network.blocks[:-2]:
            y = block(y)
            lowest = 0.1 if norm == "dyt" else 0.2  # the tanh takes a little at each layer
            assert lowest < y.square().mean() / x.square().mean() < 5


@pytest.mark.parametrize("norm", ["none", "lrn", "sws"])
def test_without_normalization_residual_branches_start_at_zero(norm):
    """Their scales, one for each application, learn first."""
    network = Network("C:16 C:16+ D:16+*2 C:16*2 GAP C:16+ C", norm=norm)
    once, twice = network.blocks[1:3]
    x = torch.randn(4, 16, 8, 8)
    assert torch.equal(once(x), x)
    assert torch.equal(twice(x), x)
    scales = [getattr(block, "branch_scales", None) for block in network.blocks]
    assert [None if s is None else s.numel() for s in scales] == [None, 1, 2, *[None] * 4]

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    learning = []
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(network(images), torch.arange(4)).backward()
        optimizer.step()
        learning.append({name for name, p in network.named_parameters() if p.grad.any()})
    first, second = learning
    assert {"blocks.1.branch_scales", "blocks.2.branch_scales"} <= first
    assert not {"blocks.1.conv.weight", "blocks.2.depthwise.weight"} & first
    assert {name for name, _ in network.named_parameters()} == second


def test_each_application_of_a_residual_branch_has_its_scale():
    block = Network("C:4 C:4+*2 GAP FC", norm="none").blocks[1]
    block.branch_scales.data = torch.tensor([0.5, -2.0])
    x = torch.randn(2, 4, 5, 5)
    for bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            expected = x.bfloat16() if bfloat16 else x
            output = block(expected)
            for norm, scale in zip(block.norms, (0.5, -2.0), strict=True):
                expected = expected + scale * norm(block.conv(expected))
        assert output.dtype == expected.dtype
        torch.testing.assert_close(output, expected)


def test_a_custom_normalization_can_request_branch_scales(monkeypatch):
    """Then the fused pass must not add the block's input itself."""
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    entry = {"formula": "gn", "paper": "ours", "axes": "", "parameters": "2·C", "activates": True}

    @norms.register("gentle", skip_init=True, **entry)
    def gentle(shape, *, activate, dropout):
        return norms.build("gn", shape, activate=activate, dropout=dropout)

    @norms.register("plain", **entry)
    def plain(shape, *, activate, dropout):
        return norms.build("gn", shape, activate=activate, dropout=dropout)

    network = Network("C:4 C:4/gentle+ C:4/plain+ GAP FC")
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(network.blocks[1](x), x)
    assert not torch.equal(network.blocks[2](x), x)
    assert network.blocks[2].branch_scales is None
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert network.blocks[1].branch_scales.grad.any()


def test_branch_scales_count_as_parameters():
    """The block's own normalization decides, or else the network's."""
    line = "C:8 C:8+ C:8+*3 C:8/bn+ D:8/none+*2 C:8 GAP FC"
    scaled, plain = (summarize(line, norm=norm).rows for norm in ("lrn", "bn"))
    more = [a.parameters - b.parameters for a, b in zip(scaled, plain, strict=True)]
    assert more == [0, 1, 3, 0, 0, 0, 0, 0]
    bare = summarize("C:8 D:8/bn+*2 GAP FC").parameters
    assert summarize("C:8 D:8/none+*2 GAP FC").parameters == bare + 2


@pytest.mark.parametrize("name", norms.REGISTRY)
def test_every_normalization_learns(name):
    """A few steps on a batch lower its loss, in float32 and in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (16,), generator=generator)
    for bfloat16 in (False, True):
        network = Network("C:8 P D:12 P C:12+ GAP FC", norm=name).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
        losses = []
        for _ in range(15):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = F.cross_entropy(network(x).float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.05, losses


@given(st.integers(1, 300))
def test_groups_default_to_the_largest_divisor_up_to_4(channels):
    groups = norms.default_groups(channels)
    assert channels % groups == 0
    assert groups == max(g for g in (1, 2, 3, 4) if channels % g == 0)


@pytest.mark.parametrize(
    ("name", "shape", "problem"),
    [
        ("gn=5", SHAPE, "5 groups do not divide 12 channels"),
        ("gn-ws=5", SHAPE, "5 groups do not divide 12 channels"),
        ("evonorm-s0=5", SHAPE, "evonorm-s0=5: 5 groups do not divide 12 channels"),
        ("ghost-bn=0", SHAPE, "must be a whole number above 0"),
        ("proxy-gn=5", SHAPE, "proxy-gn=5: 5 groups do not divide 12 channels"),
        ("proxy-gn=4", (4, 1, 1), "proxy-gn=4 over one value is constant"),
        ("dyt=2", SHAPE, "dyt takes no number"),
        ("frn", (8, 1, 1), "frn over a 1 × 1 map"),
        ("evonorm-s0=4", (4, 1, 1), "evonorm-s0=4 over one value is constant"),
        ("gm", SHAPE, "no normalization 'gm': did you mean gn?"),
        ("BN", SHAPE, "no normalization 'BN': did you mean bn?"),
        ("LayerNorm", SHAPE, "no normalization 'LayerNorm': did you mean ln?"),
        ("xyzzy", SHAPE, "no normalization 'xyzzy': Use one of none, lrn, bn"),
        ("bn=3", SHAPE, "bn takes no number"),
        ("gn=", SHAPE, "must be a whole number above 0"),
        ("gn=0", SHAPE, "must be a whole number above 0"),
        ("gn=x", SHAPE, "must be a whole number above 0"),
        ("in", (8, 1, 1), "in over a 1 × 1 map is constant"),
        ("ln-channel", (1, 4, 4), "over one channel is constant"),
        ("no_such_module:Norm", SHAPE, "No module named 'no_such_module'"),
        ("math:NoNorm", SHAPE, "math has no torch.nn.Module NoNorm"),
        ("math:sqrt", SHAPE, "math has no torch.nn.Module sqrt"),
        ("math:a:b", SHAPE, "math has no torch.nn.Module a:b"),
        (":X", SHAPE, "importing  failed"),
        (".a:X", SHAPE, "importing .a failed"),
    ],
)
def test_invalid_normalizations_are_refused_in_one_line(name, shape, problem):
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        norms.build(name, shape, activate=True)
    assert problem in str(caught.value)


OWN = """
import torch
from torch import nn

class HalfNorm(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.full((shape[0],), 0.5))

    def forward(self, x):
        return x * self.weight[:, None, None]
"""


def test_a_custom_layer_that_changes_the_shape_is_refused(tmp_path, monkeypatch):
    (tmp_path / "own_cut.py").write_text(OWN.replace("x * self", "x[..., 1:] * self"))
    monkeypatch.syspath_prepend(tmp_path)
    shapes = r"the output must have the input's shape \(2, 12, 5, 6\), not \(2, 12, 5, 5\)"
    with pytest.raises(UsageError, match=shapes):
        norms.build("own_cut:HalfNorm", SHAPE, activate=True)
    sys.modules.pop("own_cut")


def test_an_error_of_a_custom_layer_is_reported_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "own_raises.py").write_text(
        OWN.replace("return x", 'raise RuntimeError("a\\nb") #')
    )
    monkeypatch.syspath_prepend(tmp_path)
    message = r"built for the shape \(12, 5, 6\) failed on two such maps: RuntimeError: a b$"
    with pytest.raises(UsageError, match=message):
        norms.build("own_raises:HalfNorm", SHAPE, activate=True)
    sys.modules.pop("own_raises")


def test_a_custom_layer_by_module_and_class(tmp_path, monkeypatch):
    (tmp_path / "own_half_norm.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    layer = norms.build("own_half_norm:HalfNorm", SHAPE, activate=True)
    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(layer(x), (x / 2).clamp(min=0))
    layer = norms.build("own_half_norm:HalfNorm", SHAPE, activate=False, dropout=0.9)
    assert (layer(x) == 0).float().mean() > 0.8
    entry, _ = norms.find("own_half_norm:HalfNorm")
    assert (entry.name, entry.layer) == ("own_half_norm:HalfNorm", "own_half_norm.HalfNorm")
    assert {entry.formula, entry.paper, entry.axes, entry.parameters} == {"your own"}
    sys.modules.pop("own_half_norm")


def test_a_layer_registered_in_python(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @norms.register(
        "scale", formula="x · w", paper="a paper", axes="no axes", parameters="1", argument="w"
    )
    class Scale(nn.Module):
        def __init__(self, shape, number):
            super().__init__()
            self.factor = float(number)

        def forward(self, x):
            return x * self.factor

    x = torch.randn(2, *SHAPE)
    torch.testing.assert_close(norms.build("scale=3", SHAPE, activate=False)(x), x * 3)
    torch.testing.assert_close(norms.build("scale=3", SHAPE, activate=True)(x), 3 * x.relu())
    dropped = norms.build("scale=3", SHAPE, activate=False, dropout=0.9)(x)
    assert (dropped == 0).float().mean() > 0.8
    entry, number = norms.find("scale=3")
    assert number == 3
    assert (entry.name, entry.formula, entry.paper) == ("scale", "x · w", "a paper")
    assert (entry.axes, entry.parameters, entry.argument) == ("no axes", "1", "w")
    assert norms.channel_multiple("scale=3") == 1


def test_a_layer_that_activates_is_given_the_keywords(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))

    @norms.register(
        "told", formula="", paper="", axes="", parameters="", divides=True, activates=True,
        argument="n",
    )  # fmt: skip
    class Told(nn.Identity):
        def __init__(self, *given, **named):
            super().__init__()
            self.given, self.named = given, named

    layer = norms.build("told=3", SHAPE, activate=True, dropout=0.5)
    assert layer.given == (SHAPE, 3)
    assert layer.named == {"activate": True, "dropout": 0.5}
    assert norms.channel_multiple("told=3") == 3


def test_a_notebook_cell_that_is_run_again_replaces_its_layer(monkeypatch):
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    for size in (1, 2):

        @norms.register("mine", formula="", paper="", axes="", parameters="")
        class Mine(nn.Module):
            def __init__(self, shape, size=size):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(size, shape[0], 1, 1))

            def forward(self, x):
                return x * self.weight.prod(0)

        assert summarize("C:4 GAP FC", norm="mine").rows[0].parameters == 27 * 4 + size * 4
    with pytest.raises(ValueError, match="registered already"):
        norms.register("mine", formula="", paper="", axes="", parameters="")(nn.Identity)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1 +", "SyntaxError"),
        ("missing_name", "NameError"),
        ("import math; math.missing", "AttributeError"),
        ("import no_such_module", "No module named 'no_such_module'"),
    ],
)
def test_a_custom_module_that_cannot_be_imported(content, problem, tmp_path, monkeypatch):
    (tmp_path / "own_broken.py").write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UsageError, match=rf"^--norm own_broken:X: .*{problem}[^\n]*$"):
        norms.find("own_broken:X")


@pytest.mark.parametrize("name", ["bn", "a b", "a+", "a:b", "a=2", "1st", ""])
def test_a_name_that_is_taken_or_cannot_be_spelled_is_refused(name):
    before = dict(norms.REGISTRY)
    with pytest.raises(ValueError, match=r"registered already, by normlab|written"):
        norms.register(name, formula="", paper="", axes="", parameters="")(nn.Identity)
    assert before == norms.REGISTRY


@settings(max_examples=25)
@given(
    name=st.sampled_from(
        [
            entry.name
            for entry in norms.REGISTRY.values()
            if "N" not in re.findall(r"\w+", entry.axes)
        ]
    ),
    batch=st.integers(2, 5),
    seed=st.integers(0, 2**31),
)
def test_normalizations_without_batch_statistics_treat_each_image_separately(name, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    layer = norms.build(name, SHAPE, activate=True)
    x = torch.randn(batch, *SHAPE, generator=generator)
    separately = torch.cat([layer(image[None]) for image in x])
    np.testing.assert_allclose(layer(x).detach(), separately.detach(), atol=1e-5)


@pytest.mark.parametrize("name", ["ebn", "evonorm-b0"])
def test_running_averages_of_the_batch_can_be_measured_anew(name):
    network = Network("C:4 D:4 GAP FC", norm=name)
    running = {key: x for key, x in network.named_buffers() if "running" in key}
    before = {key: values.clone() for key, values in running.items()}
    images = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8)
    recalibrate(network, images, torch.arange(12))
    changed = [not torch.equal(values, before[key]) for key, values in running.items()]
    assert changed
    assert all(changed)
