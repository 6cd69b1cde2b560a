"""Limits of RAM, flash and multiply-accumulates beside the budget, and the boards that set them."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normlab import notation
from normlab.config import Limits
from normlab.errors import UsageError
from normlab.network.boards import BOARDS
from normlab.network.summary import summarize
from normlab.network.widths import solve, widen
from normlab.network.zoo import ZOO

ASSIGNMENT = ZOO["assignment"].layout
LINES = [ASSIGNMENT, "C D D+ P D D+ P D D+ GAP FC", "Cs2 D*3 P C c P D+*2 GAP C FC"]
QUANTITIES = {
    "ram": lambda table: table.memory.arena,
    "flash": lambda table: table.memory.constants,
    "macs": lambda table: table.macs,
}
FLAGS = {"ram": "bytes of RAM", "flash": "bytes of flash", "macs": "multiply-accumulates"}


@pytest.mark.slow(2)
@pytest.mark.parametrize("norm", ["bn", "gn", "ln-channel", "dyt"])
@pytest.mark.parametrize(
    "limits",
    [{"ram": 16_384}, {"ram": 32_768}, {"flash": 16_384}, {"flash": 65_536}, {"macs": 2_000_000}],
)
@pytest.mark.parametrize("line", LINES[:2])
def test_open_widths_use_a_limit_and_do_not_exceed_it(line, limits, norm):
    table = summarize(line, norm=norm, budget=1_000_000, limits=Limits(**limits))
    ((name, most),) = limits.items()
    # A step of a whole map, as gn needs it, is two kilobytes.
    share = 0.7 if (name, norm) == ("ram", "gn") else 0.95
    assert share * most < QUANTITIES[name](table) <= most


@pytest.mark.slow(2)
@settings(max_examples=40, deadline=None)
@given(
    line=st.sampled_from(LINES),
    norm=st.sampled_from(["bn", "gn", "rms", "none"]),
    budget=st.none() | st.integers(1_000, 100_000),
    ram=st.none() | st.integers(1_000, 60_000),
    flash=st.none() | st.integers(2_000, 100_000),
    macs=st.none() | st.integers(100_000, 9_000_000),
    size=st.sampled_from([16, 28, 32]),
)
def test_a_network_stays_within_every_limit_or_the_error_says_which_it_exceeds(
    line, norm, budget, ram, flash, macs, size
):
    limits = {"ram": ram, "flash": flash, "macs": macs}
    shape = (3, size, size)
    try:
        table = summarize(line, norm=norm, budget=budget, shape=shape, limits=Limits(**limits))
    except UsageError as error:
        narrowest = notation.format(widen(notation.parse(line), 1, 1, 3))
        table = summarize(narrowest, norm=norm, shape=shape)
        for name, most in limits.items():
            value = QUANTITIES[name](table)
            over = 0 if most is None else value - most
            text = f"{value:,} {FLAGS[name]} with {norm}, {over:,} more than --{name}"
            assert (text in str(error)) == (over > 0)
        most = budget if budget is not None or flash is not None else 50_000
        assert ("the budget of" in str(error)) == (most is not None and table.parameters >= most)
        return
    for name, most in limits.items():
        assert most is None or QUANTITIES[name](table) <= most
    if budget is not None or flash is None:
        assert table.parameters < (50_000 if budget is None else budget)


def test_a_limit_that_does_not_bind_changes_no_width():
    for norm in ("bn", "gn", "ln"):
        alone = summarize(ASSIGNMENT, norm=norm, budget=5_000)
        wide = Limits(ram=500_000, flash=10**6, macs=10**8, board="esp32-s3")
        assert summarize(ASSIGNMENT, norm=norm, budget=5_000, limits=wide) == alone


def test_flash_takes_the_place_of_the_default_budget_and_a_board_does_not():
    assert summarize(ASSIGNMENT, limits=Limits(flash=131_072)).parameters > 100_000
    for limits in (Limits(board="nano-33-ble"), Limits(ram=10**6), Limits(macs=10**9)):
        assert summarize(ASSIGNMENT, limits=limits) == summarize(ASSIGNMENT)
    given = summarize(ASSIGNMENT, budget=20_000, limits=Limits(flash=131_072))
    assert given == summarize(ASSIGNMENT, budget=20_000)


def test_all_that_is_exceeded_is_named():
    with pytest.raises(UsageError) as caught:
        summarize("nano", budget=4_000, limits=Limits(ram=10_240, flash=7_000, macs=1_000_000))
    assert str(caught.value) == (
        "the network has 4,888 parameters with bn, 889 too many to stay below the budget of 4,000; "
        "1,498,756 multiply-accumulates with bn, 498,756 more than --macs 1,000,000; "
        "7,858 bytes of flash with bn, 858 more than --flash 7,000; "
        "10,944 bytes of RAM with bn, 704 more than --ram 10,240: "
        "leave widths open, to be solved"
    )
    summarize("nano", budget=4_889, limits=Limits(ram=10_944, flash=7_858, macs=1_498_756))


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_sets_both_and_less_can_be_asked_for(name):
    board = BOARDS[name]
    both = Limits(ram=board.ram, flash=board.flash)
    line = "C C P C C P C GAP FC"
    large = 10**8
    assert (
        summarize(line, norm="gn", budget=large, limits=Limits(board=name)).layout
        == summarize(line, norm="gn", budget=large, limits=both).layout
    )
    less = summarize(line, norm="gn", limits=Limits(board=name, ram=20_000, flash=30_000))
    assert less.memory.arena <= 20_000
    assert less.memory.constants <= 30_000
    for part in ("ram", "flash"):
        whole = getattr(board, part)
        summarize("nano", limits=Limits(board=name, **{part: whole}))
        with pytest.raises(UsageError, match=f"more than the {whole:,} bytes of --board {name}"):
            summarize("nano", limits=Limits(board=name, **{part: whole + 1}))


def test_a_network_that_a_board_cannot_hold_is_refused_with_the_boards_name():
    with pytest.raises(UsageError, match=r"more than the 131,072 of --board microbit-v2: leave"):
        summarize("C:64 C:96 C:96+ GAP FC", norm="gn", limits=Limits(board="microbit-v2"))


def test_a_layout_without_c_has_no_limit_of_memory():
    line = "C P C/torch.nn:Identity GAP FC"
    for limits in (Limits(ram=10_000), Limits(flash=10_000), Limits(board="pico")):
        with pytest.raises(UsageError, match="RAM and flash are those of a C program: the normali"):
            summarize(line, limits=limits)
    assert summarize(line, limits=Limits(macs=10**6)).macs <= 10**6


def test_rows_are_no_wider_than_a_program_can_have_them():
    shape = (3, 128, 128)
    wide = summarize("C Cs2 Cs2 GAP FC", shape=shape, limits=Limits(flash=10**7))
    assert 60_000 < wide.memory.widest < 65_536
    with pytest.raises(UsageError, match=r"in a row of a map with bn, .* more than the 65,535"):
        summarize("C:600 P GAP FC", shape=shape, limits=Limits(ram=10**7))


def test_the_rules_of_widths_hold_with_limits():
    blocks = notation.parse(LINES[1])
    limits = Limits(ram=9_000, macs=1_500_000)
    solved = solve(blocks, norm="gn=4", classes=10, budget=None, shape=(3, 32, 32), limits=limits)
    for before, after in zip(blocks, solved, strict=True):
        assert before == replace(after, width=before.width)
        assert after.width is None or after.width % 4 == 0
