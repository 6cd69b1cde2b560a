"""The layer table: what each block of a network gives, learns and costs."""

from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from normlab import notation
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network import zoo
from normlab.network.shapes import BlockShape, infer_shapes, shape_text
from normlab.network.widths import solve
from normlab.table import Table


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

    @property
    def table(self) -> Table:
        """The table: a row a block, and the totals."""
        return Table(
            caption=f"Layers, normalization {self.norm}",
            head=("block", "norm", "output", "parameters", "MACs", "field"),
            kinds=("plain", "plain", "number", "number", "number", "number"),
            rows=[
                (
                    row.block,
                    row.normalization,
                    shape_text(row.shape),
                    f"{row.parameters:,}",
                    f"{row.macs:,}",
                    "all" if row.receptive_field is None else str(row.receptive_field),
                )
                for row in self.rows
            ],
            foot=("all", "", "", f"{self.parameters:,}", f"{self.macs:,}", ""),
        )

    @property
    def note(self) -> str:
        """What the table's headings mean, and the running statistics beside the parameters."""
        return (
            "MACs: multiply-accumulates for one image. Field: receptive field, the side in pixels "
            f"of the patch that an output sees. {self.running_statistics:,} running statistics are "
            "kept beside the parameters."
        )

    def __rich__(self) -> Group:
        return Group(self.table, Text(self.note))

    def _repr_html_(self) -> str:
        return f"{self.table._repr_html_()}<p>{self.note}</p>"


def summarize(
    line: str, *, norm: str = "bn", classes: int = 10, budget: int | None = None
) -> Summary:
    """The layer table of a layout, or of a name of the zoo. Raises what `Network` raises."""
    blocks = solve(notation.parse(zoo.find(line)), norm=norm, classes=classes, budget=budget)
    rows: list[Row] = []
    field: int | None = 1
    jump = 1  # distance, in input pixels, between neighbouring outputs
    placements = infer_shapes(blocks, norm=norm, classes=classes)
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
        layout=notation.format(blocks),
        norm=norm,
        rows=tuple(rows),
        running_statistics=sum(placed.running_statistics for placed in placements),
    )


def _describe_norm(placed: BlockShape) -> str:
    if placed.norm == "gn":
        groups = dict.fromkeys(norms.default_groups(shape[0]) for shape, _ in placed.normalized)
        return "gn=" + ", ".join(map(str, groups))
    return placed.norm or ""
