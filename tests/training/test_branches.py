"""Branches that exist during training, and the plain convolutions they are folded into."""

import copy
import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

import normlab
from harness import InterruptAt
from normlab import Run
from normlab.config import RunConfig
from normlab.errors import InterruptedRunError, UsageError
from normlab.inference.evaluate import evaluate
from normlab.network.model import Network
from normlab.recipes import RECIPES
from normlab.runs.checkpoint import Checkpoint
from normlab.training.branches import add_branches, fold_branches
from normlab.training.loop import resume, train
from normlab.training.optimizers import build_optimizers, trained_by_muon

LAYOUT = "C:6 C:6+ Cs2:8 C:8v C:8*2 D:8 GAP FC"
CONFIG = RunConfig(
    network="C:6 C:6+ P D:8 GAP FC", recipe="demo", dataset="digits", epochs=2, muon=0.1
)


def network(branches, *, norm="bn", muon=0.0, seed=0):
    built = Network(LAYOUT, norm=norm, seed=seed)
    add_branches(built, branches, muon=muon, seed=seed)
    return built


def randomized(built):
    """All branches far from their first values."""
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return built


def originals(conv):
    return [p for name, p in conv.named_parameters() if "original" in name]


def convolutions(built):
    """Of LAYOUT: five that are branched, and the 1×1 of its `D`."""
    return [block.conv for block in built.blocks if hasattr(block, "conv")]


def branch_outputs(conv, x, branches):
    """What the branches of a convolution compute, each as a convolution of its own."""
    if branches == "expand":
        last, middle, first = originals(conv)
        x = F.conv2d(x, first)
        return F.conv2d(F.conv2d(x, middle, None, conv.stride, conv.padding), last)
    full, point, *scale = originals(conv)
    y = F.conv2d(x, full, None, conv.stride, conv.padding)
    inner = x if conv.padding[0] else x[:, :, 1:-1, 1:-1]
    y = y + F.conv2d(inner, point, None, conv.stride)
    if scale:
        y = y + x * scale[0][:, None, None]
    return y / (2 + len(scale)) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("branches", ["repvgg", "expand"])
def test_a_folded_convolution_computes_what_its_branches_do(branches, dtype):
    torch.manual_seed(0)
    built = randomized(network(branches)).to(dtype)
    branched = convolutions(built)[:5]
    inputs = [torch.randn(3, conv.in_channels, 9, 9, dtype=dtype) for conv in branched]
    before = [branch_outputs(conv, x, branches) for conv, x in zip(branched, inputs, strict=True)]
    fold_branches(built)
    for conv, x, expected in zip(branched, inputs, before, strict=True):
        assert not originals(conv)
        torch.testing.assert_close(conv(x), expected)


@pytest.mark.parametrize("norm", ["bn", "ln", "none", "gn-ws", "evonorm-s0"])
@pytest.mark.parametrize("branches", ["repvgg", "expand"])
def test_a_network_answers_the_same_before_and_after_folding(branches, norm):
    torch.manual_seed(0)
    built = randomized(network(branches, norm=norm)).eval()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        before = built(images)
        fold_branches(built)
        assert torch.equal(built(images), before)
    plain = Network(LAYOUT, norm=norm)
    assert built.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(built.state_dict())
    assert (
        sum(p.numel() for p in built.parameters())
        == normlab.summarize(LAYOUT, norm=norm).parameters
    )


@pytest.mark.parametrize("branches", ["repvgg", "expand"])
@pytest.mark.parametrize("muon", [0.0, 0.1])
def test_the_first_kernels_have_the_scale_of_plain_ones(branches, muon):
    """Of Muon's norm where Muon trains them: 1 for each output, instead of √(1/3)."""
    plain = Network("C:24 C:24 C:32 GAP FC").weights[:3]
    built = Network("C:24 C:24 C:32 GAP FC")
    add_branches(built, branches, muon=muon, seed=0)
    for k, block in enumerate(list(built.blocks)[:3]):
        norm = float((block.conv.weight.norm() / plain[k].norm()).detach())
        assert 0.7 < norm < (1.4 if muon == 0 else 2.5)


