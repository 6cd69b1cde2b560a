"""From a layout to a network: where each block stands, how wide it is, what it costs, the module.

line → parse → solve (budget → widths) → place (shapes) → Network, or the layer table
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from normlab import layout, norms
from normlab.draws import seed_for
from normlab.errors import UsageError
from normlab.layout import Block
from normlab.norms import Shape

INPUT: Shape = (3, 32, 32)
DEFAULT_BUDGET = 50_000

# A free width is k/8 times the ratio of its stage: how many times the map was halved before it.
# Ratios without common multiples and steps of an eighth: stages widen one after the other, so that
# little of the budget is left over.
STAGE_RATIOS = (1.0, 1.3, 1.7, 2.2)
STEPS_PER_CHANNEL = 8


@dataclass(frozen=True)
class Placed:
    """A block where it stands in a network.

    Attributes:
        block: The block, its width filled in.
        input: Shape (C, H, W) that it takes.
        output: Shape that it gives.
        norm: The normalization in force; None for a block that has none.
    """

    block: Block
    input: Shape
    output: Shape
    norm: str | None

    @property
    def kernel(self) -> int:
        """Side of the block's spatial filter."""
        return 3 if self.norm is not None else 1

    @property
    def norm_shapes(self) -> tuple[Shape, ...]:
        """What the normalizations of one application see."""
        if self.norm is None:
            return ()
        if self.block.kind == "D":
            return ((self.input[0], *self.output[1:]), self.output)
        return (self.output,)

    @property
    def weights(self) -> int:
        """Parameters outside the normalizations."""
        inputs, outputs = self.input[0], self.output[0]
        match self.block.kind:
            case "C":
                return self.kernel**2 * inputs * outputs
            case "c":
                return inputs * outputs
            case "D":
                return 9 * inputs + inputs * outputs
            case "FC":
                return (inputs * self.input[1] * self.input[2] + 1) * outputs
        return 0

    @property
    def parameters(self) -> int:
        """All that the block learns."""
        per_application = sum(_norm_size(self.norm or "", s)[0] for s in self.norm_shapes)
        return self.weights + self.block.repeat * per_application

    @property
    def running_statistics(self) -> int:
        """Values that the normalizations keep from training without learning them."""
        per_application = sum(_norm_size(self.norm or "", s)[1] for s in self.norm_shapes)
        return self.block.repeat * per_application

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions and the fully connected layer, for one image."""
        if self.block.kind == "FC":
            return self.weights - self.output[0]
        return self.weights * self.output[1] * self.output[2] * self.block.repeat


@lru_cache(maxsize=4096)
def _norm_size(norm: str, shape: Shape) -> tuple[int, int]:
    """Parameters and running statistics of a normalization on this shape."""
    with torch.random.fork_rng(devices=[]):  # a user's layer may draw its first weights
        module = norms.build(norm, shape, activate=True)
    return (
        sum(p.numel() for p in module.parameters()),
        sum(b.numel() for b in module.buffers() if b.is_floating_point()),
    )


def place(blocks: Sequence[Block], *, norm: str, classes: int) -> tuple[Placed, ...]:
    """Follows the shapes through a layout whose widths are all known but the classifier's.

    Raises:
        LayoutError: A block cannot stand where it stands; a caret shows which.
        UsageError: There is no such normalization.
    """
    classifier = _classifier(blocks)
    placed: list[Placed] = []
    shape = INPUT
    pooled = flat = False
    for index, block in enumerate(blocks):
        problem = _misplaced(block, shape, pooled=pooled, flat=flat)
        if problem:
            raise layout.error_at(blocks, index, problem)
        if index == classifier:
            if not (pooled or block.kind in ("c", "FC")):
                raise layout.error_at(
                    blocks, index, "the classifier is bare: c before GAP, or C, c or FC after it"
                )
            if block.width not in (None, classes):
                raise layout.error_at(
                    blocks, index, f"the classifier's width is the number of classes, {classes}"
                )
            block = replace(block, width=classes)
        own = None
        if block.kind in ("C", "D") and not pooled:
            own = block.norm or norm
        output = _output(block, shape, bare=own is None)
        if (block.residual or block.repeat > 1) and output != shape:
            sign = "+" if block.residual else "*"
            raise layout.error_at(
                blocks,
                index,
                f"{sign} needs an output of its input's shape: "
                f"{_text(shape)} goes in, {_text(output)} comes out",
            )
        placed.append(Placed(block, shape, output, own))
        try:
            for norm_shape in placed[-1].norm_shapes:
                _norm_size(own or "", norm_shape)
        except UsageError as error:
            raise layout.error_at(blocks, index, str(error)) from None
        shape = output
        pooled |= block.kind in ("GAP", "FC")
        flat |= block.kind == "FC"
    if not pooled:
        raise layout.error_at(
            blocks, len(blocks) - 1, f"the network ends with a map, {_text(shape)}: add GAP"
        )
    return tuple(placed)


def _classifier(blocks: Sequence[Block]) -> int:
    """The place of the classifier: the last block that has weights."""
    for index in reversed(range(len(blocks))):
        if blocks[index].kind in ("C", "c", "D", "FC"):
            return index
    raise layout.error_at(blocks, len(blocks) - 1, "no classifier: expected a C, c or FC")


def _misplaced(block: Block, shape: Shape, *, pooled: bool, flat: bool) -> str | None:
    """What is wrong with a block in this place, or None."""
    _, height, width = shape
    if flat and block.kind != "FC":
        return f"after FC comes nothing but FC, not {block.kind}"
    if pooled:
        if block.kind in ("D", "P", "A", "GAP"):
            return f"after GAP come C, c or FC, not {block.kind}"
        if block.valid or block.stride > 1 or block.norm:
            return "after GAP a convolution is 1×1 and bare: no v, s2 or /norm"
    elif block.kind in ("P", "A") and min(height, width) < 2:
        return f"nothing is left to pool: the map is {height} × {width} here"
    elif block.valid and min(height, width) < 3:
        return f"a 3×3 filter without padding does not fit a map of {height} × {width}"
    return None


def _output(block: Block, shape: Shape, *, bare: bool) -> Shape:
    channels, height, width = shape
    channels = block.width if block.width is not None else channels
    if block.kind == "GAP" or block.kind == "FC":
        return (channels, 1, 1)
    if block.kind in ("P", "A"):
        return (channels, height // 2, width // 2)
    shrink = 2 if block.valid and not bare else 0
    return (
        channels,
        (height - shrink - 1) // block.stride + 1,
        (width - shrink - 1) // block.stride + 1,
    )


def _text(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def solve(
    blocks: Sequence[Block], *, norm: str, classes: int, budget: int | None
) -> tuple[Block, ...]:
    """Fills in the widths that a layout leaves open, as wide as the budget allows.

    A free width is k/8 times its stage's ratio, rounded down to a multiple of 2 (of 2 and the
    groups, where groups are given; where that does not fit, of 1 or the groups). A free `c` takes
    half its input, a free `+` or `*` its input's width. k is the largest whole number whose count
    stays strictly below the budget. The classifier's width stays open.

    Args:
        blocks: The layout.
        norm: The network's normalization: its parameters count.
        classes: The classifier's width.
        budget: Parameters to stay below. None: 50,000 where a width is open, else no limit.

    Raises:
        LayoutError: A block cannot stand where it stands.
        UsageError: Even the narrowest network does not fit: by how much.
    """
    if budget is not None and budget < 1:
        raise UsageError(f"the budget must be at least 1, not {budget}")
    multiple = _common_multiple(blocks, norm)
    classifier = _classifier(blocks)
    is_open = any(
        block.width is None and block.kind in ("C", "c", "D", "FC")
        for index, block in enumerate(blocks)
        if index != classifier
    )
    if not is_open:
        count = _count(blocks, norm, classes)
        if budget is not None and count >= budget:
            raise UsageError(
                f"the network has {count:,} parameters with {norm}, {count - budget + 1:,} too "
                f"many to stay below the budget of {budget:,}: leave widths open to be solved"
            )
        return tuple(blocks)

    budget = DEFAULT_BUDGET if budget is None else budget
    for unit in dict.fromkeys((math.lcm(2, multiple), multiple)):
        if _count(widen(blocks, 1, unit), norm, classes) < budget:
            return widen(blocks, _largest_step(blocks, unit, norm, classes, budget), unit)
    count = _count(widen(blocks, 1, multiple), norm, classes)
    raise UsageError(
        f"at its narrowest the network has {count:,} parameters with {norm}, "
        f"{count - budget + 1:,} too many to stay below the budget of {budget:,}"
    )


def _common_multiple(blocks: Sequence[Block], norm: str) -> int:
    """What every width must be a multiple of, for the groups that are given to divide it."""
    multiple = norms.channel_multiple(norm)
    for index, block in enumerate(blocks):
        if block.norm is not None:
            try:
                multiple = math.lcm(multiple, norms.channel_multiple(block.norm))
            except UsageError as error:
                raise layout.error_at(blocks, index, str(error)) from None
    return multiple


def _largest_step(blocks: Sequence[Block], unit: int, norm: str, classes: int, budget: int) -> int:
    """The largest k that stays below the budget: found by doubling, then by bisection."""
    fits, limit = 1, 2
    # A width that follows k has as many parameters at least: beyond this limit, none follows it.
    while (
        limit <= budget * STEPS_PER_CHANNEL
        and _count(widen(blocks, limit, unit), norm, classes) < budget
    ):
        fits, limit = limit, limit * 2
    while limit - fits > 1:
        middle = (fits + limit) // 2
        if _count(widen(blocks, middle, unit), norm, classes) < budget:
            fits = middle
        else:
            limit = middle
    return fits


def widen(blocks: Sequence[Block], k: int, unit: int) -> tuple[Block, ...]:
    """The layout with its open widths filled in for one step k, but for the classifier's."""
    classifier = _classifier(blocks)
    filled: list[Block] = []
    channels, stage = INPUT[0], 0
    for index, block in enumerate(blocks):
        if block.kind in ("C", "c", "D", "FC") and index != classifier:
            if block.width is None:
                ratio = STAGE_RATIOS[min(stage, len(STAGE_RATIOS) - 1)]
                if block.residual or block.repeat > 1:
                    width = channels
                else:
                    wish = channels / 2 if block.kind == "c" else k * ratio / STEPS_PER_CHANNEL
                    width = max(unit, int(wish) // unit * unit)
                block = replace(block, width=width)
            channels = block.width or channels
        stage += block.kind in ("P", "A") or block.stride == 2
        filled.append(block)
    return tuple(filled)


def _count(blocks: Sequence[Block], norm: str, classes: int) -> int:
    return sum(p.parameters for p in place(blocks, norm=norm, classes=classes))


class Network(nn.Module):
    """The network of a layout.

    Takes images, float N × 3 × 32 × 32 with values 0 to 1, normalizes them by the training split's
    mean and standard deviation (`input_mean`, `input_std`: buffers, set by training and saved with
    the weights), and gives logits, float N × classes.

    The first weights are PyTorch's default draws. Each block's come from (seed, block), whatever
    the normalizations: networks that differ in those alone start from equal convolutions.

    Args:
        line: A layout.
        norm: The network's normalization.
        classes: Number of classes.
        budget: Parameters to stay below, as `solve` takes it.
        dropout: Probability, after every activation.
        seed: Of the first weights.

    Raises:
        LayoutError: The layout has an error.
        UsageError: No such normalization, or the network does not fit the budget.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        line: str,
        *,
        norm: str = "bn",
        classes: int = 10,
        budget: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        blocks = solve(layout.parse(line), norm=norm, classes=classes, budget=budget)
        self.layout = layout.format(blocks)
        self.register_buffer("input_mean", torch.zeros(3))
        self.register_buffer("input_std", torch.ones(3))
        with torch.random.fork_rng(devices=[]):
            self.blocks = nn.ModuleList(
                _module(placed, dropout, seed_for(seed, "weights", index))
                for index, placed in enumerate(place(blocks, norm=norm, classes=classes))
            )

    def forward(self, images: Tensor) -> Tensor:
        """Images, N × 3 × 32 × 32 in 0 to 1, to logits, N × classes."""
        x = (images - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)


def _module(placed: Placed, dropout: float, seed: int) -> nn.Module:
    """The module of a block. torch's generator is seeded, convolutions drawn first."""
    torch.manual_seed(seed)
    block = placed.block
    match block.kind:
        case "P":
            return nn.MaxPool2d(2)
        case "A":
            return nn.AvgPool2d(2)
        case "GAP":
            return nn.AdaptiveAvgPool2d(1)
        case "FC":
            return FullyConnected(placed)
    return Convolution(placed, dropout)


class FullyConnected(nn.Module):
    """`FC`: flattens its input, multiplies, adds a bias; gives N × width × 1 × 1."""

    def __init__(self, placed: Placed) -> None:
        super().__init__()
        channels, height, width = placed.input
        self.linear = nn.Linear(channels * height * width, placed.output[0])

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × width × 1 × 1."""
        output: Tensor = self.linear(x.flatten(1))
        return output[:, :, None, None]


class Convolution(nn.Module):
    """`C`, `c` and `D`: convolutions shared by all applications, normalizations for each."""

    def __init__(self, placed: Placed, dropout: float) -> None:
        super().__init__()
        block, inputs, outputs = placed.block, placed.input[0], placed.output[0]
        padding = 0 if block.valid or placed.kernel == 1 else 1
        self.depthwise: nn.Module | None = None
        if block.kind == "D":
            self.depthwise = nn.Conv2d(
                inputs, inputs, 3, block.stride, padding, groups=inputs, bias=False
            )
            self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        else:
            self.conv = nn.Conv2d(inputs, outputs, placed.kernel, block.stride, padding, bias=False)
        self.depthwise_norms = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.residual = block.residual
        self.repeat = block.repeat
        self.dropout = nn.Dropout(dropout) if dropout and placed.norm is not None else None
        if placed.norm is not None:
            *before, after = placed.norm_shapes
            for _ in range(block.repeat):
                for shape in before:
                    self.depthwise_norms.append(norms.build(placed.norm, shape, activate=False))
                self.norms.append(norms.build(placed.norm, after, activate=True))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × width × H' × W'."""
        for application in range(self.repeat):
            y = x
            if self.depthwise is not None:
                y = self.depthwise_norms[application](self.depthwise(y))
            y = self.conv(y)
            if self.norms:
                y = self.norms[application](y)
            if self.dropout is not None:
                y = self.dropout(y)
            x = x + y if self.residual else y
        return x


@dataclass(frozen=True)
class Row:
    """A row of the layer table.

    Attributes:
        block: The token.
        normalization: Its normalization, groups written out; empty where it has none.
        shape: Output (C, H, W).
        parameters: What the block learns.
        macs: Multiply-accumulates for one image.
        receptive_field: Side of the input patch that one output sees, in pixels; None: all of it.
    """

    block: str
    normalization: str
    shape: Shape
    parameters: int
    macs: int
    receptive_field: int | None


@dataclass(frozen=True)
class Summary:
    """The layer table of a network. Prints as a table; shows as one in a notebook.

    Attributes:
        layout: The line, widths written out but the classifier's.
        norm: The network's normalization.
        rows: A row a block.
        running_statistics: Values kept without being learned: not parameters, listed beside them.
    """

    layout: str
    norm: str
    rows: tuple[Row, ...]
    running_statistics: int

    @property
    def parameters(self) -> int:
        """All that the network learns and needs at inference."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(row.macs for row in self.rows)

    def cells(self) -> list[tuple[str, ...]]:
        """The table's cells as text: block, normalization, shape, parameters, MACs, field."""
        return [
            (
                row.block,
                row.normalization,
                _text(row.shape),
                f"{row.parameters:,}",
                f"{row.macs:,}",
                "all" if row.receptive_field is None else str(row.receptive_field),
            )
            for row in self.rows
        ]

    @property
    def footer(self) -> str:
        """The totals, as a sentence."""
        return (
            f"{self.parameters:,} parameters, {self.macs:,} multiply-accumulates an image, "
            f"{self.running_statistics:,} running statistics; field: receptive field, in pixels"
        )

    def __rich__(self) -> Table:
        table = Table(*HEADINGS, box=box.SIMPLE_HEAD, caption=self.footer, caption_justify="left")
        for column in table.columns:
            column.no_wrap = True
        for column in table.columns[2:]:
            column.justify = "right"
        for cells in self.cells():
            table.add_row(*cells)
        return table

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in self.cells()
        )
        return f"<table><tr>{head}</tr>{body}<caption>{self.footer}</caption></table>"


