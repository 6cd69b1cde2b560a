"""The shape of each block of a layout: its input, its output, its parameters, its cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import nn

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import activations, norms
from normlab.layers.activations import Activation
from normlab.layers.norms import Normalization, Shape
from normlab.network.custom import CustomNetwork
from normlab.notation import Block
from normlab.wording import shape_text

INPUT: Shape = (3, 32, 32)  # of a network that is built without data


@dataclass(frozen=True)
class BlockShape:
    """A block with its place in a network.

    Attributes:
        block: The block, with its width filled in.
        input: Shape (C, H, W) of its input.
        output: Shape of its output.
        norm: The normalization it uses, its own or the network's; None for a block without one.
        activation: The activation after its normalizations.
        norm_parameters: Learned parameters of its normalizations and activations, over all
            applications.
        running_statistics: Values that the normalizations keep from training but do not learn.
    """

    block: Block
    input: Shape
    output: Shape
    norm: str | None
    activation: str = "relu"
    norm_parameters: int = 0
    running_statistics: int = 0

    @property
    def kernel(self) -> int:
        """Side of the block's spatial filter."""
        return 3 if self.norm is not None else 1

    @property
    def normalized(self) -> tuple[tuple[Shape, bool], ...]:
        """Per normalization of one application: its shape, and whether an activation follows."""
        if self.norm is None:
            return ()
        last = (self.output, True)
        if self.block.kind == "D":
            return (((self.input[0], *self.output[1:]), self.block.between), last)
        return (last,)

    def build_norm(self, shape: Shape, *, activate: bool, dropout: float = 0.0) -> nn.Module:
        """One of its normalizations, with its activation and dropout if an activation follows."""
        return norms.build(
            self.norm or "",
            shape,
            activate=activate,
            activation=activations.find(self.activation),
            dropout=dropout if activate else 0.0,
        )

    @property
    def branch_scales(self) -> int:
        """Number of learned scales of the residual branch: one for each application, or none."""
        if self.norm is None or not self.block.residual:
            return 0
        return self.block.repeat if norms.find(self.norm)[0].skip_init else 0

    @property
    def weights(self) -> int:
        """Parameters of its convolutions or its fully connected layer."""
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
        """All learned parameters."""
        return self.weights + self.norm_parameters + self.branch_scales

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its convolutions or its fully connected layer, for one image."""
        if self.block.kind == "FC":
            return self.weights - self.output[0]
        return self.weights * self.output[1] * self.output[2] * self.block.repeat


@dataclass(frozen=True)
class CustomShape(BlockShape):
    """A custom network as the one block of its layout. `norm_parameters` are all its parameters.

    Attributes:
        counted_macs: Multiply-accumulates for one image.
        normalizes: Per normalization, its shape and whether an activation follows.
    """

    counted_macs: int = 0
    normalizes: tuple[tuple[Shape, bool], ...] = ()

    @property
    def normalized(self) -> tuple[tuple[Shape, bool], ...]:
        """Per normalization: its shape, and whether an activation follows."""
        return self.normalizes

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its convolutions and matrix products, for one image."""
        return self.counted_macs


def infer_shapes(
    blocks: Sequence[Block], *, norm: str, classes: int, shape: Shape, activation: str = "relu"
) -> tuple[BlockShape, ...]:
    """The shapes of all blocks of a layout. Only the classifier's width may be open.

    Args:
        blocks: The layout.
        norm: The network's normalization.
        classes: The classifier's width.
        shape: Shape (C, H, W) of an image.
        activation: The network's activation.

    Raises:
        LayoutError: A block is not allowed in its place; a caret shows which.
        UsageError: There is no such normalization or activation.
    """
    activations.find(activation)
    if blocks[0].custom:
        return (_custom_shape(blocks[0], norm, classes, shape, activation),)
    classifier = classifier_of(blocks)
    block_shapes: list[BlockShape] = []
    image = shape[1:]
    pooled = flat = False
    for index, block in enumerate(blocks):
        problem = _misplacement(block, shape, image, pooled=pooled, flat=flat)
        if problem:
            raise notation.error_at(blocks, index, problem)
        if index == classifier:
            if not (pooled or block.kind in ("c", "FC")):
                raise notation.error_at(
                    blocks,
                    index,
                    "the classifier must have no normalization: write c before GAP, or C, c or FC "
                    "after GAP",
                )
            if block.width not in (None, classes):
                raise notation.error_at(
                    blocks, index, f"the classifier's width is the number of classes, {classes}"
                )
            block = replace(block, width=classes)
        normalized = block.kind in ("C", "D") and not pooled
        output = _output(block, shape, bare=not normalized)
        if (block.residual or block.repeat > 1) and output != shape:
            sign = "+" if block.residual else "*"
            raise notation.error_at(
                blocks,
                index,
                f"{sign} needs an output of the input's shape: "
                f"the input is {shape_text(shape)}, the output {shape_text(output)}",
            )
        used = (block.norm or norm) if normalized else None
        block_shape = BlockShape(block, shape, output, used, activation)
        try:
            block_shapes.append(_with_norm_counts(block_shape))
        except UsageError as error:
            raise notation.error_at(blocks, index, str(error)) from None
        shape = output
        pooled |= block.kind in ("GAP", "FC")
        flat |= block.kind == "FC"
    if not pooled:
        raise notation.error_at(
            blocks, len(blocks) - 1, f"the network ends with a map, {shape_text(shape)}: add GAP"
        )
    return tuple(block_shapes)


