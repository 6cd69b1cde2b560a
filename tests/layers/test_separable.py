"""The block `D` in one pass, compared with its layers, and with PyTorch's in float64."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from normlab.layers import kernels, separable
from normlab.layers.activations import ACTIVATIONS, RELU
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.dropout import drop
from normlab.layers.fused import FusedNorm
from normlab.layers.kernels.compilers import FOLDER
from normlab.layers.separable import MOST_CHANNELS, Separable
from normlab.network.model import Network
from normlab.training.precision import products_in
from passes import compiled

pytestmark = compiled
COMPILED = [None, *(activation for activation in ACTIVATIONS.values() if activation.compiled)]
CPU = torch.device("cpu")


def block(
    channels, outputs, *, groups=None, centre=True, pooled=False, activation=RELU, dropout=0.0
):
    """Its layers, with random weights."""
    torch.manual_seed(0)

    def norm(channels):
        layer = FusedNorm(
            (channels, 1, 1),
            groups=groups,
            centre=centre,
            pooled=pooled,
            activation=activation,
            dropout=dropout,
            eps=1e-5,
        )
        for parameter in layer.parameters():
            nn.init.normal_(parameter, 0.5)
        return layer

    depthwise = DepthwiseConv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    conv = nn.Conv2d(channels, outputs, 1, bias=False)
    return Separable(depthwise, norm(channels), conv, norm(outputs))


def copied(layers, dtype=torch.float32):
    return Separable(*(copy.deepcopy(layer).to(dtype) for layer in layers))


def maps(*shape, dtype=torch.float32, seed=1):
    torch.manual_seed(seed)
    return (2 * torch.randn(shape) + 1).to(dtype).contiguous(memory_format=torch.channels_last)


def one_by_one(layers, x, residual):
    depthwise, between, conv, norm = layers
    y = norm(conv(between(depthwise(x))))
    return y + x if residual else y


def in_one_pass(layers, x, residual):
    assert layers.can_run_compiled(x, residual=residual)
    return layers(x, residual=residual)


def reference(layers, x, residual):
    """The block by PyTorch's own functions, in the precision of x."""

    def normalized(norm, x):
        if norm.pooled:
            mean = x.mean((0, 2, 3), keepdim=True)
            z = (x - mean) / ((x - mean).square().mean() + norm.eps).sqrt()
            z = z * norm.weight[:, None, None] + norm.bias[:, None, None]
        elif norm.groups is None:
            z = F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.1, norm.eps)
        elif norm.centre:
            z = F.group_norm(x, norm.groups, norm.weight, norm.bias, norm.eps)
        else:
            z = F.rms_norm(x, x.shape[1:], eps=norm.eps) * norm.weight[:, None, None]
        z = norm.activation.formula(z) if norm.activation else z
        return drop(z, norm.dropout, True)

    depthwise, between, conv, norm = layers
    y = F.conv2d(x, depthwise.weight, padding=1, groups=len(depthwise.weight))
    y = normalized(norm, F.conv2d(normalized(between, y), conv.weight))
    return y + x if residual else y


def with_gradients(function, layers, x, dy, residual=False):
    """The maps, and the gradients of x and of all weights."""
    x = x.detach().clone().requires_grad_()
    torch.manual_seed(3)  # of the dropout
    y = function(layers, x, residual)
    weights = [parameter for layer in layers for parameter in layer.parameters()]
    return y.detach(), *torch.autograd.grad(y, [x, *weights], dy)


