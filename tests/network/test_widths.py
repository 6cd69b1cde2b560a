import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab import notation
from normlab.errors import UsageError
from normlab.layers.norms import REGISTRY
from normlab.network.model import Network
from normlab.network.shapes import INPUT, count
from normlab.network.summary import summarize
from normlab.network.widths import STAGE_RATIOS, solve, widen
from normlab.network.zoo import ZOO

ASSIGNMENT = ZOO["assignment"].layout
NORMS = ["none", "bn", "gn", "gn=3", "gn=8", "ln", "ln-channel", "in", "rms"]


OPEN_LAYOUTS = [
    ASSIGNMENT,
    "C D D+ P D D+ P D D+ GAP FC",
    "Cs2 D*3 P C c P D+*2 GAP C FC",
    "C C:24 P c A D+ GAP FC",
]
OPEN_BLOCKS = st.lists(st.sampled_from(["C", "D", "c", "C+", "D+", "C*2"]), min_size=1, max_size=3)
# Layouts such as "C D+ P c C GAP FC".
OPEN_LINES = st.tuples(OPEN_BLOCKS, OPEN_BLOCKS).map(
    lambda stages: ["C", *stages[0], "P", *stages[1], "GAP", "FC"]
)
UNITS = {"gn=3": 6, "gn=8": 8}  # what even widths are multiples of, with given groups


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("budget", [5_000, 50_000])
def test_the_assignments_layout_can_be_built_within_both_budgets(norm, budget):
    network = Network(ASSIGNMENT, norm=norm, budget=budget)
    assert sum(p.numel() for p in network.parameters()) < budget
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_the_error_says_by_how_much_the_budget_is_exceeded():
    with pytest.raises(UsageError, match=r"6,118 parameters with ln-full, 1,119 too many .* 5,000"):
        Network(ASSIGNMENT, norm="ln-full", budget=5_000)
    Network(ASSIGNMENT, norm="ln-full", budget=6_119)


@pytest.mark.parametrize("budget", [0, -5])
def test_no_network_stays_below_a_budget_of_0(budget):
    with pytest.raises(UsageError, match=f"too many to stay below the budget of {budget}"):
        Network("C:4 P GAP FC", budget=budget)


@pytest.mark.parametrize("norm", [*sorted(set(REGISTRY) - {"ln-full"}), "gn=3", "gn=8"])
@pytest.mark.parametrize("line", OPEN_LAYOUTS)
@pytest.mark.parametrize("budget", [5_000, 50_000])
def test_97_percent_of_the_budget_are_used(budget, line, norm):
    """`ln-full` is left out: a wider block may cost it more than 3%, for each value of a map."""
    solved = solve(notation.parse(line), norm=norm, classes=10, budget=budget, shape=INPUT)
    assert 0.97 * budget <= count(solved, norm=norm, classes=10, shape=INPUT) < budget
    assert in_proportion(notation.parse(line), solved, unit=UNITS.get(norm, 2))


def test_what_the_rule_leaves_of_the_budget_widens_later_blocks():
    line = summarize(ASSIGNMENT, norm="gn", budget=5_000).layout
    assert line == ("C1:6 C2:6 c3:2 P1 C3:8 C4:8 C5:10 c6:4 P2 C7:10 C8:12 C9:12 GAP C10")


