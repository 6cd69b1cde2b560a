"""Normalizations replaced in modules as people write them: residual networks and others."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import normlab
from normlab.errors import UsageError
from normlab.layers.fused import FusedNorm
from normlab.layers.norms import REGISTRY
from normlab.network.replace import ChannelsLast

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
ALONE = [
    name
    for name, entry in REGISTRY.items()
    if not entry.by_activation and entry.convolution is nn.Conv2d
]
OLD = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.InstanceNorm2d)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.bn2.weight)  # the branch starts at 0
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """A small residual network, with layers in lists and dictionaries."""

    def __init__(self):
        super().__init__()
        self.stem = nn.ModuleDict(
            {"conv": nn.Conv2d(3, 8, 3, 1, 1, bias=False), "norm": nn.BatchNorm2d(8)}
        )
        self.layers = nn.ModuleList(
            [nn.Sequential(Block(8, 8), Block(8, 16, 2)), nn.Sequential(Block(16, 16))]
        )
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem["norm"](self.stem["conv"](x)).relu()
        for layer in self.layers:
            x = layer(x)
        return self.fc(x.mean((2, 3)))


class ConvNeXtBlock(nn.Module):
    """Liu et al.'s: LayerNorm over the channels, which are the last axis there."""

    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand, self.shrink = (
            nn.Linear(channels, 4 * channels),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.shrink(F.gelu(self.expand(y))).permute(0, 3, 1, 2)


class OneForTwo(nn.Module):
    """One layer at two places, for maps of two sizes, known by two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.after = nn.Sequential(self.norm, nn.ReLU())

    def forward(self, x):
        return self.after(self.second(F.max_pool2d(self.norm(self.first(x)).relu(), 2)))


def scrambled(module):
    """With random weights, biases and running averages."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for values in (*module.parameters(), *module.buffers()):
            if values.is_floating_point():
                values.copy_(torch.rand(values.shape, generator=draws) + 0.2)
    return module


def of(kinds, module):
    return [name for name, layer in module.named_modules() if isinstance(layer, kinds)]


@pytest.mark.parametrize("norm", ALONE)
def test_a_branch_that_starts_at_zero_still_does(norm):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    nn.init.zeros_(network[1].weight)
    normalized = normlab.replace_norms(network, norm, example=IMAGES).eval()
    assert not normalized(IMAGES).any()
    assert not normalized.train()(IMAGES).any()


def test_weights_of_channels_become_those_of_their_values():
    network = scrambled(nn.Sequential(nn.BatchNorm2d(3)))
    weight, bias = network[0].weight.detach(), network[0].bias.detach()
    normlab.replace_norms(network, "ln-full", example=IMAGES)
    expected = F.layer_norm(IMAGES, IMAGES.shape[1:]) * weight[:, None, None] + bias[:, None, None]
    torch.testing.assert_close(network(IMAGES), expected)


@pytest.mark.parametrize("norm", [*ALONE, "gn=2", "ghost-bn=4"])
def test_every_normalization_of_a_residual_network_is_replaced(norm):
    network = ResNet()
    names = of(nn.BatchNorm2d, network)
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert normlab.replace_norms(network, norm, example=IMAGES) is network
    assert not of(OLD if norm not in ("ln-full", "ln-channel") else nn.BatchNorm2d, network)
    assert len(names) == 8
    for name in names:
        new, shape = network.get_submodule(name), (16 if "1" in name.split(".")[1:2] else 8, 16, 16)
        expected = normlab.norms.build(norm, shape, activate=False)
        assert type(new) is type(expected)
    kept = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    assert all(one is other for one, other in zip(convolutions, kept, strict=True))

    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    labels = torch.tensor([1, 7])
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(network(IMAGES), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    again = normlab.replace_norms(ResNet(), norm, example=IMAGES)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again.eval()(IMAGES), network.eval()(IMAGES))


@pytest.mark.parametrize(
    ("old", "norm"),
    [
        (lambda: nn.BatchNorm2d(8), "bn"),
        (lambda: nn.BatchNorm2d(8), "ghost-bn"),
        (lambda: nn.BatchNorm2d(8), "sync-bn"),
        (lambda: nn.SyncBatchNorm(8), "bn"),
        (lambda: nn.GroupNorm(4, 8), "gn=4"),
        (lambda: nn.GroupNorm(1, 8), "ln"),
        (lambda: nn.InstanceNorm2d(8, affine=True), "in"),
        (lambda: nn.InstanceNorm2d(8), "in"),
        (lambda: nn.LayerNorm([8, 16, 16]), "ln-full"),
    ],
)
def test_the_same_normalization_computes_the_same(old, norm):
    """With the old weights, biases and running averages."""
    module = scrambled(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), old(), nn.ReLU())).eval()
    expected = module(IMAGES)
    new = normlab.replace_norms(copy.deepcopy(module), norm, example=IMAGES)
    torch.testing.assert_close(new(IMAGES), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(module(IMAGES), expected)


def test_a_layer_norm_of_the_last_axis_is_one_of_the_channels():
    module = scrambled(nn.Sequential(nn.Conv2d(3, 16, 1), ConvNeXtBlock(16), ConvNeXtBlock(16)))
    expected = module(IMAGES)
    new = normlab.replace_norms(copy.deepcopy(module), "ln-channel", example=IMAGES)
    torch.testing.assert_close(new(IMAGES), expected, rtol=1e-4, atol=1e-3)
    assert of(ChannelsLast, new) == ["1.norm", "2.norm"]

    with_bn = normlab.replace_norms(module, "bn", example=IMAGES)
    layer = with_bn[1].norm
    assert torch.equal(layer.layer.bias, new[1].norm.layer.norm.bias)
    x = torch.randn(4, 5, 6, 16)
    y = layer(x)
    flat = y.flatten(0, 2)
    scale = layer.layer.weight.detach()
    torch.testing.assert_close(flat.mean(0), layer.layer.bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat.std(0, correction=0), scale, rtol=1e-3, atol=1e-3)


def test_a_layer_at_several_places_stays_one_layer():
    network = OneForTwo()
    normlab.replace_norms(network, "gn", example=IMAGES)
    assert isinstance(network.norm, FusedNorm)
    assert network.norm is network.after[0]
    network(IMAGES).sum().backward()
    assert len([p for p in network.parameters() if p.shape == (4,)]) == 2 + 2  # two are biases


def test_a_shared_block_stays_one_block():
    block = Block(3, 3)
    network = nn.Sequential(block, nn.Identity(), block)
    normlab.replace_norms(network, "ln", example=IMAGES)
    assert network[0] is network[2] is block
    assert not of(nn.BatchNorm2d, network)


def test_a_shared_layer_for_maps_of_two_sizes_has_no_parameters_for_each_pixel():
    with pytest.raises(UsageError, match=r"maps of 4 × 16 × 16 and 4 × 8 × 8, and ln-full depends"):
        normlab.replace_norms(OneForTwo(), "ln-full", example=IMAGES)


def test_frozen_layers_stay_frozen():
    network = scrambled(ResNet()).train()
    for name in ("stem.norm", "layers.0.0.bn1"):
        frozen = network.get_submodule(name).eval()
        frozen.requires_grad_(False)
    network.layers[0][1].bn1.bias.requires_grad_(False)
    old = copy.deepcopy(network)
    normlab.replace_norms(network, "bn", example=IMAGES)
    for name in of(nn.BatchNorm2d, old):
        before, new = old.get_submodule(name), network.get_submodule(name)
        assert new.training == before.training
        for part in ("weight", "bias"):
            assert getattr(new, part).requires_grad == getattr(before, part).requires_grad
        assert torch.equal(new.running_mean, before.running_mean)
        assert torch.equal(new.running_var, before.running_var)
    torch.testing.assert_close(network(IMAGES), old(IMAGES), rtol=1e-4, atol=1e-4)
    first = scrambled(ResNet())  # only the frozen layer's averages have not moved in this pass
    assert torch.equal(network.stem["norm"].running_mean, first.stem["norm"].running_mean)
    one, other = (net.layers[1][0].bn1.running_mean for net in (network, first))
    assert not torch.equal(one, other)


def test_what_the_old_layer_does_not_have_is_frozen_with_it():
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    normlab.replace_norms(module, "frn", example=IMAGES)
    assert not any(values.requires_grad for values in module.parameters())
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4))  # nothing learned before
    normlab.replace_norms(module, "dyt", example=IMAGES)
    assert all(values.requires_grad for values in module[1].parameters())


