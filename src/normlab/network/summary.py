"""The layer table: output, parameters and cost of each block of a network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from rich.console import Group
from rich.text import Text

from normlab import notation
from normlab.config import ActivationName, Limits
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network import zoo
from normlab.network.bounds import Bounds, Cost
from normlab.network.custom import NOT_APPLIED, CustomNetwork, Norm
from normlab.network.memory import Memory, plan, refuse_wide_rows
from normlab.network.shapes import INPUT, BlockShape, count_statistics, infer_shapes
from normlab.network.steps import network_steps
from normlab.network.widths import NO_LIMITS, budget_in_force, solve
from normlab.notation import is_custom
from normlab.table import Table
from normlab.wording import shape_text


@dataclass(frozen=True)
class Row:
    """A row of the layer table.

    Attributes:
        block: The token; for a custom network, the name of one of its modules.
        normalization: Its normalization, with the number of groups; empty if it has none.
        shape: Shape (C, H, W) of its output. A module can have another; empty if it has none.
        parameters: Number of learned parameters.
        macs: Multiply-accumulates for one image.
        receptive_field: Side of the input patch that one output depends on, in pixels; None: the
            whole input; 0: it is not known.
    """

    block: str
    normalization: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    receptive_field: int | None


@dataclass(frozen=True)
class Summary:
    """The layer table of a network. It prints as a table, in a notebook too.

    Attributes:
        layout: The layout with its widths filled in, except the classifier's.
        norm: The network's normalization.
        activation: The network's activation.
        input: Shape (C, H, W) of an image.
        rows: One row per block.
        running_statistics: Number of values that are kept but not learned, so not parameters.
        used: How much it uses of its limits, and of a budget beside them; empty without limits.
    """

    layout: str
    norm: str
    activation: str
    input: Shape
    rows: tuple[Row, ...]
    running_statistics: int
    used: str = field(default="", compare=False, repr=False)

    @property
    def parameters(self) -> int:
        """Learned parameters, all of which inference needs."""
        return sum(row.parameters for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def memory(self) -> Memory | None:
        """What its int8 program for microcontrollers needs; None if it cannot be one."""
        return self._program if isinstance(self._program, Memory) else None

    @property
    def no_program(self) -> str:
        """Why it cannot be a program for microcontrollers, in one line; empty if it can."""
        return "" if isinstance(self._program, Memory) else self._program

    @cached_property
    def _program(self) -> Memory | str:
        if is_custom(self.layout):
            return f"{self.layout} is your own network: only layouts have C"
        try:
            steps = network_steps(
                self.layout,
                norm=self.norm,
                classes=self.rows[-1].shape[0],
                activation=self.activation,
                shape=self.input,
            )
            memory = plan(steps)
            refuse_wide_rows(memory)
        except UsageError as error:
            return str(error)
        return memory

    @property
    def table(self) -> Table:
        """The table: one row per block, and the totals."""
        return Table(
            caption=f"Layers, normalization {self.norm}, activation {self.activation}",
            head=("block", "norm", "output", "parameters", "MACs", "field"),
            kinds=("plain", "plain", "number", "number", "number", "number"),
            rows=[
                (
                    row.block,
                    row.normalization,
                    shape_text(row.shape),
                    f"{row.parameters:,}",
                    f"{row.macs:,}",
                    "all" if row.receptive_field is None else str(row.receptive_field or "–"),
                )
                for row in self.rows
            ],
            foot=("all", "", "", f"{self.parameters:,}", f"{self.macs:,}", ""),
        )

    @property
    def note(self) -> str:
        """What the column heads mean, and the number of running statistics."""
        custom = f" {self.layout} {NOT_APPLIED}." if is_custom(self.layout) else ""
        used = f" It uses {self.used}." if self.used else ""
        return (
            "MACs: multiply-accumulates for one image. Field: receptive field, the side in pixels "
            f"of the patch that an output sees. {self.running_statistics:,} running statistics are "
            f"kept beside the parameters.{custom}{used}{self._on_a_microcontroller}"
        )

    @property
    def _on_a_microcontroller(self) -> str:
        if self.memory is None:
            return ""
        return (
            f" On a microcontroller (export --to c), in int8: {self.memory.constants:,} bytes of "
            f"flash beside a few kB of code, {self.memory.arena:,} bytes of RAM."
        )

    def __rich__(self) -> Group:
        return Group(self.table, Text(self.note))

    def _repr_html_(self) -> str:
        return f"{self.table._repr_html_()}<p>{self.note}</p>"


def summarize(
    line: str,
    *,
    norm: str = "bn",
    activation: ActivationName | None = None,
    classes: int = 10,
    budget: int | None = None,
    shape: Shape = INPUT,
    limits: Limits = NO_LIMITS,
) -> Summary:
    """The layer table of a layout, or of one named in the zoo.

    Arguments as `Network` takes them. Raises what it raises.
    """
    activation = zoo.activation_of(line, activation)
    asked = notation.parse(zoo.find(line))
    blocks = solve(
        asked,
        norm=norm,
        classes=classes,
        budget=budget,
        shape=shape,
        activation=activation,
        limits=limits,
    )
    if blocks[0].custom:
        return _summarize_custom(blocks[0].kind, norm, classes, activation, shape)
    used = ""
    if limits != NO_LIMITS:
        cost = Cost(blocks, norm=norm, classes=classes, shape=shape, activation=activation)
        used = Bounds(budget_in_force(asked, budget, limits), limits).used(cost)
    rows: list[Row] = []
    seen: int | None = 1  # the receptive field
    jump = 1  # distance, in input pixels, between neighbouring outputs
    block_shapes = infer_shapes(
        blocks, norm=norm, classes=classes, shape=shape, activation=activation
    )
    for block_shape in block_shapes:
        block = block_shape.block
        if block.kind in ("GAP", "FC"):
            seen = None
        elif seen is not None:
            pooling = block.kind in ("P", "A")
            reach = 1 if pooling else block_shape.kernel - 1
            seen += reach * jump * block.repeat
            jump *= 2 if pooling else block.stride
        rows.append(
            Row(
                block=str(block),
                normalization=_describe_norm(block_shape),
                shape=block_shape.output,
                parameters=block_shape.parameters,
                macs=block_shape.macs,
                receptive_field=seen,
            )
        )
    return Summary(
        layout=notation.format(blocks),
        norm=norm,
        activation=activation,
        input=shape,
        rows=tuple(rows),
        running_statistics=sum(block_shape.running_statistics for block_shape in block_shapes),
        used=used,
    )


def _summarize_custom(
    reference: str, norm: str, classes: int, activation: ActivationName, shape: Shape
) -> Summary:
    """The layer table of a custom network: its modules, in the order of their use."""
    with torch.random.fork_rng(devices=[]):
        network = CustomNetwork(reference, norm, classes, activation, shape)
    rows = [
        Row(
            block=layer.name,
            normalization=(
                _with_groups(norm, [layer.module.channels])
                if isinstance(layer.module, Norm)
                else ""
            ),
            shape=layer.shape,
            parameters=layer.parameters,
            macs=layer.macs,
            receptive_field=0,
        )
        for layer in network.layers
    ]
    return Summary(
        layout=reference,
        norm=norm,
        activation=activation,
        input=shape,
        rows=tuple(rows),
        running_statistics=count_statistics(network),
    )


def _describe_norm(block_shape: BlockShape) -> str:
    if block_shape.norm is None:
        return ""
    return _with_groups(block_shape.norm, [shape[0] for shape, _ in block_shape.normalized])


def _with_groups(norm: str, channels: Sequence[int]) -> str:
    """The normalization; where it has groups, with the number that it makes of these channels."""
    entry, number = norms.find(norm)
    if number or not entry.divides:
        return norm
    return f"{norm}=" + ", ".join(map(str, dict.fromkeys(map(norms.default_groups, channels))))
