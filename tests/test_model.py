from bisect import bisect_right

import pytest
import torch
import torchinfo
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab import layout
from normlab.errors import UsageError
from normlab.layout import LayoutError
from normlab.model import Network
from normlab.placing import count, place, refuse_single_values
from normlab.summary import summarize
from normlab.widths import solve, widen
from normlab.zoo import ZOO

ASSIGNMENT = "C1 C2 c3 P1 C3 C4 C5 c6 P2 C7 C8 C9 GAP C10"
NORMS = ["none", "bn", "gn", "gn=3", "gn=8", "ln", "ln-channel", "in", "rms"]
OPEN_LAYOUTS = [
    ASSIGNMENT,
    "C D D+ P D D+ P D D+ GAP FC",
    "Cs2 D*3 P C c P D+*2 GAP C FC",
    "C C:24 P c A D+ GAP FC",
]


@pytest.mark.parametrize(
    ("name", "parameters"), [("seed-bn", 48_020), ("seed-gn", 48_020), ("seed-ln", 42_140)]
)
def test_the_published_networks_have_the_published_parameters(name, parameters):
    summary = summarize(ZOO[name].layout)
    network = Network(ZOO[name].layout)
    assert summary.parameters == parameters
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("norm", ["bn", "gn", "ln", "ln-full"])
def test_the_layer_table_agrees_with_torchinfo(name, norm):
    summary = summarize(ZOO[name].layout, norm=norm)
    network = Network(ZOO[name].layout, norm=norm)
    counted = torchinfo.summary(network, (1, 3, 32, 32), verbose=0, col_names=("mult_adds",))
    assert counted.total_params == summary.parameters
    # torchinfo counts a normalization's weights as multiply-adds, once an image; we do not.
    convolutions = sum(
        layer.macs
        for layer in counted.summary_list
        if layer.class_name in ("Conv2d", "Linear") and layer.is_leaf_layer
    )
    assert convolutions == summary.macs


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("budget", [5_000, 50_000])
def test_the_assignments_line_builds_under_both_budgets(norm, budget):
    network = Network(ASSIGNMENT, norm=norm, budget=budget)
    assert sum(p.numel() for p in network.parameters()) < budget
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_layer_norm_per_element_says_by_how_much_it_is_over():
    with pytest.raises(UsageError, match=r"6,118 parameters with ln-full, 1,119 too many .* 5,000"):
        Network(ASSIGNMENT, norm="ln-full", budget=5_000)
    Network(ASSIGNMENT, norm="ln-full", budget=6_119)


@settings(max_examples=60)
@given(
    line=st.sampled_from(OPEN_LAYOUTS),
    norm=st.sampled_from(NORMS),
    budget=st.integers(1_500, 200_000),
    classes=st.integers(2, 20),
)
def test_widths_are_the_widest_that_fit(line, norm, budget, classes):
    blocks = layout.parse(line)
    try:
        solved = solve(blocks, norm=norm, classes=classes, budget=budget)
    except UsageError:
        unit = {"gn=3": 3, "gn=8": 8}.get(norm, 1)
        assert count(widen(blocks, 1, unit), norm=norm, classes=classes) >= budget
        return
    assert count(solved, norm=norm, classes=classes) < budget
    even = {"gn=3": 6, "gn=8": 8}.get(norm, 2)
    unit = even if all((b.width or even) % even == 0 for b in solved) else even // 2
    total = sum(b.width or 0 for b in solved)
    wider = bisect_right(  # the first step that is wider than the solution
        range(8 * budget), total, key=lambda k: sum(b.width or 0 for b in widen(blocks, k, unit))
    )
    assert widen(blocks, wider - 1, unit) == solved
    assert count(widen(blocks, wider, unit), norm=norm, classes=classes) >= budget
    # What was written stays; what was open is filled in, but for the classifier.
    for before, after in zip(blocks, solved, strict=True):
        assert before.width is None or before.width == after.width
    assert [b.width is None for b in solved if b.kind in "CcDFC"].count(True) == 1


def test_open_widths_follow_the_rules():
    blocks = solve(layout.parse("C:11 c C+ D*2 P c:7 FC:5 FC"), norm="bn", classes=3, budget=None)
    assert [b.width for b in blocks] == [11, 4, 4, 4, None, 7, 5, None]