@settings(max_examples=100, deadline=None)
@given(
    samples=st.integers(1, 4),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    groups=st.sampled_from([None, "pooled", "one", "two"]),
    channels=st.integers(8, 48),
    outputs=st.integers(8, 48),
    residual=st.booleans(),
    centre=st.booleans(),
    activation=st.sampled_from(COMPILED),
    dropout=st.sampled_from([0.0, 0.3]),
)
@example(2, 8, 8, None, 104, 104, True, True, RELU, 0.0)
@example(3, 8, 8, "pooled", 24, 40, False, True, RELU, 0.3)
@example(3, 9, 9, "two", 64, 104, False, True, RELU, 0.1)
@example(5, 5, 13, "one", 25, 9, False, False, RELU, 0.0)
@example(2, 6, 6, None, 111, 8, False, True, RELU, 0.0)
@example(2, 6, 6, "one", 9, 127, False, True, RELU, 0.0)
@example(1, 12, 12, None, 8, 8, True, True, RELU, 0.0)
def test_values_and_gradients_are_those_of_float64(
    samples, height, width, groups, channels, outputs, residual, centre, activation, dropout
):
    outputs = channels if residual else outputs
    if groups == "two":
        channels, outputs = (count // 2 * 2 for count in (channels, outputs))
    pooled = groups == "pooled"
    groups = {None: None, "pooled": None, "one": 1, "two": 2}[groups]
    if samples * height * width < 3:
        return  # hardly a variance
    layers = block(
        channels,
        outputs,
        groups=groups,
        centre=centre or groups != 1,
        pooled=pooled,
        activation=activation,
        dropout=dropout,
    )
    x, dy = maps(samples, channels, height, width), maps(samples, outputs, height, width, seed=2)
    exact = with_gradients(
        reference, copied(layers, torch.float64), x.double(), dy.double(), residual
    )
    ours = with_gradients(in_one_pass, layers, x, dy, residual)
    separate = with_gradients(one_by_one, copied(layers), x, dy, residual)
    for one, other, expected in zip(ours, separate, exact, strict=True):
        # The layers' own distance is the yardstick: at a kink, a rounding is a large difference.
        distance, usual = ((each.double() - expected).norm() for each in (one, other))
        assert distance <= 4 * usual + 1e-5 * expected.norm() + 1e-5


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs"), [(8, 8), (12, 16), (16, 12), (26, 26), (104, 104), (128, 128)]
)
def test_it_is_the_layers_one_after_the_other(groups, residual, channels, outputs):
    """With the same drops and the same running averages."""
    residual = residual and channels == outputs
    layers = block(channels, outputs, groups=groups, dropout=0.2)
    others = copied(layers)
    x, dy = maps(6, channels, 9, 10), maps(6, outputs, 9, 10, seed=2)
    separate = with_gradients(one_by_one, others, x, dy, residual)
    ours = with_gradients(in_one_pass, layers, x, dy, residual)
    for one, expected in zip(ours, separate, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=5e-4)
    for mine, other in ((layers.between, others.between), (layers.norm, others.norm)):
        for own, expected in zip(mine.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("groups", [None, 2])
def test_in_eval_mode_it_is_the_layers_one_after_the_other(groups):
    layers = block(16, 16, groups=groups, dropout=0.5)
    x = maps(3, 16, 7, 7)
    one_by_one(layers, x, True)  # moves the running averages
    for layer in layers:
        layer.eval()
    with torch.no_grad():
        separate, ours = one_by_one(layers, x, True), in_one_pass(layers, x, True)
    torch.testing.assert_close(ours, separate, rtol=1e-5, atol=1e-5)
    assert not layers.can_run_compiled(
        x, residual=True
    )  # with gradients it can be differentiated twice


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("channels", [16, 26, 104])
def test_bfloat16_is_float64_to_its_rounding(groups, channels):
    layers = block(channels, channels, groups=groups)
    x, dy = (maps(4, channels, 8, 8, dtype=torch.bfloat16, seed=seed) for seed in (1, 2))
    with products_in("bfloat16", CPU):
        ours = with_gradients(in_one_pass, layers, x, dy, True)
        separate = with_gradients(one_by_one, copied(layers), x, dy, True)
    assert ours[0].dtype == ours[1].dtype == torch.bfloat16
    exact = with_gradients(reference, copied(layers, torch.float64), x.double(), dy.double(), True)
    for one, other, expected in zip(ours, separate, exact, strict=True):
        distance, usual = ((each.double() - expected).norm() for each in (one, other))
        assert distance <= 1.2 * usual + 0.005 * expected.norm()


def test_filters_are_rounded_to_bfloat16():
    """1 + 2⁻⁹ becomes 1, as in PyTorch's products."""
    layers = block(16, 32, activation=None)
    nn.init.constant_(layers.conv.weight, 1 + 2**-9)
    nn.init.ones_(layers.norm.weight)
    nn.init.zeros_(layers.norm.bias)
    rounded = copied(layers, torch.float64)
    nn.init.ones_(rounded.conv.weight)
    for layer in (*layers, *rounded):
        layer.eval()  # with running averages, so that a scale is seen
    x = maps(8, 16, 12, 12, dtype=torch.bfloat16)
    with torch.no_grad(), products_in("bfloat16", CPU):
        ours = in_one_pass(layers, x, False).double()
    with torch.no_grad():
        expected = one_by_one(rounded, x.double(), False)
    assert (ours * expected).sum() / expected.square().sum() == pytest.approx(1, abs=5e-4)


class Doubled(DepthwiseConv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def with_another(layers):
    """The depthwise convolution is of another class."""
    layers.depthwise.__class__ = Doubled


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers.between.register_forward_hook(lambda *_: None),
        lambda layers: layers.conv.register_forward_pre_hook(lambda *_: None),
        lambda layers: layers.depthwise.register_full_backward_hook(lambda *_: None),
        lambda layers: layers.norm.eval(),
        lambda layers: layers.conv.double(),
        lambda layers: layers.norm.double(),
        lambda layers: layers.depthwise.double(),
        lambda layers: parametrize.register_parametrization(layers.conv, "weight", nn.Identity()),
        lambda layers: setattr(layers.conv, "forward", lambda x: x),
        with_another,
        lambda layers: setattr(layers.conv, "weight", nn.Parameter(torch.ones(16, 8, 1, 1))),
        lambda layers: setattr(layers.depthwise, "weight", nn.Parameter(torch.ones(8, 1, 3, 3))),
    ],
    ids=[
        "hook",
        "pre-hook",
        "backward hook",
        "one in eval mode",
        "convolution in float64",
        "normalization in float64",
        "depthwise in float64",
        "parametrized",
        "replaced forward",
        "another class",
        "pruned",
        "pruned depthwise",
    ],
)
def test_layers_that_are_not_what_it_computes_are_called_one_by_one(change):
    layers = block(16, 16)
    x = maps(2, 16, 6, 6)
    assert layers.can_run_compiled(x, residual=True)
    change(layers)
    assert not layers.can_run_compiled(x, residual=True)