def classifier_of(blocks: Sequence[Block]) -> int:
    """The index of the classifier: the last block with weights."""
    for index in reversed(range(len(blocks))):
        if blocks[index].weighted:
            return index
    raise notation.error_at(blocks, len(blocks) - 1, "no classifier: expected a C, c or FC")


def _misplacement(
    block: Block, shape: Shape, image: tuple[int, int], *, pooled: bool, flat: bool
) -> str | None:
    """Why a block is not allowed in this place; None if it is."""
    _, height, width = shape
    here = f"with images of {shape_text(image)}, the maps are {height} × {width} here"
    if flat and block.kind != "FC":
        return f"only FC can follow FC, not {block.kind}"
    if pooled:
        if block.kind in ("D", "P", "A", "GAP"):
            return f"only C, c and FC can follow GAP, not {block.kind}"
        if block.valid or block.stride > 1 or block.norm:
            return "after GAP a convolution is a plain 1×1: remove v, s2 and /norm"
    elif block.kind in ("P", "A") and min(height, width) < 2:
        return f"{block} has no pixels left to pool: {here}"
    elif block.valid and min(height, width) < 3:
        return f"{block} has no pixels left for a 3×3 filter without padding: {here}"
    return None


def _output(block: Block, shape: Shape, *, bare: bool) -> Shape:
    channels, height, width = shape
    channels = block.width if block.width is not None else channels
    if block.kind in ("GAP", "FC"):
        return (channels, 1, 1)
    if block.kind in ("P", "A"):
        return (channels, height // 2, width // 2)
    shrink = 2 if block.valid and not bare else 0
    return (
        channels,
        (height - shrink - 1) // block.stride + 1,
        (width - shrink - 1) // block.stride + 1,
    )


def count(
    blocks: Sequence[Block], *, norm: str, classes: int, shape: Shape, activation: str = "relu"
) -> int:
    """The parameters of a layout. Arguments as `infer_shapes` takes them."""
    block_shapes = infer_shapes(
        blocks, norm=norm, classes=classes, shape=shape, activation=activation
    )
    return sum(block_shape.parameters for block_shape in block_shapes)


def _with_norm_counts(block_shape: BlockShape) -> BlockShape:
    """Counts parameters and statistics of the normalizations."""
    if block_shape.norm is None:
        return block_shape
    entry, number = norms.find(block_shape.norm)
    activation = activations.find(block_shape.activation)
    counts = [
        _norm_counts(entry, number, shape, activation if activate else None)
        for shape, activate in block_shape.normalized
    ]
    repeat = block_shape.block.repeat
    return replace(
        block_shape,
        norm_parameters=repeat * sum(parameters for parameters, _ in counts),
        running_statistics=repeat * sum(statistics for _, statistics in counts),
    )


def _custom_shape(
    block: Block, norm: str, classes: int, shape: Shape, activation: str
) -> CustomShape:
    """Builds a custom network, and counts."""
    with torch.random.fork_rng(devices=[]):
        network = CustomNetwork(block.kind, norm, classes, activation, shape)
    seen = [(layer.shape, layer.activate) for layer in network.norms if layer.shape is not None]
    return CustomShape(
        block,
        shape,
        (classes, 1, 1),
        norm,
        activation,
        norm_parameters=sum(layer.parameters for layer in network.layers),
        running_statistics=count_statistics(network),
        counted_macs=sum(layer.macs for layer in network.layers),
        normalizes=tuple(dict.fromkeys(seen)),
    )


@lru_cache(maxsize=4096)  # the solver counts hundreds of layouts of much the same blocks
def _norm_counts(
    entry: Normalization, number: int | None, shape: Shape, activation: Activation | None
) -> tuple[int, int]:
    """Parameters and running statistics of a normalization with its activation.

    It builds them, as custom ones vary.
    """
    with torch.random.fork_rng(devices=[]):  # building may draw random weights
        module = entry.build(shape, number, activation, 0.0)
    parameters = sum(p.numel() for p in module.parameters())
    return parameters, count_statistics(module)


def count_statistics(module: nn.Module) -> int:
    """The values that a module keeps from training but does not learn; a count of steps is none."""
    return sum(buffer.numel() for buffer in module.buffers() if buffer.is_floating_point())


def norms_of(blocks: Sequence[Block], norm: str) -> list[str]:
    """The names of the normalizations in a layout, without repetition."""
    return list(dict.fromkeys(b.norm or norm for b in blocks if b.kind in ("C", "D") or b.custom))