def test_odd_widths_where_even_ones_do_not_fit():
    blocks = layout.parse("C C C GAP FC")
    even = count(widen(blocks, 1, 2), norm="bn", classes=10)
    solved = solve(blocks, norm="bn", classes=10, budget=even)
    assert [b.width for b in solved] == [1, 1, 1, None, None]


def test_without_an_open_width_there_is_no_limit_unless_it_is_given():
    line = "C:100 C:100 GAP FC"
    assert summarize(line).parameters > 50_000
    with pytest.raises(UsageError, match=r"too many to stay below the budget of 50,000"):
        summarize(line, budget=50_000)
    count = summarize(line).parameters
    assert summarize(line, budget=count + 1).parameters == count
    with pytest.raises(UsageError, match=r" 1 too many"):
        summarize(line, budget=count)


BLOCKS = st.builds(
    layout.Block,
    kind=st.sampled_from(["C", "c", "D", "P", "A"]),
    width=st.integers(1, 9),
    valid=st.booleans(),
    stride=st.sampled_from([1, 1, 2]),
    norm=st.none() | st.sampled_from(["ln", "gn", "none"]),
    residual=st.booleans(),
    repeat=st.integers(1, 2),
).map(lambda block: layout.Block(block.kind) if block.kind in "PA" else block)


@given(st.lists(BLOCKS, max_size=6), st.sampled_from(["GAP FC", "GAP C C", "c GAP", "FC"]))
def test_shapes_and_counts_of_the_table_are_the_modules(blocks, end):
    blocks = [*blocks, *layout.parse(end)]
    blocks = [b if b.kind != "c" else layout.Block("c", width=b.width) for b in blocks]
    blocks[-1 if end != "c GAP" else -2] = layout.Block(end.split()[-1 if end != "c GAP" else 0])
    blocks = [b if b.kind != "C" or b.width else layout.Block("C", width=3) for b in blocks]
    line = layout.format(blocks)
    try:
        summary = summarize(line, classes=4, budget=None)
    except LayoutError as error:
        assert "^" in str(error)
        return
    network = Network(line, classes=4).eval()
    x = torch.rand(2, 3, 32, 32)
    for module, row in zip(network.blocks, summary.rows, strict=True):
        x = module(x)
        assert x.shape == (2, *row.shape)
        assert sum(p.numel() for p in module.parameters()) == row.parameters
    assert x.shape == (2, 4, 1, 1)


def field_of(network, layers):
    """The receptive field found by asking which pixels an output in the middle depends on."""
    x = torch.rand(1, 3, 32, 32, dtype=torch.double, requires_grad=True)
    y = x
    for block in network.double().eval().blocks[:layers]:
        y = block(y)
    middle = y.shape[-1] // 2
    y[..., middle, middle].sum().backward()
    rows = torch.nonzero(x.grad.abs().sum((0, 1, 3))).flatten()
    return int(rows[-1] - rows[0] + 1)


@pytest.mark.parametrize(
    "line",
    ["C:4 A C:4 C:4 c:4 A C:4 GAP FC", "C:4s2 C:4+*2 A D:8 GAP FC", "C:4v Cs2:4 D:4+ GAP FC"],
)
def test_the_receptive_field_is_what_outputs_depend_on(line):
    # Average pooling and norm `none` with positive weights: no pixel's influence cancels or dies.
    network = Network(line, norm="none")
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    rows = summarize(line, norm="none").rows
    for layers, row in enumerate(rows, start=1):
        if row.receptive_field is not None:
            assert field_of(network, layers) == row.receptive_field


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


def test_networks_that_differ_in_normalization_alone_start_from_equal_convolutions():
    networks = [Network(ASSIGNMENT, norm=norm, budget=None) for norm in ("bn", "gn", "ln", "in")]
    first = networks[0].state_dict()
    for network in networks[1:]:
        for name, tensor in network.state_dict().items():
            if "conv" in name:
                assert torch.equal(tensor, first[name])
    other = Network(ASSIGNMENT, seed=1).state_dict()
    assert not torch.equal(other["blocks.0.conv.weight"], first["blocks.0.conv.weight"])


def test_first_weights_are_pytorchs_default_draws_and_leave_its_generator_alone():
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


def test_dropout_follows_activations_only():
    network = Network("C:8 c:8 D:8 GAP FC", dropout=0.5).train()
    dropped = [getattr(b, "dropout", None) is not None for b in network.blocks]
    assert dropped == [True, False, True, False, False]
    zeros = (network.blocks[0](torch.rand(4, 3, 32, 32)) == 0).float().mean()
    assert zeros > 0.5


