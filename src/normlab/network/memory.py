"""The memory that a chain of steps needs: which rows exist at once, and where they lie.

A step runs as late as it can, so a map that is read by a 3 × 3 window exists as a ring of three
rows. A map whose statistics are taken exists as a whole, and so does one that is added after that.
Two maps share bytes where no row of one is needed while the other's row is there.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from normlab.network.steps import NORMS, Step

POINTER = 4  # bytes, on the microcontrollers that this is for
STEP = 72  # bytes of a step in an int8 program's table of steps
_BY_ROW = ("pixel-norm", "affine")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Where the rows of a step's target lie. Row y is in slot y modulo `count`.

    Attributes:
        offset: Bytes before its first slot.
        count: Number of slots.
        width: Values in a row, without padding.
        padding: Values of zeros at each end of a row.
        item: Bytes of a value.
    """

    offset: int = 0
    count: int
    width: int
    padding: int
    item: int

    @property
    def slot_size(self) -> int:
        """Bytes from one slot to the next."""
        return (self.width + 2 * self.padding) * self.item

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self.count * self.slot_size


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a network needs to run.

    Attributes:
        steps: The steps.
        rows: The rows of each step's target; the last step's are its `classes` results.
        size: Bytes of all rows together.
        item: Bytes of a value.
    """

    steps: tuple[Step, ...]
    rows: tuple[Rows, ...]
    size: int
    item: int

    @property
    def sums(self) -> int:
        """Number of 32-bit sums, one per channel of `mean`."""
        return max((s.source[0] for s in self.steps if s.kind == "mean"), default=0)

    @property
    def coefficients(self) -> int:
        """Number of 32-bit coefficients: two per channel of a normalization with statistics."""
        kinds = ("group-norm", "rms-norm")
        return max((2 * s.source[0] for s in self.steps if s.kind in kinds), default=0)

    @cached_property
    def constants(self) -> int:
        """Bytes of an int8 program's weights, tables and steps, beside its code."""
        return sum(STEP + _constants(step) for step in self.steps)

    @cached_property
    def arena(self) -> int:
        """Bytes of the whole working memory; the picture is not part of it."""
        classes = self.steps[-1].target[0]
        words = POINTER + 4 * (classes + self.sums + self.coefficients)
        return words + -(-(2 * len(self.steps) + self.size) // 4) * 4


def _constants(step: Step) -> int:
    """Bytes of a step's arrays in an int8 program; what its applications share are the first's."""
    channels = step.target[0]
    size = 0
    if step.weighted:
        inputs = 1 if step.kind == "depthwise" else step.source[0]
        filters = channels * inputs * step.window[0] * step.window[1]
        size += 8 * channels + (filters if step.application == 0 else 0)
    elif step.kind in ("input", "affine"):
        size += 8 * channels
    elif step.kind == "mean":
        size += 8
    elif step.kind in ("group-norm", "rms-norm"):
        size += 4 * (3 * channels + 1)
    elif step.kind == "pixel-norm":
        size += 4 * (2 * channels + 2)
    if step.activation == "prelu":
        size += 2 * channels
    elif step.activation not in (None, "relu"):
        size += 256
    return size


def plan(steps: Sequence[Step], *, item: int = 1) -> Memory:
    """Plans the memory of a chain of steps.

    Args:
        steps: The steps.
        item: Bytes of a value: 1 for int8, 4 for float32.
    """
    lives = _lives(steps)
    rows = [_rows(steps, k, lives[k], item) for k in range(len(steps))]
    for k, step in enumerate(steps[1:], 1):
        if step.kind in _BY_ROW:  # it runs at once after the turn that wrote its source's row
            rows[k - 1] = rows[k]
    hosts = _hosts(steps, rows)
    slots: dict[int, list[tuple[int, int]]] = {}
    for k, host in enumerate(hosts[:-1]):
        mine = _slots(lives[k], rows[k].count)
        slots[host] = (
            [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(slots[host], mine, strict=True)]
            if host in slots
            else mine
        )
    by_time = list(slots)
    by_size = sorted(by_time, key=lambda k: -rows[k].size)
    offsets = min(
        (_place(order, rows, slots) for order in (by_time[::-1], by_time, by_size)),
        key=lambda offsets: _extent(offsets, rows),
    )
    placed = [
        Rows(
            offset=offsets.get(host, 0),
            count=r.count,
            width=r.width,
            padding=r.padding,
            item=item,
        )
        for host, r in zip(hosts, rows, strict=True)
    ]
    return Memory(steps=tuple(steps), rows=tuple(placed), size=_extent(offsets, rows), item=item)


def schedule(steps: Sequence[Step]) -> Iterator[tuple[int, int]]:
    """The turns of all steps, as (step, turn), in the order in which they run.

    Of the steps whose source has the rows that they read next, the last one runs.
    """
    done = [0] * len(steps)
    last = len(steps) - 1
    while done[last] < steps[last].turns:
        k = last
        while k > 0 and done[k - 1] < turns_needed(steps, k, done[k]):
            k -= 1
        yield k, done[k]
        done[k] += 1


def turns_needed(steps: Sequence[Step], k: int, turn: int) -> int:
    """How many turns of step k − 1 come before a turn of step k."""
    before = steps[k - 1]
    return before.turns if before.kind == "mean" else steps[k].rows(turn)[1]


def _lives(steps: Sequence[Step]) -> list[list[tuple[int, int]]]:
    """For each row of each step's target: when it is written, and when it is last read."""
    written: list[dict[int, int]] = [{} for _ in steps]
    read: list[dict[int, int]] = [{} for _ in steps]
    for time, (k, turn) in enumerate(schedule(steps)):
        step = steps[k]
        if k > 0:
            for row in range(*step.rows(turn)):
                read[k - 1][row] = time
        if step.skip is not None:
            read[step.skip][turn] = time
        if step.kind != "mean":
            written[k][turn] = time
        elif turn == step.turns - 1:
            written[k][0] = time
    return [
        [(write, reads.get(row, write)) for row, write in sorted(writes.items())]
        for writes, reads in zip(written, read, strict=True)
    ]


def _rows(steps: Sequence[Step], k: int, lives: list[tuple[int, int]], item: int) -> Rows:
    """The ring of a step's target: as many slots as rows are needed at once."""
    channels, height, columns = steps[k].target
    first = count = 0
    for row, (write, _) in enumerate(lives):
        while first < row and lives[first][1] < write:
            first += 1
        count = max(count, row - first + 1)
    # What a normalization reads has the same rows as what it writes: it may work in place.
    reader = k + 1
    while reader < len(steps) and steps[reader].kind in NORMS:
        reader += 1
    padding = steps[reader].padding if reader < len(steps) else 0
    return Rows(
        count=count or height, width=columns * channels, padding=padding * channels, item=item
    )


def _hosts(steps: Sequence[Step], rows: Sequence[Rows]) -> list[int]:
    """For each step, the step whose slots its target uses: a normalization works in place.

    One with statistics of the whole map does so where its target exists as a whole, too.
    """
    hosts: list[int] = []
    for k, step in enumerate(steps):
        in_place = (
            step.kind in NORMS
            and rows[k].count == rows[k - 1].count
            and (step.kind in _BY_ROW or rows[k].count == step.target[1])
        )
        hosts.append(hosts[k - 1] if in_place else k)
    return hosts


def _slots(lives: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """For each slot of a ring: when it is first written, and when it is last read."""
    return [(lives[slot][0], max(read for _, read in lives[slot::count])) for slot in range(count)]


def _place(
    order: Sequence[int], rows: Sequence[Rows], slots: dict[int, list[tuple[int, int]]]
) -> dict[int, int]:
    """Gives each ring the lowest offset at which it disturbs none that is placed already."""
    offsets: dict[int, int] = {}
    ends = {k: max(read for _, read in lives) for k, lives in slots.items()}
    for k in order:
        forbidden: list[tuple[int, int]] = []  # first and last offsets that disturb
        for other, offset in offsets.items():
            if slots[other][0][0] > ends[k] or slots[k][0][0] > ends[other]:
                continue  # they are never there at the same time
            for i, (written, read) in enumerate(slots[other]):
                begin = offset + i * rows[other].slot_size
                for j, (later, last) in enumerate(slots[k]):
                    if later <= read and written <= last:
                        shift = j * rows[k].slot_size
                        forbidden.append(
                            (
                                begin - shift - rows[k].slot_size + 1,
                                begin + rows[other].slot_size - shift - 1,
                            )
                        )
        offset = 0
        for first, last in sorted(forbidden):
            if first <= offset <= last:
                offset = -(-(last + 1) // 4) * 4
        offsets[k] = offset
    return offsets


def _extent(offsets: dict[int, int], rows: Sequence[Rows]) -> int:
    return max((offset + rows[k].size for k, offset in offsets.items()), default=0)