def test_torch_func_transforms_the_replaced_layers():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 4),
    )
    x = torch.randn(2, 3, 4, 4)
    normlab.replace_norms(network, "gn", example=x)
    jacobian = torch.func.jacrev(lambda x: network(x).sum(0))(x)
    for k in range(4):
        one = x.clone().requires_grad_()
        network(one).sum(0)[k].backward()
        torch.testing.assert_close(jacobian[k], one.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_the_old_averages_of_the_module_are_kept(training):
    network = ResNet().train(training)
    network.layers[1].train(not training)
    modes = {name: layer.training for name, layer in network.named_modules()}
    state = torch.get_rng_state()
    normlab.replace_norms(network, "ghost-bn", example=IMAGES)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: network.get_submodule(name).training for name in modes} == modes
    assert not any(network.stem["norm"].norm.running_mean)  # the example is not learned from


def test_each_layer_has_the_dtype_of_the_old_one():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1).double()
            self.norm = nn.BatchNorm2d(4).double()
            self.plain = nn.InstanceNorm2d(4)
            self.single = nn.GroupNorm(2, 4)

        def forward(self, x):
            return self.single(self.plain(self.norm(self.conv(x))).float())

    module = Mixed()
    normlab.replace_norms(module, "ebn", example=IMAGES.double())
    assert module.norm.weight.dtype == module.norm.running_var.dtype == torch.float64
    assert module.plain.weight.dtype == torch.float64  # it has no values: its input's
    assert module.single.weight.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_each_layer_has_the_device_of_the_old_one():
    network = ResNet().cuda()
    normlab.replace_norms(network, "gn", example=IMAGES.cuda())
    assert {values.device.type for values in network.parameters()} == {"cuda"}