@pytest.mark.parametrize(
    ("line", "token", "problem"),
    [
        ("C:4 P P P P P C:4v c GAP", 6, "does not fit a map of 1 × 1"),
        ("C:4 C:8+ c GAP", 1, "+ needs an output of its input's shape: 4 × 32 × 32 goes in, 8"),
        ("C:4 C:4s2*2 c GAP", 1, "* needs an output of its input's shape"),
        ("C:12", 0, "the classifier is bare"),
        ("C:12 c", 1, "the network ends with a map, 10 × 32 × 32: add GAP"),
        ("C:8 D GAP", 1, "the classifier is bare"),
        ("P GAP", 1, "no classifier"),
        ("C:8 c:9 GAP", 1, "the classifier's width is the number of classes, 10"),
        ("C:8 GAP P FC", 2, "after GAP come C, c or FC, not P"),
        ("C:8 GAP C:8/ln FC", 2, "after GAP a convolution is 1×1 and bare"),
        ("C:8 FC:8 C", 2, "after FC comes nothing but FC, not C"),
        ("C:8 P P P P P P c GAP", 6, "nothing is left to pool: the map is 1 × 1"),
        ("C:8 P P P P C:8v c GAP", 5, "does not fit a map of 2 × 2"),
        ("C:8 C:8/gm c GAP", 1, "did you mean gn?"),
        ("C:8 C:9/gn=2 c GAP", 1, "2 groups do not divide 9 channels"),
        ("C:8 P P P P P C:8/in c GAP", 6, "in over a 1 × 1 map is constant"),
    ],
)
def test_blocks_that_cannot_stand_where_they_stand(line, token, problem):
    with pytest.raises(LayoutError) as caught:
        Network(line)
    assert problem in caught.value.problem
    assert caught.value.start == len(" ".join([*line.split()[:token], ""]))


def test_an_unknown_normalization_of_the_network_is_no_blocks_fault():
    with pytest.raises(UsageError, match="did you mean gn") as caught:
        Network("C:8 c GAP", norm="gm")
    assert not isinstance(caught.value, LayoutError)


def test_groups_by_default_are_shown():
    rows = summarize("C:12 D:9 C:7 GAP FC", norm="gn").rows
    assert [row.normalization for row in rows] == ["gn=4", "gn=4, 3", "gn=1", "", ""]


def test_running_statistics_are_counted_beside_the_parameters():
    assert summarize("C:12 D:9 GAP FC", norm="bn").running_statistics == 2 * (12 + 12 + 9)
    assert summarize("C:12 D:9 GAP FC", norm="gn").running_statistics == 0


def test_placing_knows_every_shape():
    shapes = [p.output for p in place(layout.parse("C:4vs2 P c GAP"), norm="bn", classes=5)]
    assert shapes == [(4, 15, 15), (4, 7, 7), (5, 7, 7), (5, 1, 1)]


def test_names_of_the_zoo_are_taken_too():
    assert summarize("seed-ln").parameters == 42_140
    assert Network("seed-bn").layout == ZOO["seed-bn"].layout


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_a_classifier_needs_two_classes(classes):
    with pytest.raises(UsageError, match="at least 2 classes"):
        summarize("seed-bn", classes=classes)


def test_an_endless_budget_ends_at_the_widest_the_notation_can_write():
    summary = summarize("C c P D GAP FC", budget=10**12)
    widths = [block.width for block in layout.parse(summary.layout) if block.width]
    assert 4096 - 8 < max(widths) <= 4096


def test_what_needs_two_channels_still_answers_for_the_budget():
    with pytest.raises(UsageError, match="too many to stay below the budget of 300"):
        summarize(ASSIGNMENT, norm="ln-channel", budget=300)


def test_a_single_value_for_a_channel_is_refused_with_its_block():
    blocks = layout.parse("C:4 P P P P P C:4/gn C:4 c GAP")
    refuse_single_values(blocks, norm="bn", classes=10, batch=2)
    refuse_single_values(blocks, norm="ln", classes=10, batch=1)
    with pytest.raises(LayoutError, match="bn over a 1 × 1 map") as caught:
        refuse_single_values(blocks, norm="bn", classes=10, batch=1)
    assert caught.value.start == len("C:4 P P P P P C:4/gn ")
