"""Whether a layout can be trained, and with a batch size: errors and warnings before training."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from normlab import notation
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.layers.norms import Shape
from normlab.network.custom import CustomNetwork
from normlab.network.shapes import infer_shapes
from normlab.notation import Block
from normlab.own_code import described
from normlab.wording import shape_text

SMALL_BATCH = 8
MAX_PARAMETERS = 500_000_000  # each takes 8 bytes of a checkpoint, which may have 4 GiB


def check_trainable(
    blocks: Sequence[Block],
    *,
    norm: str,
    classes: int,
    batches: Sequence[int],
    shape: Shape,
    activation: str = "relu",
) -> None:
    """Raises an error if a network is too large or cannot be trained on batches of these sizes.

    Each normalization is applied in training mode to batches of these sizes. BatchNorm over a 1 × 1
    map refuses a single image, which gives it one value per channel; a custom normalization may
    refuse anything.

    Raises:
        UsageError: It has more than `MAX_PARAMETERS`.
        LayoutError: A normalization refuses a batch; a caret shows the first such block.
        UsageError: A custom network refuses a batch.
    """
    block_shapes = infer_shapes(
        blocks, norm=norm, classes=classes, shape=shape, activation=activation
    )
    parameters = sum(block_shape.parameters for block_shape in block_shapes)
    if parameters > MAX_PARAMETERS:
        raise UsageError(
            f"the network has {parameters:,} parameters, at most {MAX_PARAMETERS:,} can be "
            "trained: choose narrower blocks or a smaller --budget"
        )
    for index, block_shape in enumerate(block_shapes):
        for maps, activate in block_shape.normalized:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                module = block_shape.build_norm(maps, activate=activate)
                for batch in batches:
                    try:
                        module(torch.zeros(batch, *maps))
                    except ValueError as error:
                        problem = (
                            f"{block_shape.norm} cannot be trained on {shape_text(maps)} and "
                            f"a batch of {batch}, which occurs in every epoch ({error}): "
                            "choose another --batch-size"
                        )
                        raise notation.error_at(blocks, index, problem) from None
    if blocks[0].custom:
        with torch.random.fork_rng(devices=[]):
            network = CustomNetwork(blocks[0].kind, norm, classes, activation, shape)
            _check_custom(network, f"{blocks[0].kind} with {norm}", shape, min(batches))


def _check_custom(network: CustomNetwork, called: str, shape: Shape, batch: int) -> None:
    """Raises UsageError if a custom network fails in training mode. Two images stand for more."""
    try:
        with torch.no_grad():
            network(torch.zeros(min(batch, 2), *shape))
    except Exception as error:  # the user's code can raise anything
        raise UsageError(
            f"{called} cannot be trained on a batch of {batch}, which occurs in every epoch: "
            f"{described(error)}"
        ) from error


def small_batch_warnings(used: Iterable[tuple[str, int]], processes: int = 1) -> Iterator[str]:
    """Warnings about statistics over fewer than 8 images, and what to expect of them.

    Args:
        used: The normalizations and the batch sizes that they are trained with.
        processes: Number of processes that share a batch. Each takes the statistics of its own
            part, except with `sync-bn`.
    """
    small: dict[str, dict[str, set[int]]] = {}
    for norm, batch_size in used:
        entry, number = norms.find(norm)
        axes = entry.axes.replace(",", " ").split()
        if "N" not in axes:
            continue
        shared = processes > 1 and "processes" not in axes
        images = batch_size // processes if shared else batch_size
        template = "batches of {} for each process" if shared else "batches of {}"
        if number is not None and number < images:
            images, template = number, "virtual batches of {}"
        if images < SMALL_BATCH:
            small.setdefault(template, {}).setdefault(norm, set()).add(images)
    for template, by_norm in small.items():
        sizes = sorted(set().union(*by_norm.values()))
        yield (
            f"{template.format(', '.join(map(str, sizes)))}: {', '.join(by_norm)} will take means "
            "and variances over so few images. They vary from step to step and differ from the "
            "running averages used in evaluation; expect lower accuracy than with 32 or more"
        )
