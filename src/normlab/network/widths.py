"""Solves the open widths of a layout from a parameter budget."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network.shapes import classifier_of, count
from normlab.notation import MAX_WIDTH, Block, LayoutError

DEFAULT_BUDGET = 50_000

# An open width is k/8 times the ratio of its stage. The stage is the number of times that the map
# was halved before. The ratios have no common multiples and the steps are eighths, so stages widen
# one after the other and little of the budget is left over.
STAGE_RATIOS = (1.0, 1.3, 1.7, 2.2)
STEPS_PER_CHANNEL = 8
ENOUGH = 0.97  # of the budget


def solve(
    blocks: Sequence[Block],
    *,
    norm: str,
    classes: int,
    budget: int | None,
    shape: Shape,
    activation: str = "relu",
) -> tuple[Block, ...]:
    """Fills in the open widths of a layout, as wide as the budget allows.

    An open width is k/8 times its stage's ratio, rounded down to a multiple of 2 (with given
    groups, of 2 and the groups; if that does not fit, of 1 or the groups). An open `c` has half its
    input's width, an open `+` or `*` its input's width. k is the largest whole number for which the
    number of parameters is strictly below the budget and the notation can write the widths. What
    then is left of the budget widens single blocks: `_fill` says which. Smaller k, and with given
    groups odd multiples, are tried where less than 97% of the budget is used. The classifier's
    width remains open.

    Args:
        blocks: The layout.
        norm: The network's normalization, whose parameters count.
        classes: The classifier's width.
        budget: The network must have fewer parameters. None: 50,000 if a width is open, otherwise
            no limit.
        shape: Shape (C, H, W) of an image.
        activation: The network's activation, whose parameters count, too.

    Raises:
        LayoutError: A block is not allowed in its place.
        UsageError: Even the narrowest network exceeds the budget (the message says by how much),
            there are fewer than two classes, no width is divisible by the groups, or a custom
            network has a budget.
    """
    if classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, not {classes}")
    if blocks[0].custom:
        if budget is not None:
            raise UsageError(
                f"{blocks[0]} is your own network: a parameter budget does not apply, leave it out"
            )
        return tuple(blocks)
    multiple = _common_multiple(blocks, norm)

    def parameters_of(filled: Sequence[Block]) -> int:
        return count(filled, norm=norm, classes=classes, shape=shape, activation=activation)

    if not _open(blocks):
        parameters = parameters_of(blocks)
        if budget is not None and parameters >= budget:
            raise UsageError(
                f"the network has {_excess(parameters, norm, budget)}: leave widths open, "
                "to be solved"
            )
        return tuple(blocks)

    budget = DEFAULT_BUDGET if budget is None else budget
    channels = shape[0]

    def parameters_at(k: int, unit: int) -> int:
        return parameters_of(widen(blocks, k, unit, channels))

    # Even widths first, because groups divide them; then any.
    units = [
        unit
        for unit in dict.fromkeys((math.lcm(2, multiple), multiple))
        if _widest(blocks, 1, unit, channels) <= MAX_WIDTH
    ]
    if not units:
        raise UsageError(
            f"no width up to {MAX_WIDTH:,} is divisible by all given groups: use fewer groups"
        )
    narrowest = 0
    solutions: dict[tuple[Block, ...], int] = {}
    for unit in units:
        if solutions and multiple == 1:
            break  # gn on odd widths has few groups, or one
        try:
            narrowest = parameters_at(1, unit)
        except LayoutError:
            if unit == units[0]:
                raise
            break  # a normalization that needs two channels
        if narrowest >= budget:
            continue
        largest = _largest_step(blocks, unit, channels, budget, parameters_at)
        for k in _steps_down(largest, unit):
            filled = _fill(blocks, k, unit, channels, lambda wider: parameters_of(wider) < budget)
            solutions[filled] = parameters_of(filled)
            if solutions[filled] >= ENOUGH * budget:
                return filled
    if solutions:
        return max(solutions, key=lambda filled: solutions[filled])
    raise UsageError(f"at its narrowest the network has {_excess(narrowest, norm, budget)}")


def _steps_down(largest: int, unit: int) -> range:
    """Sixteen steps, from the largest down, over which every width falls by about one unit."""
    stride = -(-unit // 2)
    return range(largest, max(0, largest - 2 * STEPS_PER_CHANNEL * stride), -stride)


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
    blocks: Sequence[Block],
    unit: int,
    channels: int,
    budget: int,
    parameters_at: Callable[[int, int], int],
) -> int:
    """The largest k that stays below the budget, by doubling and then by bisection."""

    def fits(k: int) -> bool:
        return _widest(blocks, k, unit, channels) <= MAX_WIDTH and parameters_at(k, unit) < budget

    step, limit = 1, 2
    # Beyond this limit a width that depends on k would be too wide, so none does.
    while limit <= MAX_WIDTH * STEPS_PER_CHANNEL and fits(limit):
        step, limit = limit, limit * 2
    while limit - step > 1:
        middle = (step + limit) // 2
        step, limit = (middle, limit) if fits(middle) else (step, middle)
    return step


def _widest(blocks: Sequence[Block], k: int, unit: int, channels: int) -> int:
    return max(block.width or 0 for block in widen(blocks, k, unit, channels))


def _fill(
    blocks: Sequence[Block],
    k: int,
    unit: int,
    channels: int,
    fits: Callable[[Sequence[Block]], bool],
) -> tuple[Block, ...]:
    """Widens single blocks while the network fits: the least widened first, of equals the last.

    It stays in proportion: `_in_proportion` says how. Each `c` is widened when nothing else can be:
    it takes small remainders.
    """
    own = [index for index in _open(blocks) if not _takes_its_inputs(blocks[index])]
    filled = widen(blocks, k, unit, channels)
    rule = {index: filled[index].width or 0 for index in own}
    widths = dict(rule)
    while True:
        for index in sorted(own, key=lambda i: (blocks[i].kind == "c", widths[i] - rule[i], -i)):
            step = 1 if _is_bare(blocks, index) else unit
            tried = widths | {index: (filled[index].width or 0) + step}
            wider = widen(blocks, k, unit, channels, tried)
            if _in_proportion(blocks, wider, index, step, channels) and fits(wider):
                widths, filled = tried, wider
                break
        else:
            return filled


def _in_proportion(
    blocks: Sequence[Block], filled: Sequence[Block], index: int, step: int, channels: int
) -> bool:
    """Whether a block may be widened by a step, to a width that is filled in already.

    An open `c` has at most three quarters of its input's width. Other widths do not fall along the
    network, and one of twice its stage's share of the narrowest grows no more.
    """
    width = filled[index].width or 0
    if width > MAX_WIDTH:
        return False
    if blocks[index].kind == "c":
        before = next((b.width for b in reversed(filled[:index]) if b.width), channels)
        return 4 * width <= 3 * before
    ratios = _ratios(blocks)
    own = {
        i: filled[i].width or 0
        for i in _open(blocks)
        if blocks[i].kind != "c" and not _takes_its_inputs(blocks[i])
    }
    narrowest = min(each / ratios[i] for i, each in own.items())
    return (width - step) / ratios[index] <= 2 * narrowest and all(
        width <= each for i, each in own.items() if i > index
    )


def _ratios(blocks: Sequence[Block]) -> list[float]:
    """The ratio of each block's stage."""
    ratios, stage = [], 0
    for block in blocks:
        ratios.append(STAGE_RATIOS[min(stage, len(STAGE_RATIOS) - 1)])
        stage += block.kind in ("P", "A") or block.stride == 2
    return ratios


