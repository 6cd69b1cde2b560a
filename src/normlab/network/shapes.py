"""Where each block of a layout stands: the shapes it takes and gives, and what it costs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.notation import Block

INPUT: Shape = (3, 32, 32)
SMALL_BATCH = 8


@dataclass(frozen=True)
class BlockShape:
    """A block where it stands in a network.

    Attributes:
        block: The block, its width filled in.
        input: Shape (C, H, W) that it takes.
        output: Shape that it gives.
        norm: The normalization in force; None for a block that has none.
        norm_parameters: What the normalizations learn, those of all applications together.
        running_statistics: Values that they keep from training without learning them.
    """

    block: Block
    input: Shape
    output: Shape
    norm: str | None
    norm_parameters: int = 0
    running_statistics: int = 0

    @property
    def kernel(self) -> int:
        """Side of the block's spatial filter."""
        return 3 if self.norm is not None else 1

    @property
    def normalized(self) -> tuple[tuple[Shape, bool], ...]:
        """What the normalizations of one application see, and whether an activation follows."""
        if self.norm is None:
            return ()
        last = (self.output, True)
        if self.block.kind == "D":
            return (((self.input[0], *self.output[1:]), False), last)
        return (last,)

    @property
    def branch_scales(self) -> int:
        """Learned scales of the residual branch: one for each application, or none."""
        if self.norm is None or not self.block.residual:
            return 0
        return self.block.repeat if norms.find(self.norm)[0].skip_init else 0

    @property
    def weights(self) -> int:
        """Parameters of the convolutions and the fully connected layer."""
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
        return self.weights + self.norm_parameters + self.branch_scales

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the convolutions and the fully connected layer, for one image."""
        if self.block.kind == "FC":
            return self.weights - self.output[0]
        return self.weights * self.output[1] * self.output[2] * self.block.repeat


def infer_shapes(blocks: Sequence[Block], *, norm: str, classes: int) -> tuple[BlockShape, ...]:
    """Follows the shapes through a layout whose widths are all known but the classifier's.

    Raises:
        LayoutError: A block cannot stand where it stands; a caret shows which.
        UsageError: There is no such normalization.
    """
    classifier = classifier_of(blocks)
    placed: list[BlockShape] = []
    shape = INPUT
    pooled = flat = False
    for index, block in enumerate(blocks):
        problem = _misplaced(block, shape, pooled=pooled, flat=flat)
        if problem:
            raise notation.error_at(blocks, index, problem)
        if index == classifier:
            if not (pooled or block.kind in ("c", "FC")):
                raise notation.error_at(
                    blocks, index, "the classifier is bare: c before GAP, or C, c or FC after it"
                )
            if block.width not in (None, classes):
                raise notation.error_at(
                    blocks, index, f"the classifier's width is the number of classes, {classes}"
                )
            block = replace(block, width=classes)
        own = None
        if block.kind in ("C", "D") and not pooled:
            own = block.norm or norm
        output = _output(block, shape, bare=own is None)
        if (block.residual or block.repeat > 1) and output != shape:
            sign = "+" if block.residual else "*"
            raise notation.error_at(
                blocks,
                index,
                f"{sign} needs an output of its input's shape: "
                f"{shape_text(shape)} goes in, {shape_text(output)} comes out",
            )
        try:
            placed.append(_counted(BlockShape(block, shape, output, own)))
        except UsageError as error:
            raise notation.error_at(blocks, index, str(error)) from None
        shape = output
        pooled |= block.kind in ("GAP", "FC")
        flat |= block.kind == "FC"
    if not pooled:
        raise notation.error_at(
            blocks, len(blocks) - 1, f"the network ends with a map, {shape_text(shape)}: add GAP"
        )
    return tuple(placed)


def classifier_of(blocks: Sequence[Block]) -> int:
    """The place of the classifier: the last block that has weights."""
    for index in reversed(range(len(blocks))):
        if blocks[index].weighted:
            return index
    raise notation.error_at(blocks, len(blocks) - 1, "no classifier: expected a C, c or FC")


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


def count(blocks: Sequence[Block], *, norm: str, classes: int) -> int:
    """The parameters of a layout whose widths are all known but the classifier's."""
    return sum(placed.parameters for placed in infer_shapes(blocks, norm=norm, classes=classes))


def _counted(placed: BlockShape) -> BlockShape:
    """The block with its normalizations counted: they are built, for a user's own may be any."""
    parameters = statistics = 0
    with torch.random.fork_rng(devices=[]):  # which may draw its first weights
        for shape, activate in placed.normalized:
            module = norms.build(placed.norm or "", shape, activate=activate)
            parameters += sum(p.numel() for p in module.parameters())
            statistics += sum(b.numel() for b in module.buffers() if b.is_floating_point())
    repeat = placed.block.repeat
    return replace(
        placed, norm_parameters=repeat * parameters, running_statistics=repeat * statistics
    )


def norms_of(blocks: Sequence[Block], norm: str) -> list[str]:
    """The normalizations of a layout's convolutions, each once."""
    return list(dict.fromkeys(b.norm or norm for b in blocks if b.kind in ("C", "D")))


def small_batch_warnings(used: Iterable[tuple[str, int]], processes: int = 1) -> Iterator[str]:
    """Warns of statistics over fewer than 8 images, and says what to expect.

    Args:
        used: Normalizations and the batch sizes that they are trained with.
        processes: How many share a batch: each takes statistics of its own part, but for `sync-bn`.
    """
    few: dict[str, dict[str, set[int]]] = {}
    for norm, batch_size in used:
        entry, number = norms.find(norm)
        over = entry.axes.replace(",", " ").split()
        if "N" not in over:
            continue
        shared = processes > 1 and "processes" not in over
        images = batch_size // processes if shared else batch_size
        what = "batches of {} for each process" if shared else "batches of {}"
        if number is not None and number < images:
            images, what = number, "virtual batches of {}"
        if images < SMALL_BATCH:
            few.setdefault(what, {}).setdefault(norm, set()).add(images)
    for what, by_norm in few.items():
        sizes = sorted(set().union(*by_norm.values()))
        yield (
            f"{what.format(', '.join(map(str, sizes)))}: {', '.join(by_norm)} will take their "
            "means and variances from so few images, which differ from step to step and from the "
            "running means that are used afterwards; expect lower accuracy than with 32 or more"
        )


def shape_text(shape: Shape) -> str:
    """A shape as people write it: `12 × 32 × 32`."""
    return " × ".join(map(str, shape))


def check_trainable(
    blocks: Sequence[Block], *, norm: str, classes: int, batches: Sequence[int]
) -> None:
    """Refuses batches in which a normalization has a single value to take statistics over.

    Each is tried in training mode on batches of these sizes: BatchNorm over a 1 × 1 map refuses one
    image, and a user's own may refuse anything.

    Raises:
        LayoutError: The block of the first that refuses.
    """
    for index, placed in enumerate(infer_shapes(blocks, norm=norm, classes=classes)):
        for shape, activate in placed.normalized:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                module = norms.build(placed.norm or "", shape, activate=activate)
                for batch in batches:
                    try:
                        module(torch.zeros(batch, *shape))
                    except ValueError as error:
                        problem = (
                            f"{placed.norm} cannot be trained here, on {shape_text(shape)} and "
                            f"batches of {batch}, as an epoch has ({error}): "
                            "choose another --batch-size"
                        )
                        raise notation.error_at(blocks, index, problem) from None
