"""The memory that a chain of steps needs: which rows exist at once, and where they lie.

A step runs as late as it can, so a map that is read by a 3 × 3 window exists as a ring of three
rows. A map whose statistics are taken exists as a whole, and so does one that is added after that.
Two maps share bytes where no row of one is needed while the other's row is there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from normlab.errors import UsageError
from normlab.network.steps import NORMS, STATISTICS, Step

POINTER = 4  # bytes, on the microcontrollers that this is for
STEP = 72  # bytes of a step in an int8 program's table of steps
WIDEST = 2**16 - 1  # bytes of a row, with its padding: a program's table counts them in 16 bits
GATES = 2 * 256  # bytes of the logistic function's table, which all steps share
_BY_ROW = ("pixel-norm", "affine", "map-affine")


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
        return max((2 * s.source[0] for s in self.steps if s.kind in STATISTICS), default=0)

    @property
    def widest(self) -> int:
        """Bytes of the widest row, with its padding."""
        return max(rows.slot_size for rows in self.rows)

    @cached_property
    def constants(self) -> int:
        """Bytes of an int8 program's weights, tables and steps, beside its code."""
        return constants_of(self.steps)

    @cached_property
    def arena(self) -> int:
        """Bytes of the whole working memory; the picture is not part of it."""
        classes = self.steps[-1].target[0]
        words = POINTER + 4 * (classes + self.sums + self.coefficients)
        return words + -(-(2 * len(self.steps) + self.size) // 4) * 4


def refuse_wide_rows(memory: Memory) -> None:
    """UsageError where a row is wider than a program can have it."""
    if memory.widest > WIDEST:
        raise UsageError(
            f"a row of {memory.widest:,} bytes is longer than a C program's {WIDEST:,}: use a "
            "narrower network"
        )


def constants_of(steps: Sequence[Step]) -> int:
    """Bytes of the weights, tables and steps of an int8 program, beside its code."""
    shared = GATES if any(step.kind == "gated-norm" for step in steps) else 0
    return shared + sum(STEP + _constants(step) for step in steps)


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
    elif step.kind == "map-affine":
        size += 8 * channels * step.target[1] * step.target[2]
    elif step.kind == "mean":
        size += 8
    elif step.kind == "local-response":
        size += 12
    elif step.kind in STATISTICS:
        arrays = {"gated-norm": 4, "bounded-norm": 5}.get(step.kind, 3)
        size += 4 * (arrays * channels + 1)
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
    timing = _timing(tuple(map(_without_channels, steps)))
    rows = [_rows(steps, k, timing.counts[k], item) for k in range(len(steps))]
    for k, step in enumerate(steps[1:], 1):
        if step.kind in _BY_ROW:
            rows[k - 1] = rows[k]
    by_time = list(timing.slots)
    by_size = sorted(by_time, key=lambda k: -rows[k].size)
    offsets = min(
        (_place(order, rows, timing) for order in (by_time[::-1], by_time, by_size)),
        key=lambda offsets: _extent(offsets, rows),
    )
    placed = [
        replace(own, offset=offsets.get(host, 0))
        for host, own in zip(timing.hosts, rows, strict=True)
    ]
    return Memory(steps=tuple(steps), rows=tuple(placed), size=_extent(offsets, rows), item=item)


Lives = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class _Timing:
    """What of a plan depends on the order of turns alone, and not on the number of channels.

    Attributes:
        counts: For each step, the number of slots of its target's ring.
        hosts: For each step, the step whose slots its target uses.
        slots: For each host, when each slot is first written, and when it is last read.
        clashes: For each host, which slots of which others are there at the same time: rows of
            (other, slot of its own, first slot of the other, last slot of the other).
    """

    counts: Sequence[int]
    hosts: Sequence[int]
    slots: Mapping[int, Lives]
    clashes: Mapping[int, NDArray[np.int64]]


def _without_channels(step: Step) -> Step:
    """A step as far as the order of turns depends on it."""
    source, target = (1, *step.source[1:]), (1, *step.target[1:])
    return replace(step, source=source, target=target, groups=0, activation=None)


@lru_cache(maxsize=8)  # whoever solves widths plans hundreds of networks of one order
def _timing(steps: tuple[Step, ...]) -> _Timing:
    lives = _lives(steps)
    counts = [_count(each) or step.target[1] for step, each in zip(steps, lives, strict=True)]
    for k, step in enumerate(steps[1:], 1):
        if step.kind in _BY_ROW:  # it runs at once after the turn that wrote its source's row
            counts[k - 1] = counts[k]
    hosts = _hosts(steps, counts)
    slots: dict[int, Lives] = {}
    for k, host in enumerate(hosts[:-1]):
        mine = _slots(lives[k], counts[k])
        slots[host] = (
            [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(slots[host], mine, strict=True)]
            if host in slots
            else mine
        )
    return _Timing(counts, hosts, slots, {k: _clashes(k, slots) for k in slots})


def _lives(steps: Sequence[Step]) -> list[Lives]:
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


def _count(lives: Lives) -> int:
    """The slots of a ring: as many as rows are needed at once."""
    first = count = 0
    for row, (write, _) in enumerate(lives):
        while first < row and lives[first][1] < write:
            first += 1
        count = max(count, row - first + 1)
    return count


def _hosts(steps: Sequence[Step], counts: Sequence[int]) -> list[int]:
    """For each step, the step whose slots its target uses: a normalization works in place.

    One with statistics of the whole map does so where its target exists as a whole, too.
    """
    hosts: list[int] = []
    for k, step in enumerate(steps):
        in_place = (
            step.kind in NORMS
            and counts[k] == counts[k - 1]
            and (step.kind in _BY_ROW or counts[k] == step.target[1])
        )
        hosts.append(hosts[k - 1] if in_place else k)
    return hosts


def _slots(lives: Lives, count: int) -> Lives:
    """For each slot of a ring: when it is first written, and when it is last read."""
    return [(lives[slot][0], max(read for _, read in lives[slot::count])) for slot in range(count)]


def _clashes(k: int, slots: Mapping[int, Lives]) -> NDArray[np.int64]:
    """The slots of other rings that are there while one of ring k is: `_Timing` says how."""
    found = [np.zeros((0, 4), np.int64)]
    written, read = np.array(slots[k]).T[:, :, None]
    for other, lives in slots.items():
        if other == k:
            continue
        begins, ends = np.array(lives).T
        together = np.zeros((len(slots[k]), len(lives) + 2), np.int8)
        together[:, 1:-1] = (written <= ends) & (begins <= read)
        edges = np.diff(together)
        own, first = np.nonzero(edges == 1)
        last = np.nonzero(edges == -1)[1] - 1
        found.append(np.stack([np.full_like(own, other), own, first, last], 1))
    return np.concatenate(found)


def _rows(steps: Sequence[Step], k: int, count: int, item: int) -> Rows:
    """The ring of a step's target."""
    channels, _, columns = steps[k].target
    # What a normalization reads has the same rows as what it writes: it may work in place.
    reader = k + 1
    while reader < len(steps) and steps[reader].kind in NORMS:
        reader += 1
    padding = steps[reader].padding if reader < len(steps) else 0
    return Rows(count=count, width=columns * channels, padding=padding * channels, item=item)


def _place(ranked: Sequence[int], rows: Sequence[Rows], timing: _Timing) -> dict[int, int]:
    """Gives each ring the lowest offset at which it disturbs none that is placed already."""
    offsets: dict[int, int] = {}
    at = np.full(len(rows), -1)
    sizes = np.array([r.slot_size for r in rows])
    for k in ranked:
        other, own, first, last = timing.clashes[k][at[timing.clashes[k][:, 0]] >= 0].T
        # Where the ring may not begin: its slot `own` would share bytes with slots of the other.
        begins = at[other] + first * sizes[other] - (own + 1) * sizes[k] + 1
        ends = at[other] + (last + 1) * sizes[other] - own * sizes[k] - 1
        order = np.argsort(begins)
        # The first offset after the reach of those that begin before it.
        tried = np.maximum(0, -(-(np.maximum.accumulate(ends[order]) + 1) // 4) * 4)
        tried = np.concatenate([[0], tried])
        free = tried < np.concatenate([begins[order], [np.iinfo(np.int64).max]])
        offsets[k] = at[k] = int(tried[free.argmax()])
    return offsets


def _extent(offsets: dict[int, int], rows: Sequence[Rows]) -> int:
    return max((offset + rows[k].size for k, offset in offsets.items()), default=0)