def _open(blocks: Sequence[Block]) -> list[int]:
    """The indices of the blocks whose width is to be solved."""
    classifier = classifier_of(blocks)
    return [
        index
        for index, block in enumerate(blocks)
        if block.weighted and block.width is None and index != classifier
    ]


def _takes_its_inputs(block: Block) -> bool:
    """Whether a block's open width is its input's."""
    return block.residual or block.repeat > 1


def _is_bare(blocks: Sequence[Block], index: int) -> bool:
    """Whether a block is a `c` whose width is normalized nowhere: any width will do.

    A `D` normalizes its input's channels, and a `+` or `*` takes over its input's width.
    """
    following = next((block for block in blocks[index + 1 :] if block.weighted), None)
    return (
        blocks[index].kind == "c"
        and following is not None
        and following.kind == "C"
        and not _takes_its_inputs(following)
    )


def widen(
    blocks: Sequence[Block],
    k: int,
    unit: int,
    channels: int,
    at_least: Mapping[int, int] | None = None,
) -> tuple[Block, ...]:
    """The layout with its open widths filled in, except the classifier's.

    Args:
        blocks: The layout.
        k: The step of the rule.
        unit: What the widths are multiples of.
        channels: Channels of an image.
        at_least: Widths of single blocks, by their index, where they exceed the rule's.
    """
    is_open = set(_open(blocks))
    filled: list[Block] = []
    for index, (block, ratio) in enumerate(zip(blocks, _ratios(blocks), strict=True)):
        if index in is_open:
            if _takes_its_inputs(block):
                width = channels
            else:
                target = channels / 2 if block.kind == "c" else k * ratio / STEPS_PER_CHANNEL
                multiple = math.gcd(2, unit) if _is_bare(blocks, index) else unit
                width = max(multiple, int(target) // multiple * multiple)
                width = max(width, (at_least or {}).get(index, 0))
            block = replace(block, width=width)
        if block.weighted:
            channels = block.width or channels
        filled.append(block)
    return tuple(filled)
