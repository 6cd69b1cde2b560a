"""Solves the open widths of a layout from a parameter budget and other limits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

from normlab import notation
from normlab.config import Limits
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network.bounds import DEFAULT_BUDGET, Bounds, Cost
from normlab.network.shapes import classifier_of
from normlab.notation import MAX_WIDTH, Block, LayoutError

# An open width is k/8 times the ratio of its stage. The stage is the number of times that the map
# was halved before. The ratios have no common multiples and the steps are eighths, so stages widen
# one after the other and little of the budget is left over.
STAGE_RATIOS = (1.0, 1.3, 1.7, 2.2)
STEPS_PER_CHANNEL = 8
ENOUGH = 0.97  # of the budget, or of another limit
NO_LIMITS = Limits()


def solve(
    blocks: Sequence[Block],
    *,
    norm: str,
    classes: int,
    budget: int | None,
    shape: Shape,
    activation: str = "relu",
    limits: Limits = NO_LIMITS,
) -> tuple[Block, ...]:
    """Fills in the open widths of a layout, as wide as the budget and the limits allow.

    An open width is k/8 times its stage's ratio, rounded down to a multiple of 2 (with given
    groups, of 2 and the groups; if that does not fit, of 1 or the groups). An open `c` has half its
    input's width, an open `+` or `*` its input's width. k is the largest whole number for which the
    number of parameters is strictly below the budget, no limit is exceeded and the notation can
    write the widths. What then is left of all of them widens single blocks: `_fill` says which.
    Smaller k, and with given groups odd multiples, are tried where less than 97% of the budget and
    of each limit is used. The classifier's width remains open.

    Args:
        blocks: The layout.
        norm: The network's normalization, whose parameters count.
        classes: The classifier's width.
        budget: The network must have fewer parameters. None: 50,000 if a width is open and flash
            is not limited, otherwise no limit.
        shape: Shape (C, H, W) of an image.
        activation: The network's activation, whose parameters count, too.
        limits: What the network must not exceed.

    Raises:
        LayoutError: A block is not allowed in its place.
        UsageError: Even the narrowest network exceeds the budget or a limit (the message says which
            and by how much), there are fewer than two classes, no width is divisible by the groups,
            a custom network has a budget or a limit, or RAM or flash is limited and the layout has
            no C program.
    """
    if classes < 2:
        raise UsageError(f"a classifier needs at least 2 classes, not {classes}")
    if blocks[0].custom:
        if budget is not None or any(getattr(limits, field.name) for field in fields(Limits)):
            what = "a parameter budget" if budget is not None else "a limit of memory or MACs"
            raise UsageError(
                f"{blocks[0]} is your own network: {what} does not apply, leave it out"
            )
        return tuple(blocks)
    multiple = _common_multiple(blocks, norm)

    def cost_of(filled: Sequence[Block]) -> Cost:
        return Cost(filled, norm=norm, classes=classes, shape=shape, activation=activation)

    if not _open(blocks):
        excess = Bounds(budget, limits).excess(cost_of(blocks), norm)
        if excess:
            raise UsageError(f"the network has {excess}: leave widths open, to be solved")
        return tuple(blocks)

    bounds = Bounds(budget_in_force(blocks, budget, limits), limits)
    channels = shape[0]

    def cost_at(k: int, unit: int) -> Cost:
        return cost_of(widen(blocks, k, unit, channels))

    def fits(filled: Sequence[Block]) -> bool:
        return bounds.allow(cost_of(filled))

    # Even widths first, because groups divide them; then any.
    units = [
        unit
        for unit in dict.fromkeys((math.lcm(2, multiple), multiple))
        if _widest(widen(blocks, 1, unit, channels)) <= MAX_WIDTH
    ]
    if not units:
        raise UsageError(
            f"no width up to {MAX_WIDTH:,} is divisible by all given groups: use fewer groups"
        )
    narrowest: Cost | None = None
    solutions: dict[tuple[Block, ...], int] = {}
    for unit in units:
        if solutions and multiple == 1:
            break  # gn on odd widths has few groups, or one
        try:
            narrowest = cost_at(1, unit)
        except LayoutError:
            if unit == units[0]:
                raise
            break  # a normalization that needs two channels
        if not bounds.allow(narrowest):
            continue
        largest = _largest_step(blocks, unit, channels, fits)
        for k in _steps_down(largest, unit):
            filled = _fill(blocks, k, unit, channels, fits)
            cost = cost_of(filled)
            solutions[filled] = cost.parameters
            if bounds.use(cost, ENOUGH):
                return filled
    if solutions:
        return max(solutions, key=lambda filled: solutions[filled])
    assert narrowest is not None
    raise UsageError(f"at its narrowest the network has {bounds.excess(narrowest, norm)}")


def _steps_down(largest: int, unit: int) -> range:
    """Sixteen steps, from the largest down, over which every width falls by about one unit."""
    stride = -(-unit // 2)
    return range(largest, max(0, largest - 2 * STEPS_PER_CHANNEL * stride), -stride)


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
    fits: Callable[[Sequence[Block]], bool],
) -> int:
    """The largest k whose network fits, by doubling and then by bisection."""

    def allowed(k: int) -> bool:
        filled = widen(blocks, k, unit, channels)
        return _widest(filled) <= MAX_WIDTH and fits(filled)

    step, limit = 1, 2
    # Beyond this limit a width that depends on k would be too wide, so none does.
    while limit <= MAX_WIDTH * STEPS_PER_CHANNEL and allowed(limit):
        step, limit = limit, limit * 2
    while limit - step > 1:
        middle = (step + limit) // 2
        step, limit = (middle, limit) if allowed(middle) else (step, middle)
    return step


def _widest(filled: Sequence[Block]) -> int:
    return max(block.width or 0 for block in filled)


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


def budget_in_force(
    blocks: Sequence[Block], budget: int | None, limits: Limits = NO_LIMITS
) -> int | None:
    """The budget that a layout's widths are solved with: the default if a width is open.

    Args:
        blocks: The layout.
        budget: The budget that was given, if any.
        limits: The limits.
    """
    default = budget is None and limits.flash is None and not blocks[0].custom and _open(blocks)
    return DEFAULT_BUDGET if default else budget


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
