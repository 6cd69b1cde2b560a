"""Solves the open widths of a layout from a parameter budget."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.network.shapes import INPUT, classifier_of, count
from normlab.notation import MAX_WIDTH, Block, LayoutError

DEFAULT_BUDGET = 50_000

# An open width is k/8 times the ratio of its stage. The stage is the number of times that the map
# was halved before. The ratios have no common multiples and the steps are eighths, so stages widen
# one after the other and little of the budget is left over.
STAGE_RATIOS = (1.0, 1.3, 1.7, 2.2)
STEPS_PER_CHANNEL = 8


def solve(
    blocks: Sequence[Block],
    *,
    norm: str,
    classes: int,
    budget: int | None,
    activation: str = "relu",
) -> tuple[Block, ...]:
    """Fills in the open widths of a layout, as wide as the budget allows.

    An open width is k/8 times its stage's ratio, rounded down to a multiple of 2 (with given
    groups, of 2 and the groups; if that does not fit, of 1 or the groups). An open `c` has half its
    input's width, an open `+` or `*` its input's width. k is the largest whole number for which the
    number of parameters is strictly below the budget and the notation can write the widths. The
    classifier's width remains open.

    Args:
        blocks: The layout.
        norm: The network's normalization, whose parameters count.
        classes: The classifier's width.
        budget: The network must have fewer parameters. None: 50,000 if a width is open, otherwise
            no limit.
        activation: The network's activation, whose parameters count, too.

    Raises:
        LayoutError: A block is not allowed in its place.
        UsageError: Even the narrowest network exceeds the budget (the message says by how much),
            there are fewer than two classes, or no width is divisible by the groups.
    """
    if budget is not None and budget < 1:
        raise UsageError(f"the budget must be at least 1, not {budget}")
    if classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, not {classes}")
    multiple = _common_multiple(blocks, norm)
    classifier = classifier_of(blocks)
    is_open = any(
        block.width is None and block.weighted
        for index, block in enumerate(blocks)
        if index != classifier
    )
    if not is_open:
        parameters = count(blocks, norm=norm, classes=classes, activation=activation)
        if budget is not None and parameters >= budget:
            raise UsageError(
                f"the network has {_excess(parameters, norm, budget)}: leave widths open, "
                "to be solved"
            )
        return tuple(blocks)

    budget = DEFAULT_BUDGET if budget is None else budget

    def parameters_at(k: int, unit: int) -> int:
        return count(widen(blocks, k, unit), norm=norm, classes=classes, activation=activation)

    # Even widths first, because groups divide them; then any.
    units = [
        unit
        for unit in dict.fromkeys((math.lcm(2, multiple), multiple))
        if _widest(blocks, 1, unit) <= MAX_WIDTH
    ]
    if not units:
        raise UsageError(
            f"no width up to {MAX_WIDTH:,} is divisible by all given groups: use fewer groups"
        )
    narrowest = 0
    for unit in units:
        try:
            narrowest = parameters_at(1, unit)
        except LayoutError:
            if unit == units[0]:
                raise
            break  # a normalization that needs two channels
        if narrowest < budget:
            return widen(blocks, _largest_step(blocks, unit, budget, parameters_at), unit)
    raise UsageError(f"at its narrowest the network has {_excess(narrowest, norm, budget)}")


def _excess(parameters: int, norm: str, budget: int) -> str:
    return (
        f"{parameters:,} parameters with {norm}, {parameters - budget + 1:,} too many to stay "
        f"below the budget of {budget:,}"
    )


def _common_multiple(blocks: Sequence[Block], norm: str) -> int:
    """The number that every width must be a multiple of, for all given groups to divide it."""
    multiple = norms.channel_multiple(norm)
    for index, block in enumerate(blocks):
        if block.norm is not None:
            try:
                multiple = math.lcm(multiple, norms.channel_multiple(block.norm))
            except UsageError as error:
                raise notation.error_at(blocks, index, str(error)) from None
    return multiple


def _largest_step(
    blocks: Sequence[Block], unit: int, budget: int, parameters_at: Callable[[int, int], int]
) -> int:
    """The largest k that stays below the budget, by doubling and then by bisection."""

    def fits(k: int) -> bool:
        return _widest(blocks, k, unit) <= MAX_WIDTH and parameters_at(k, unit) < budget

    step, limit = 1, 2
    # Beyond this limit a width that depends on k would be too wide, so none does.
    while limit <= MAX_WIDTH * STEPS_PER_CHANNEL and fits(limit):
        step, limit = limit, limit * 2
    while limit - step > 1:
        middle = (step + limit) // 2
        step, limit = (middle, limit) if fits(middle) else (step, middle)
    return step


def _widest(blocks: Sequence[Block], k: int, unit: int) -> int:
    return max(block.width or 0 for block in widen(blocks, k, unit))


def widen(blocks: Sequence[Block], k: int, unit: int) -> tuple[Block, ...]:
    """The layout with its open widths filled in for one k, except the classifier's."""
    classifier = classifier_of(blocks)
    filled: list[Block] = []
    channels, stage = INPUT[0], 0
    for index, block in enumerate(blocks):
        if block.weighted and index != classifier:
            if block.width is None:
                ratio = STAGE_RATIOS[min(stage, len(STAGE_RATIOS) - 1)]
                if block.residual or block.repeat > 1:
                    width = channels
                else:
                    target = channels / 2 if block.kind == "c" else k * ratio / STEPS_PER_CHANNEL
                    width = max(unit, int(target) // unit * unit)
                block = replace(block, width=width)
            channels = block.width or channels
        stage += block.kind in ("P", "A") or block.stride == 2
        filled.append(block)
    return tuple(filled)