def test_first_weights_that_keep_the_scale_of_features_are_kept():
    """Those of `none` and `dyt` are not 1."""
    for norm, first in (("none", 3**0.5), ("dyt", 2 * 3**0.5), ("gn", 1)):
        network = normlab.replace_norms(ResNet(), norm, example=IMAGES)
        assert network.layers[0][0].bn1.weight.tolist() == pytest.approx([first] * 8)


def test_a_lazy_layer_and_one_called_by_keyword():
    class ByKeyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.LazyBatchNorm2d()

        def forward(self, x):
            return self.norm(input=self.conv(x))

    module = normlab.replace_norms(ByKeyword(), "gn", example=IMAGES)
    assert module.norm.weight.shape == (4,)


def test_a_module_that_is_itself_a_normalization():
    new = normlab.replace_norms(nn.BatchNorm2d(6), "gn=3", example=torch.randn(2, 6, 4, 4))
    assert isinstance(new, FusedNorm)
    assert new.groups == 3


def test_spectral_normalization_of_weights_is_none_of_features():
    module = nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)
    )
    normlab.replace_norms(module, "ln", example=IMAGES)
    assert of(FusedNorm, module) == ["1"]


@pytest.mark.slow(3)
def test_a_normalization_of_ones_own(tmp_path):
    """In a process of its own: it is imported from the working folder."""
    (tmp_path / "my_norms.py").write_text(
        "from torch import nn\n"
        "class Halved(nn.Module):\n"
        "    def __init__(self, shape):\n"
        "        super().__init__()\n"
        "    def forward(self, x):\n"
        "        return x / 2\n"
    )
    program = (
        "import normlab, torch\n"
        "m = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.ReLU())\n"
        "normlab.replace_norms(m, 'my_norms:Halved', example=torch.ones(1, 3, 2, 2))\n"
        "print(m(torch.ones(1, 3, 2, 2)).unique().item(), type(m[0]).__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "0.5 Halved\n", done.stderr


# What cannot be replaced


class Unusual(nn.Module):
    """A network with a normalization of each kind that cannot be replaced, and one that can."""

    class RunningNorm(nn.Module):
        def forward(self, x):
            return x

    class ShiftedBatchNorm(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    def __init__(self):
        super().__init__()
        self.conv, self.fine = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.running, self.shifted = self.RunningNorm(), self.ShiftedBatchNorm(4)
        self.hooked, self.unused = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.hooked.register_forward_hook(lambda layer, inputs, output: None)
        self.tokens = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 10))

    def forward(self, x):
        x = self.hooked(self.shifted(self.running(self.fine(self.conv(x)))))
        for norm in self.tokens:
            x = norm(x.flatten(2).movedim(1, 2)).movedim(1, 2).view_as(x)
        return self.head(x.mean((2, 3)))