@pytest.mark.parametrize("branches", ["repvgg", "expand"])
def test_muon_trains_each_kernel_and_sgd_the_scales_without_decay(branches):
    recipe = dataclasses.replace(RECIPES["micro"], weight_decay=0.1)
    built = network(branches, muon=recipe.muon)
    kernels = [kernel for conv in convolutions(built) for kernel in originals(conv)]
    by_muon = set(trained_by_muon(built, recipe))
    assert {kernel for kernel in kernels if kernel.dim() > 1} <= by_muon
    sgd = build_optimizers(built, recipe)[0].optimizer
    decaying, others = set(sgd.decaying), set(sgd.others)
    assert {kernel for kernel in kernels if kernel.dim() == 1} <= others
    without = build_optimizers(built, dataclasses.replace(recipe, muon=0.0))[0].optimizer
    assert {kernel for kernel in kernels if kernel.dim() > 1} <= set(without.decaying)
    assert set(built.parameters()) == by_muon | decaying | others


def test_an_identity_is_there_where_input_and_output_have_one_shape():
    counts = [len(originals(conv)) for conv in convolutions(network("repvgg"))]
    assert counts == [2, 3, 2, 2, 3, 0]


def test_branches_are_drawn_from_the_seed():
    one, same, other = (network("expand", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_network_with_branches_can_be_copied():
    built = network("repvgg")
    fold_branches(copy.deepcopy(built))
    assert originals(built.blocks[0].conv)


@pytest.mark.slow(4)
@pytest.mark.parametrize("branches", ["repvgg", "expand"])
def test_a_run_with_branches_ends_bit_equal_after_an_interruption(branches, tmp_path):
    config = dataclasses.replace(CONFIG, branches=branches)
    whole = train(config, tmp_path / "whole", quiet=True)
    hooks = [InterruptAt((0, 7))]
    with pytest.raises(InterruptedRunError):
        train(config, tmp_path / "stopped", callbacks=hooks, quiet=True)
    held = Checkpoint.load(tmp_path / "stopped/checkpoint.pt").model
    assert sum("original" in name for name in held) == {"repvgg": 5, "expand": 6}[branches]
    run = resume(tmp_path / "stopped", quiet=True)
    weights, others = (load_file(r.path / "model.safetensors") for r in (whole, run))
    assert weights.keys() == others.keys() == Network(CONFIG.network).state_dict().keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    opened = Run.open(run.path)
    assert opened.config.branches == branches
    evaluation = evaluate(opened.network(), opened.dataset())
    assert evaluation.accuracy == whole.last.accuracy
    assert evaluation.loss == pytest.approx(whole.last.loss, rel=1e-5)


def test_branches_change_the_training_and_are_recorded_only_if_given(tmp_path):
    short = dataclasses.replace(CONFIG, epochs=1, train_images=100)
    losses = []
    for branches in ("none", "repvgg", "expand"):
        run = train(dataclasses.replace(short, branches=branches), tmp_path / branches, quiet=True)
        losses.append(run.last.train_loss)
        recorded = json.loads((run.path / "config.json").read_text())["run"]
        assert recorded.get("branches", "none") == branches
        assert ("branches" in recorded) == (branches != "none")
    assert len(set(losses)) == 3


def test_branches_without_a_convolution_for_them_are_refused(tmp_path):
    config = dataclasses.replace(CONFIG, network="D:8 P D:8 GAP FC", branches="expand")
    with pytest.raises(UsageError, match=r"^--branches expand is for 3×3 convolutions, C in a lay"):
        train(config, tmp_path / "run", quiet=True)
    with pytest.raises(
        UsageError, match=r"^--branches must be .*'none', 'repvgg', 'expand'.*, not 'rep'"
    ):
        train(dataclasses.replace(CONFIG, branches="rep"), tmp_path / "run", quiet=True)
