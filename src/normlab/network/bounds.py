"""What a network may have and need at most: a budget of parameters, and the limits of a board."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from normlab.config import BoardName, Limits
from normlab.errors import UsageError
from normlab.layers.norms import Shape
from normlab.network.boards import BOARDS
from normlab.network.memory import WIDEST, Memory, constants_of, plan
from normlab.network.shapes import infer_shapes
from normlab.network.steps import Step, lower
from normlab.notation import Block

DEFAULT_BUDGET = 50_000  # where a width is open


class Cost:
    """What a network has and needs. Each number is found when it is asked for.

    Args:
        blocks: Its layout. Only the classifier's width may be open.
        norm: Its normalization.
        classes: The classifier's width.
        shape: Shape (C, H, W) of an image.
        activation: Its activation.

    Raises:
        LayoutError: A block is not allowed in its place.
        UsageError: There is no such normalization or activation.
    """

    def __init__(
        self, blocks: Sequence[Block], *, norm: str, classes: int, shape: Shape, activation: str
    ) -> None:
        self._shapes = infer_shapes(
            blocks, norm=norm, classes=classes, shape=shape, activation=activation
        )

    @property
    def parameters(self) -> int:
        """Number of learned parameters."""
        return sum(block_shape.parameters for block_shape in self._shapes)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(block_shape.macs for block_shape in self._shapes)

    @cached_property
    def _steps(self) -> tuple[Step, ...]:
        try:
            return lower(self._shapes)
        except UsageError as error:
            raise UsageError(f"RAM and flash are those of a C program: {error}") from None

    @cached_property
    def _memory(self) -> Memory:
        return plan(self._steps)

    @property
    def flash(self) -> int:
        """Bytes of weights and tables of its C program in int8. Raises what `lower` raises."""
        return constants_of(self._steps)

    @property
    def ram(self) -> int:
        """Bytes of working memory of that program. Raises what `lower` raises."""
        return self._memory.arena

    @property
    def row(self) -> int:
        """Bytes of that program's widest row. Raises what `lower` raises."""
        return self._memory.widest


Quantity = Literal["parameters", "macs", "flash", "ram", "row"]
_NOUNS: dict[Quantity, str] = {
    "parameters": "parameters",
    "macs": "multiply-accumulates",
    "flash": "bytes of flash",
    "ram": "bytes of RAM",
    "row": "bytes in a row of a map",
}


@dataclass(frozen=True)
class _Bound:
    """A quantity, its limit, whether it must stay below that, and the limit in words."""

    quantity: Quantity
    limit: int
    text: str
    below: bool = False

    def value(self, cost: Cost) -> int:
        return int(getattr(cost, self.quantity))

    def excess(self, cost: Cost) -> int:
        """By how much a network exceeds it; 0 or less if it does not."""
        return self.value(cost) - self.limit + self.below


class Bounds:
    """A budget and limits.

    Args:
        budget: The network must have fewer parameters. None: no limit.
        limits: What it must not exceed.

    Raises:
        UsageError: A limit exceeds what the board has.
    """

    def __init__(self, budget: int | None, limits: Limits) -> None:
        self._bounds: list[_Bound] = []  # the memory comes last: it is planned
        if budget is not None:
            text = f"too many to stay below the budget of {budget:,}"
            self._bounds.append(_Bound("parameters", budget, text, below=True))
        if limits.macs is not None:
            self._bounds.append(_Bound("macs", limits.macs, f"more than --macs {limits.macs:,}"))
        for part in ("flash", "ram"):
            self._bounds += _memory_bounds(part, getattr(limits, part), limits.board)
        if any(bound.quantity in ("flash", "ram") for bound in self._bounds):
            text = f"more than the {WIDEST:,} that a C program can have"
            self._bounds.append(_Bound("row", WIDEST, text))

    def allow(self, cost: Cost) -> bool:
        """Whether a network stays within all of them."""
        return all(bound.excess(cost) <= 0 for bound in self._bounds)

    def use(self, cost: Cost, share: float) -> bool:
        """Whether a network uses this share of one of them, or more."""
        return any(bound.value(cost) >= share * bound.limit for bound in self._bounds)

    def used(self, cost: Cost) -> str:
        """How much a network uses of each: `4,980 of 5,000 parameters, 9,012 of …`."""
        return ", ".join(
            f"{bound.value(cost):,} of {bound.limit:,} {_NOUNS[bound.quantity]}"
            for bound in self._bounds
            if bound.quantity != "row"
        )

    def excess(self, cost: Cost, norm: str) -> str:
        """Which of them a network with a normalization exceeds, and by how much."""
        return "; ".join(
            f"{bound.value(cost):,} {_NOUNS[bound.quantity]} with {norm}, "
            f"{bound.excess(cost):,} {bound.text}"
            for bound in self._bounds
            if bound.excess(cost) > 0
        )


def _memory_bounds(
    part: Literal["flash", "ram"], given: int | None, name: BoardName | None
) -> list[_Bound]:
    """The limit of RAM or flash: the given one, else the board's."""
    whole: int | None = None if name is None else getattr(BOARDS[name], part)
    if given is not None:
        if whole is not None and given > whole:
            raise UsageError(
                f"--{part} {given:,} is more than the {whole:,} bytes of --board {name}: lower it, "
                "or leave it out"
            )
        return [_Bound(part, given, f"more than --{part} {given:,}")]
    if whole is not None:
        return [_Bound(part, whole, f"more than the {whole:,} of --board {name}")]
    return []