HEADINGS = ("block", "norm", "output", "parameters", "MACs", "field")


def summarize(
    line: str, *, norm: str = "bn", classes: int = 10, budget: int | None = None
) -> Summary:
    """The layer table of a layout. Raises what `Network` raises."""
    blocks = solve(layout.parse(line), norm=norm, classes=classes, budget=budget)
    rows: list[Row] = []
    field: int | None = 1
    jump = 1  # distance, in input pixels, between neighbouring outputs
    placements = place(blocks, norm=norm, classes=classes)
    for placed in placements:
        block = placed.block
        if block.kind in ("GAP", "FC"):
            field = None
        elif field is not None:
            pooling = block.kind in ("P", "A")
            reach = 1 if pooling else placed.kernel - 1
            field += reach * jump * block.repeat
            jump *= 2 if pooling else block.stride
        rows.append(
            Row(
                block=str(block),
                normalization=_describe_norm(placed),
                shape=placed.output,
                parameters=placed.parameters,
                macs=placed.macs,
                receptive_field=field,
            )
        )
    return Summary(
        layout=layout.format(blocks),
        norm=norm,
        rows=tuple(rows),
        running_statistics=sum(placed.running_statistics for placed in placements),
    )


def _describe_norm(placed: Placed) -> str:
    if placed.norm == "gn":
        groups = dict.fromkeys(norms.default_groups(shape[0]) for shape in placed.norm_shapes)
        return "gn=" + ", ".join(map(str, groups))
    return placed.norm or ""