def test_hooks_of_all_modules_see_the_layers():
    seen = []
    hook = nn.modules.module.register_module_forward_hook(lambda layer, *_: seen.append(layer))
    network = Network("C:16 D:16+ GAP FC")
    with hook:
        network(maps(2, 3, 8, 8))
    assert {*network.blocks[1].children()} - {*seen} <= {
        network.blocks[1].depthwise_norms,
        network.blocks[1].norms,
    }


def test_a_residual_of_another_width_is_an_error_and_no_more():
    x = maps(2, 16, 6, 6)
    network = Network("C:16 D:16+ GAP FC")
    broken = network.blocks[1]
    layers = block(16, 64)
    broken.conv, broken.norms[0] = layers.conv, layers.norm
    with pytest.raises(RuntimeError, match="expanded size"):
        broken(x)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.Conv2d(16, 16, 1, stride=2, bias=False),
        nn.Conv2d(16, 16, 1, padding=1, bias=False),
        nn.Conv2d(16, 16, 1, groups=4, bias=False),
        nn.Conv2d(16, 4, 1, bias=False),
        nn.Conv2d(16, MOST_CHANNELS[torch.float32] + 1, 1, bias=False),
    ],
    ids=["bias", "3 × 3", "stride", "padding", "groups", "few maps", "many maps"],
)
def test_other_convolutions_are_pytorchs(conv):
    layers = block(16, conv.out_channels)._replace(conv=conv)
    assert not layers.can_run_compiled(maps(2, 16, 6, 6), residual=False)