@settings(max_examples=60)
@given(
    line=st.sampled_from(OPEN_LAYOUTS) | st.builds(" ".join, OPEN_LINES),
    norm=st.sampled_from(NORMS),
    budget=st.integers(1_500, 200_000),
    classes=st.integers(2, 20),
)
def test_97_percent_are_used_unless_each_wider_block_would_exceed_the_budget(
    line, norm, budget, classes
):
    """So they are used where some block can be widened by less than 3% of the budget."""
    blocks = notation.parse(line)
    try:
        solved = solve(blocks, norm=norm, classes=classes, budget=budget, shape=INPUT)
    except UsageError:
        unit = {"gn=3": 3, "gn=8": 8}.get(norm, 1)
        assert count(widen(blocks, 1, unit, 3), norm=norm, classes=classes, shape=INPUT) >= budget
        return
    used = count(solved, norm=norm, classes=classes, shape=INPUT)
    assert used < budget
    # Given widths are kept; open ones are filled in, except the classifier's.
    for before, after in zip(blocks, solved, strict=True):
        assert before.width is None or before.width == after.width
    assert [b.width is None for b in solved if b.kind in "CcDFC"].count(True) == 1
    unit = UNITS.get(norm, 2)
    normalized = [b.width for b in solved if b.kind in "CD" and b.width]
    if any(width % unit for width in normalized):
        unit //= 2
        assert not any(width % unit for width in normalized)
    assert in_proportion(blocks, solved, unit)
    if used < 0.97 * budget:
        for wider in wider_by_one_block(blocks, solved, unit):
            assert count(wider, norm=norm, classes=classes, shape=INPUT) >= budget


@settings(max_examples=40, deadline=None)
@given(
    line=st.sampled_from(OPEN_LAYOUTS),
    norm=st.sampled_from(["bn", "gn", "ln"]),
    budget=st.integers(1_500, 60_000),
    size=st.integers(16, 128),
)
def test_a_grey_network_uses_the_budget_as_one_in_colour_does(line, norm, budget, size):
    used = []
    for shape in ((1, size, size), (3, size, size)):
        try:
            solved = solve(notation.parse(line), norm=norm, classes=10, budget=budget, shape=shape)
        except UsageError:
            return  # the budget is too small
        network = Network(notation.format(solved), norm=norm, shape=shape)
        used.append(sum(p.numel() for p in network.parameters()))
        assert used[-1] == count(solved, norm=norm, classes=10, shape=shape) < budget
    grey, colour = used
    saved = 18 * solved[0].width  # the first convolution's weights for two channels
    assert grey >= 0.97 * min(budget, colour - saved)


def test_the_assignment_in_grey_is_wider_than_in_colour():
    grey, colour = (
        summarize(ASSIGNMENT, norm="gn", budget=5_000, shape=(channels, 28, 28))
        for channels in (1, 3)
    )
    assert grey.parameters > 0.97 * 5_000
    assert grey.layout != colour.layout
    assert (
        summarize(colour.layout, norm="gn", shape=(1, 28, 28)).parameters < colour.parameters - 100
    )


def own_widths(blocks):
    """The indices of the blocks whose width is open and not their input's."""
    weighted = [i for i, b in enumerate(blocks) if b.weighted][:-1]
    return [
        i
        for i in weighted
        if blocks[i].width is None and not blocks[i].residual and blocks[i].repeat == 1
    ]


def stage_ratios(blocks):
    halved = [b.kind in ("P", "A") or b.stride == 2 for b in blocks]
    return [STAGE_RATIOS[min(sum(halved[:i]), 3)] for i in range(len(blocks))]


def in_proportion(blocks, solved, unit):
    """Widths do not fall, none is far beyond the others, each `c` is narrower than its input."""
    own = [i for i in own_widths(blocks) if blocks[i].kind != "c"]
    widths, ratios = [solved[i].width for i in own], stage_ratios(blocks)
    shares = [(solved[i].width / ratios[i], (solved[i].width - 2 * unit) / ratios[i]) for i in own]
    transitions = [
        (solved[i].width, next((b.width for b in reversed(solved[:i]) if b.width), 3))
        for i in own_widths(blocks)
        if blocks[i].kind == "c"
    ]
    return (
        widths == sorted(widths)
        and all(share <= 2 * min(each for each, _ in shares) for _, share in shares)
        and all(width <= max(unit, 0.75 * before) for width, before in transitions)
    )