def test_what_cannot_be_replaced_is_counted_and_named_and_nothing_changes():
    module = Unusual().train()
    layers, state = [*module.modules()], copy.deepcopy(module.state_dict())
    with pytest.raises(UsageError, match=r"^[^\n]*$") as caught:
        normlab.replace_norms(module, "gn", example=IMAGES)
    assert str(caught.value) == (
        "7 of 8 normalizations cannot be replaced by gn, so none was: "
        "running (RunningNorm: only BatchNorm2d, GroupNorm, LayerNorm and InstanceNorm2d can be); "
        "shifted (ShiftedBatchNorm: its class may compute something else than torch.nn's); "
        "hooked (BatchNorm2d: it has hooks or parametrizations, which would be lost); "
        "unused (GroupNorm: the example does not reach it); "
        "tokens.0, tokens.1 (LayerNorm: its input is N × 256 × 4, not N × C × H × W); "
        "head.0 (BatchNorm1d: only BatchNorm2d, GroupNorm, LayerNorm and InstanceNorm2d can be). "
        "Replace these before, or pass a part of the module without them"
    )
    assert all(one is other for one, other in zip(layers, module.modules(), strict=True))
    assert all(torch.equal(values, state[key]) for key, values in module.state_dict().items())
    assert all(layer.training for layer in module.modules())
    assert not any(layer._forward_pre_hooks for layer in module.modules())


@pytest.mark.parametrize(
    ("norm", "problem"),
    [
        (
            "gn=5",
            "8 of 8 normalizations cannot be replaced by gn=5.*gn=5: 5 groups do not divide 8",
        ),
        ("gn=16", "3 of 8 normalizations cannot.*: 16 groups do not divide 8 channels"),
        ("gn-ws", "gn-ws also changes the convolutions before it"),
        ("sws", "sws also changes the convolutions before it"),
        ("proxy-gn", "proxy-gn includes the activation after it"),
        ("evonorm-s0=2", "evonorm-s0=2 includes the activation after it"),
        ("LayerNorm", "no normalization 'LayerNorm': did you mean ln?"),
        ("bn=2", "bn takes no number"),
    ],
)
def test_a_normalization_that_does_not_fit_is_refused(norm, problem):
    network = ResNet()
    with pytest.raises(UsageError, match=problem) as caught:
        normlab.replace_norms(network, norm, example=IMAGES)
    assert "\n" not in str(caught.value)
    assert len(of(nn.BatchNorm2d, network)) == 8


def test_a_module_without_normalizations_is_refused():
    with pytest.raises(UsageError, match=r"has no normalization that is a layer of torch\.nn"):
        normlab.replace_norms(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), "gn", example=IMAGES)


def test_an_error_of_the_module_leaves_it_as_it_was():
    network = ResNet().train()
    with pytest.raises(RuntimeError, match="channels"):
        normlab.replace_norms(network, "gn", example=IMAGES[:, :1])
    assert all(layer.training for layer in network.modules())
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    assert len(of(nn.BatchNorm2d, network)) == 8


@pytest.mark.slow(3)
def test_the_example_of_the_page_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "normalizations.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    program += "\nprint(type(network[1]).__name__, network[1].groups)\n"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout == "FusedNorm 4\n", done.stderr


def test_gradients_of_parts_add_up_where_images_do_not_see_each_other():
    """What docs/normalizations.md says of gradient accumulation."""
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    for norm in ("gn", "bn"):
        network = normlab.replace_norms(scrambled(ResNet()), norm, example=IMAGES).double()
        gradients = []
        for parts in (1, 4):
            network.zero_grad()
            for x, y in zip(images.double().chunk(parts), labels.chunk(parts), strict=True):
                (F.cross_entropy(network(x), y) / parts).backward()
            gradients.append([values.grad.clone() for values in network.parameters()])
        same = [torch.allclose(one, other) for one, other in zip(*gradients, strict=True)]
        assert all(same) if norm == "gn" else not any(same)