def test_normalizations_of_different_kinds_are_called_one_by_one():
    layers = block(16, 16)._replace(between=block(16, 16, groups=4).between)
    assert not layers.can_run_compiled(maps(2, 16, 6, 6), residual=False)


def test_a_nan_stays_in_its_sample():
    x = maps(2, 16, 6, 6)
    x[1, 3, 2, 2] = torch.nan
    y = in_one_pass(block(16, 16, groups=4, activation=None), x, False)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


@pytest.mark.parametrize("groups", [None, 4])
def test_frozen_weights_have_no_gradient(groups):
    layers = block(16, 16, groups=groups)
    layers.conv.weight.requires_grad_(False)
    layers.between.weight.requires_grad_(False)
    x = maps(2, 16, 6, 6).requires_grad_()
    in_one_pass(layers, x, False).square().sum().backward()
    assert layers.conv.weight.grad is None
    assert layers.between.weight.grad is None
    for trained in (x, layers.between.bias, layers.depthwise.weight, layers.norm.weight):
        assert trained.grad.abs().max() > 0


THREADS = """if True:
    import sys, threading, torch
    sys.path[:0] = [sys.argv[2], f"{sys.argv[2]}/.."]
    from test_separable import block, in_one_pass, maps, with_gradients
    torch.set_num_threads(int(sys.argv[1]))
    threading.stack_size(256 * 1024)
    results = []
    def work():
        for groups in (None, 3):
            layers = block(111, 111, groups=groups)
            x, dy = maps(7, 111, 9, 9), maps(7, 111, 9, 9, seed=2)
            results.append(with_gradients(in_one_pass, layers, x, dy, True))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    torch.save(results, sys.argv[3])
"""


@pytest.mark.slow(5)
def test_threads_with_small_stacks_compute_the_same(tmp_path):
    """Only sums over the samples, the filters' gradients, are in another order with more."""
    results = []
    for threads in (1, 3):
        out, here = tmp_path / str(threads), Path(__file__).parent
        process = subprocess.run(
            [sys.executable, "-c", THREADS, str(threads), here, out],
            env=os.environ | {"OMP_STACKSIZE": "256K"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert not process.returncode, process.stderr
        results.append(torch.load(out, weights_only=True))
    for (y, dx, *weights), (others_y, others_dx, *others_weights) in zip(*results, strict=True):
        assert torch.equal(y, others_y)
        assert torch.equal(dx, others_dx)
        for one, other in zip(weights, others_weights, strict=True):
            close = {"rtol": 1e-4, "atol": 1e-4 * other.abs().max().item()}
            torch.testing.assert_close(one, other, **close)


def test_its_room_is_what_the_source_needs():
    """Python makes the room: each number there is the largest of those in C."""
    source = "".join(path.read_text() for path in sorted(FOLDER.glob("*.[ch]")))
    for name in ("STRIP", "ROWS", "WIDEST"):
        in_c = [int(number) for number in re.findall(rf"enum {{ {name} = (\d+) }}", source)]
        assert max(in_c) == getattr(separable, name)


@pytest.mark.parametrize("norm", ["bn", "ebn", "gn=4", "ln", "in", "rms"])
def test_networks_train_with_it(monkeypatch, norm):
    network = Network("C:16 D:16 D:16+ D:24*1 P D:24 GAP FC", norm=norm)
    called, run = [], kernels.separable
    monkeypatch.setattr(
        kernels, "separable", lambda name, *a, **k: (called.append(name), run(name, *a, **k))
    )
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    network(images).sum().backward()
    assert called == 4 * ["forward"] + 4 * ["backward"]
