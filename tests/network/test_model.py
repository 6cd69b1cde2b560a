import pytest
import torch

from normlab.network.model import Network
from normlab.network.summary import summarize
from normlab.network.zoo import ZOO


def test_names_of_the_zoo_are_accepted():
    assert summarize("seed-ln").parameters == 42_140
    assert Network("seed-bn").layout == ZOO["seed-bn"].layout


def test_repeated_blocks_share_convolutions_but_not_normalizations():
    once, thrice = summarize("C:8 C:8 GAP FC"), summarize("C:8 C:8*3 GAP FC")
    assert thrice.parameters - once.parameters == 2 * 2 * 8
    network = Network("C:8 C:8+*3 GAP FC").eval()
    block = network.blocks[1]
    x = torch.randn(2, 8, 6, 6)
    expected = x
    for norm in block.norms:
        expected = expected + norm(block.conv(expected))
    torch.testing.assert_close(block(x), expected)


def test_networks_that_differ_only_in_normalization_start_from_equal_convolutions():
    networks = [Network("assignment", norm=norm, budget=None) for norm in ("bn", "gn", "ln", "in")]
    first = networks[0].state_dict()
    for network in networks[1:]:
        for name, tensor in network.state_dict().items():
            if "conv" in name:
                assert torch.equal(tensor, first[name])
    other = Network("assignment", seed=1).state_dict()
    assert not torch.equal(other["blocks.0.conv.weight"], first["blocks.0.conv.weight"])


def test_equal_blocks_start_from_different_convolutions():
    _, one, other, *_ = Network("C:8 C:8 C:8 GAP FC").blocks
    assert not torch.equal(one.conv.weight, other.conv.weight)


def test_first_weights_are_pytorchs_defaults_and_its_generator_is_unchanged():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    network = Network("C:64 C:64 GAP FC")
    assert torch.equal(torch.rand(3), expected)
    weight = network.blocks[1].conv.weight
    bound = 1 / (64 * 9) ** 0.5  # kaiming_uniform_ with a = √5
    assert weight.abs().max() <= bound
    assert abs(weight.std().item() - bound / 3**0.5) < 0.02 * bound


def test_the_network_normalizes_its_input():
    network = Network("c:4 GAP FC").eval()
    x = torch.rand(2, 3, 32, 32)
    before = network((x - 0.5) / 0.25)
    network.input_mean.fill_(0.5)
    network.input_std.fill_(0.25)
    torch.testing.assert_close(network(x), before)


def test_dropout_follows_only_activations():
    network = Network("C:3 c:3 D:3 GAP FC", dropout=0.75).train()
    maps = torch.randn(8, 3, 32, 32)
    zeros = [(block(maps) == 0).float().mean().item() for block in network.blocks[:3]]
    # Of values with mean 0, a ReLU keeps half and dropout a quarter of these.
    assert zeros == pytest.approx([7 / 8, 0, 7 / 8], abs=0.05)
    depthwise = network.blocks[2]
    between = depthwise.depthwise_norms[0](depthwise.depthwise(maps))
    assert (between != 0).all()


def test_a_network_stays_below_its_budget():
    for budget in (2000, 20_000):
        network = Network("C C P C GAP FC", budget=budget)
        assert 0.8 * budget < sum(p.numel() for p in network.parameters()) < budget
