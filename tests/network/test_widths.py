from bisect import bisect_right

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab import notation
from normlab.errors import UsageError
from normlab.network.model import Network
from normlab.network.shapes import count
from normlab.network.summary import summarize
from normlab.network.widths import solve, widen
from normlab.network.zoo import ZOO

ASSIGNMENT = ZOO["assignment"].layout
NORMS = ["none", "bn", "gn", "gn=3", "gn=8", "ln", "ln-channel", "in", "rms"]


OPEN_LAYOUTS = [
    ASSIGNMENT,
    "C D D+ P D D+ P D D+ GAP FC",
    "Cs2 D*3 P C c P D+*2 GAP C FC",
    "C C:24 P c A D+ GAP FC",
]


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


@settings(max_examples=60)
@given(
    line=st.sampled_from(OPEN_LAYOUTS),
    norm=st.sampled_from(NORMS),
    budget=st.integers(1_500, 200_000),
    classes=st.integers(2, 20),
)
def test_widths_are_the_widest_that_fit(line, norm, budget, classes):
    blocks = notation.parse(line)
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
    # Given widths are kept; open ones are filled in, except the classifier's.
    for before, after in zip(blocks, solved, strict=True):
        assert before.width is None or before.width == after.width
    assert [b.width is None for b in solved if b.kind in "CcDFC"].count(True) == 1


def test_open_widths_follow_the_rules():
    blocks = solve(notation.parse("C:11 c C+ D*2 P c:7 FC:5 FC"), norm="bn", classes=3, budget=None)
    assert [b.width for b in blocks] == [11, 4, 4, 4, None, 7, 5, None]


def test_widths_are_odd_if_even_ones_do_not_fit():
    blocks = notation.parse("C C C GAP FC")
    even = count(widen(blocks, 1, 2), norm="bn", classes=10)
    solved = solve(blocks, norm="bn", classes=10, budget=even)
    assert [b.width for b in solved] == [1, 1, 1, None, None]


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
        solve(notation.parse(line), norm="bn", classes=10, budget=None)


def test_groups_that_divide_no_even_width_get_an_odd_one():
    (first, *_) = solve(notation.parse("C1/gn=4095 GAP FC"), norm="bn", classes=10, budget=10**9)
    assert first.width == 4095


def test_with_an_endless_budget_widths_end_at_the_notations_limit():
    summary = summarize("C c P D GAP FC", budget=10**9)
    widths = [block.width for block in notation.parse(summary.layout) if block.width]
    assert 4096 - 8 < max(widths) <= 4096


def test_a_normalization_that_needs_two_channels_is_checked_against_the_budget():
    with pytest.raises(UsageError, match="too many to stay below the budget of 300"):
        summarize(ASSIGNMENT, norm="ln-channel", budget=300)