def wider_by_one_block(blocks, solved, unit):
    """The layouts in which one block is wider by a step, and that are still in proportion."""
    for index in own_widths(blocks):
        following = next(b for b in blocks[index + 1 :] if b.weighted)
        bare = following.kind == "C" and not following.residual and following.repeat == 1
        step = 1 if blocks[index].kind == "c" and bare else unit
        wider, channels = [], 3
        for i, (block, now) in enumerate(zip(blocks, solved, strict=True)):
            width = now.width
            if i == index:
                width += step
            elif width is not None and block.width is None:
                if block.residual or block.repeat > 1:
                    width = channels
                elif block.kind == "c":
                    width = max(width, channels // 2 // unit * unit)
            channels = width or channels
            wider.append(dataclasses.replace(now, width=width))
        if wider[index].width <= 4096 and may_be_widened(blocks, wider, index, step):
            yield wider


def may_be_widened(blocks, wider, index, step):
    if blocks[index].kind == "c":
        before = next((b.width for b in reversed(wider[:index]) if b.width), 3)
        return wider[index].width <= 0.75 * before
    own = [i for i in own_widths(blocks) if blocks[i].kind != "c"]
    widths, ratios = [wider[i].width for i in own], stage_ratios(blocks)
    narrowest = min(wider[i].width / ratios[i] for i in own)
    return widths == sorted(widths) and (wider[index].width - step) / ratios[index] <= 2 * narrowest


def test_open_widths_follow_the_rules():
    blocks = notation.parse("C:11 c C+ D*2 P c:7 FC:5 FC")
    assert [b.width for b in widen(blocks, 1, 2, 3)] == [11, 4, 4, 4, None, 7, 5, None]
    solved = solve(
        blocks, norm="bn", classes=3, budget=None, shape=INPUT
    )  # the budget is not used up
    assert [b.width for b in solved] == [11, 8, 8, 8, None, 7, 5, None]


def test_widths_are_odd_if_even_ones_do_not_fit():
    blocks = notation.parse("C C C GAP FC")
    even = count(widen(blocks, 1, 2, 3), norm="bn", classes=10, shape=INPUT)
    solved = solve(blocks, norm="bn", classes=10, budget=even, shape=INPUT)
    assert [b.width for b in solved] == [1, 2, 3, None, None]


def test_without_open_widths_there_is_no_limit_by_default():
    line = "C:100 C:100 GAP FC"
    assert summarize(line).parameters > 50_000
    with pytest.raises(UsageError, match=r"too many to stay below the budget of 50,000"):
        summarize(line, budget=50_000)
    count = summarize(line).parameters
    assert summarize(line, budget=count + 1).parameters == count
    with pytest.raises(UsageError, match=r" 1 too many"):
        summarize(line, budget=count)


@pytest.mark.parametrize("classes", [1, 0, -3])
def test_a_classifier_needs_two_classes(classes):
    with pytest.raises(UsageError, match="at least 2 classes"):
        summarize("seed-bn", classes=classes)


@pytest.mark.parametrize(
    "line",
    [
        f"C1/gn={'6' * 60} C2 GAP FC",
        "C1/gn=1021 C2/gn=1019 C3/gn=1013 GAP FC",  # each alone divides a width
    ],
)
def test_groups_that_divide_no_width_are_refused(line):
    with pytest.raises(UsageError, match=r"^no width up to 4,096 is divisible by all given groups"):
        solve(notation.parse(line), norm="bn", classes=10, budget=None, shape=INPUT)


def test_groups_that_divide_no_even_width_get_an_odd_one():
    (first, *_) = solve(
        notation.parse("C1/gn=4095 GAP FC"), norm="bn", classes=10, budget=10**9, shape=INPUT
    )
    assert first.width == 4095


@pytest.mark.slow(2)
def test_with_an_endless_budget_widths_end_at_the_notations_limit():
    summary = summarize("C c P D GAP FC", budget=10**9)
    widths = [block.width for block in notation.parse(summary.layout) if block.width]
    assert 4096 - 8 < max(widths) <= 4096


def test_a_normalization_that_needs_two_channels_is_checked_against_the_budget():
    with pytest.raises(UsageError, match="too many to stay below the budget of 300"):
        summarize(ASSIGNMENT, norm="ln-channel", budget=300)
