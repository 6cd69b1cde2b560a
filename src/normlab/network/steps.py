"""A network as a chain of steps that each compute one row of a map at a time.

It is what a microcontroller runs. Each step reads the rows of the step before it, so most maps
never exist as a whole: `memory.py` finds how many of their rows do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network.shapes import BlockShape, infer_shapes

Kind = Literal[
    "input",  # the picture's pixels, less their mean and divided by their deviation
    "convolution",
    "depthwise",
    "maximum",  # over 2 × 2 pixels, as `average`
    "average",
    "mean",  # over the whole map
    "group-norm",  # statistics over groups of channels and the whole map
    "rms-norm",  # the same, with a mean of 0
    "deviation-norm",  # the same, with a mean of 0 but for the deviation
    "gated-norm",  # the same, and each value times the logistic function of itself times a slope
    "bounded-norm",  # divided by a constant, or by the value times a slope plus its map's deviation
    "pixel-norm",  # statistics over the channels of each pixel
    "affine",  # one weight and one bias per channel
    "map-affine",  # one weight and one bias per value of the map
    "local-response",  # divided by a power of a sum over neighbouring channels
]
MOST = 200  # blocks of a program, counted as often as they are applied: they are planned one by one
# Normalizations with statistics of the whole map.
STATISTICS: frozenset[Kind] = frozenset(
    ("group-norm", "rms-norm", "deviation-norm", "gated-norm", "bounded-norm")
)
NORMS: frozenset[Kind] = STATISTICS | {"pixel-norm", "affine", "map-affine"}

# In eval mode these are one weight and one bias per channel, which become the convolution's.
_FOLDED = frozenset(("bn", "ghost-bn", "brn", "sync-bn", "ebn", "none", "sws"))
_OWN_STEP: dict[str, Kind] = {
    "gn": "group-norm",
    "gn-ws": "group-norm",
    "ln": "group-norm",
    "ln-full": "group-norm",
    "in": "group-norm",
    "rms": "rms-norm",
    "ln-channel": "pixel-norm",
    "dyt": "affine",
    "proxy-gn": "group-norm",
    "proxy-ln": "group-norm",
    "frn": "rms-norm",
    "lrn": "local-response",
    "evonorm-s0": "gated-norm",
    "evonorm-b0": "bounded-norm",
}
# What these are where no activation follows; None if it is folded.
_INACTIVE: dict[Kind, Kind | None] = {"gated-norm": "deviation-norm", "bounded-norm": None}
# Where these activate, an affine map per channel follows: the proxy's, or a threshold that is added
# after the maximum of 0 and a value less the threshold.
_AND_AFFINE = frozenset(("proxy-gn", "proxy-ln", "frn"))


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step. Its source is the target of the step before it.

    Attributes:
        kind: What it computes.
        block: The index of its block in the layout; -1 for the input.
        application: Which of the block's applications it belongs to, from 0.
        source: Shape (C, H, W) of what it reads.
        target: Shape of what it computes.
        window: Rows and columns that one output pixel depends on.
        stride: Distance of the windows, in both directions.
        padding: Rows and columns of zeros around the source.
        activation: The function applied to each value; None for none.
        skip: The index of the step whose target is added at the end, or None.
        signed: Whether a value of the target can be negative.
        groups: The number of groups of a normalization with statistics of the whole map.
        folded: Whether a normalization's weight and bias per channel are part of it.
        raw: Whether the next step is a normalization of its output.
        scaled: Whether a learned scale multiplies what is added to the skip.
    """

    kind: Kind
    block: int
    application: int = 0
    source: Shape
    target: Shape
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    activation: str | None = None
    skip: int | None = None
    signed: bool = True
    groups: int = 0
    folded: bool = False
    raw: bool = False
    scaled: bool = False

    @property
    def turns(self) -> int:
        """How often it runs: once for each row of its target; for `mean`, of its source."""
        return self.source[1] if self.kind == "mean" else self.target[1]

    @property
    def weighted(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("convolution", "depthwise")

    def rows(self, turn: int) -> tuple[int, int]:
        """The rows of its source that a turn reads: the first, and the last plus one."""
        if self.kind in STATISTICS:  # the first turn takes the statistics of all
            return turn, self.source[1]
        first = turn * self.stride - self.padding
        return max(0, first), min(self.source[1], first + self.window[0])


def lower(block_shapes: Sequence[BlockShape]) -> tuple[Step, ...]:
    """The steps of a network.

    Raises:
        UsageError: It has a part that is no such step; the error says which.
    """
    if block_shapes[0].block.custom:
        raise UsageError(f"{block_shapes[0].block.kind} is your own network: only layouts have C")
    applications = sum(block_shape.block.repeat for block_shape in block_shapes)
    if applications > MOST:
        raise UsageError(f"a C program has at most {MOST} blocks, not {applications:,}")
    source = block_shapes[0].input
    steps = [Step(kind="input", block=-1, source=source, target=source)]
    for index, block_shape in enumerate(block_shapes):
        _append(steps, index, block_shape)
    if steps[-1].skip is not None:
        raise UsageError(
            f"{block_shapes[steps[-1].block].block}: the classifier of a C program adds no input: "
            "train a layout without this +"
        )
    return tuple(_with_signs(steps))


def network_steps(
    layout: str, *, norm: str, classes: int, activation: str, shape: Shape
) -> tuple[Step, ...]:
    """The steps of a layout whose widths are all there, for images of a shape (C, H, W).

    Raises what `lower` raises.
    """
    blocks = notation.parse(layout)
    return lower(
        infer_shapes(blocks, norm=norm, classes=classes, shape=shape, activation=activation)
    )


def _append(steps: list[Step], index: int, block_shape: BlockShape) -> None:
    block, source = block_shape.block, block_shape.input
    step = partial(Step, block=index, source=source, target=block_shape.output)
    match block.kind:
        case "P":
            steps.append(step(kind="maximum", window=(2, 2), stride=2))
        case "A":
            steps.append(step(kind="average", window=(2, 2), stride=2))
        case "GAP":
            steps.append(step(kind="mean"))
        case "FC":
            steps.append(step(kind="convolution", window=source[1:]))
        case _:
            for application in range(block.repeat):
                _append_convolutions(steps, index, application, block_shape)


def _append_convolutions(
    steps: list[Step], index: int, application: int, block_shape: BlockShape
) -> None:
    """One application of a `C`, `c` or `D`."""
    block, source, target = block_shape.block, block_shape.input, block_shape.output
    skip = len(steps) - 1 if block.residual else None
    spatial = Step(
        kind="convolution",
        block=index,
        application=application,
        source=source,
        target=target,
        window=(block_shape.kernel, block_shape.kernel),
        stride=block.stride,
        padding=0 if block.valid or block_shape.kernel == 1 else 1,
    )
    convolutions = [spatial]
    if block.kind == "D":
        between = (source[0], *target[1:])
        convolutions = [
            replace(spatial, kind="depthwise", target=between),
            replace(spatial, source=between, window=(1, 1), stride=1, padding=0),
        ]
    norm = block_shape.norm
    name = (norm or "").partition("=")[0]
    activation = "relu" if name == "frn" else block_shape.activation
    for k, convolution in enumerate(convolutions):
        last = k == len(convolutions) - 1
        activate = norm is not None and block_shape.normalized[k][1]
        kind = _kind(norm, activate=activate)
        if kind in _INACTIVE:
            activate = False  # it has its own activation
        finish = partial(
            replace,
            activation=activation if activate else None,
            skip=skip if last else None,
            scaled=last and block_shape.branch_scales > 0,
        )
        if kind is None:
            steps.append(finish(replace(convolution, folded=norm is not None)))
            continue
        own = Step(
            kind=kind,
            block=index,
            application=application,
            source=convolution.target,
            target=convolution.target,
            groups=_groups(norm or "", convolution.target[0]),
        )
        if kind == "local-response":  # after an affine map and its activation
            folded = finish(convolution, folded=True, skip=None, scaled=False)
            steps += [folded, finish(own, activation=None)]
            continue
        # The tanh of `dyt` is the convolution's activation, and its affine map a step.
        tanh = "tanh" if kind == "affine" else None
        steps.append(replace(convolution, raw=tanh is None, activation=tanh))
        if name == "ln-full":
            steps += [own, finish(replace(own, kind="map-affine", groups=0))]
            continue
        if activate and name in _AND_AFFINE:
            steps.append(replace(own, activation=activation))
            steps.append(finish(replace(own, kind="affine", groups=0), activation=None))
            continue
        steps.append(finish(own))


def _kind(norm: str | None, *, activate: bool) -> Kind | None:
    """The step that a normalization is; None if it is folded, or if there is none."""
    name = (norm or "").partition("=")[0]
    if norm is None or name in _FOLDED:
        return None
    if name not in _OWN_STEP:
        raise UsageError(
            f"the normalization {norm} has no C: use one of "
            f"{', '.join(sorted(_FOLDED | _OWN_STEP.keys()))}"
        )
    kind = _OWN_STEP[name]
    return kind if activate else _INACTIVE.get(kind, kind)


def _groups(norm: str, channels: int) -> int:
    entry, number = norms.find(norm)
    if entry.divides:
        return number or norms.default_groups(channels)
    return channels if entry.name in ("in", "frn", "evonorm-b0") else 1


def _with_signs(steps: Sequence[Step]) -> list[Step]:
    """Fills in `signed`: only a ReLU makes values that are never negative."""
    signed: list[Step] = []
    for k, step in enumerate(steps):
        if step.kind in ("maximum", "average", "mean", "local-response"):
            negative = signed[k - 1].signed
        else:
            negative = step.activation != "relu"
        if step.skip is not None and not negative:
            # A branch with a learned scale, as `none` has it, can be subtracted.
            negative = signed[step.skip].signed or step.scaled
        signed.append(replace(step, signed=negative))
    return signed
