"""Builds the torch module of a layout."""

import torch
from torch import Tensor, nn

from normlab import notation
from normlab.config import ActivationName, Limits
from normlab.layers import norms
from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.fused import FusedNorm
from normlab.layers.norms import Shape
from normlab.layers.pooling import MaxPool
from normlab.layers.separable import Separable
from normlab.network import zoo
from normlab.network.custom import CustomNetwork
from normlab.network.shapes import INPUT, BlockShape, infer_shapes
from normlab.network.widths import NO_LIMITS, solve
from normlab.seeding import seed_for, seed_layers


class Network(nn.Module):
    """The network of a layout, or a custom one.

    It takes images, float N × C × H × W with values from 0 to 1, and returns logits, float
    N × classes. It first normalizes the images by the mean and standard deviation of the training
    split (`input_mean`, `input_std`: buffers, set by training and saved with the weights).

    The first weights are PyTorch's default random weights. Those of a block are drawn from
    (seed, block), so networks that differ only in normalization start from equal convolutions.

    Args:
        line: A layout, the name of one in the zoo, or the `module:function` of a custom network.
        norm: The network's normalization.
        activation: The activation after the normalizations. None: the named network's own if it has
            one, else `relu`.
        classes: Number of classes.
        budget: Upper limit of the number of parameters, as in `solve`.
        dropout: Probability of dropout after every activation.
        seed: Seed of the first weights.
        shape: Shape (C, H, W) of an image.
        limits: What the network must not exceed, as in `solve`.

    Raises:
        LayoutError: The layout has an error.
        UsageError: There is no such normalization or activation, the network does not fit the
            budget or a limit, or a custom network fails.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(
        self,
        line: str,
        *,
        norm: str = "bn",
        activation: ActivationName | None = None,
        classes: int = 10,
        budget: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        shape: Shape = INPUT,
        limits: Limits = NO_LIMITS,
    ) -> None:
        super().__init__()
        activation = zoo.activation_of(line, activation)
        blocks = solve(
            notation.parse(zoo.find(line)),
            norm=norm,
            classes=classes,
            budget=budget,
            shape=shape,
            activation=activation,
            limits=limits,
        )
        self.layout, self.shape = notation.format(blocks), shape
        self.register_buffer("input_mean", torch.zeros(shape[0]))
        self.register_buffer("input_std", torch.ones(shape[0]))
        with torch.random.fork_rng(devices=[]):
            self.blocks = nn.ModuleList(
                _module(block_shape, dropout, seed_for(seed, "weights", index))
                for index, block_shape in enumerate(
                    infer_shapes(
                        blocks, norm=norm, classes=classes, shape=shape, activation=activation
                    )
                )
            )

    @property
    def weights(self) -> list[Tensor]:
        """The weights of the convolutions and of `FC`, in order; the classifier's are last.

        A convolution with branches has the kernel of each.
        """
        return [
            weight
            for block in self.blocks
            for weight in (
                block.weights
                if isinstance(block, CustomNetwork)
                else [
                    parameter
                    for layer in block.children()
                    if isinstance(layer, nn.Conv2d | nn.Linear)
                    for parameter in layer.parameters()
                    if parameter.dim() > 1
                ]
            )
        ]

    @property
    def parts(self) -> list[nn.Module]:
        """Its blocks; the modules of a custom network."""
        return [
            part
            for block in self.blocks
            for part in ([*block.modules()] if isinstance(block, CustomNetwork) else [block])
        ]

    @property
    def counted_parameters(self) -> int | None:
        """Number of parameters of a custom network; None for a layout, which says it."""
        if not isinstance(self.blocks[0], CustomNetwork):
            return None
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, images: Tensor) -> Tensor:
        """Images, N × C × H × W with values from 0 to 1, to logits, N × classes."""
        height, width = images.shape[2:]
        # A value for each pixel, in the images' order in memory: a loop over channels is slow.
        mean, std = (
            values.expand(height, width, -1).contiguous().permute(2, 0, 1)
            for values in (self.input_mean, self.input_std)
        )
        x = (images - mean) / std
        for block in self.blocks:
            x = block(x)
        return x.flatten(1)


def _module(block_shape: BlockShape, dropout: float, seed: int) -> nn.Module:
    """The module of a block. Seeds torch's generator; the convolutions are drawn first."""
    seed_layers(torch.device("cpu"), seed)
    block = block_shape.block
    if block.custom:
        return CustomNetwork(
            block.kind,
            block_shape.norm or "",
            block_shape.output[0],
            block_shape.activation,
            block_shape.input,
        )
    match block.kind:
        case "P":
            return MaxPool()
        case "A":
            return nn.AvgPool2d(2)
        case "GAP":
            return nn.AdaptiveAvgPool2d(1)
        case "FC":
            return FullyConnected(block_shape)
    return Convolution(block_shape, dropout)


class FullyConnected(nn.Module):
    """`FC`: flattens its input and applies a linear layer with a bias."""

    def __init__(self, block_shape: BlockShape) -> None:
        super().__init__()
        channels, height, width = block_shape.input
        self.linear = nn.Linear(channels * height * width, block_shape.output[0])

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × width × 1 × 1."""
        output: Tensor = self.linear(x.flatten(1))
        return output[:, :, None, None]


class Convolution(nn.Module):
    """`C`, `c` and `D`: convolutions shared by all applications, and normalizations for each.

    If the normalization needs it (`skip_init`), each application of a residual branch is multiplied
    by one of `branch_scales`, which start at 0. `scale_invariant` is the normalization's; False
    without one.
    """

    def __init__(self, block_shape: BlockShape, dropout: float) -> None:
        super().__init__()
        block, inputs, outputs = block_shape.block, block_shape.input[0], block_shape.output[0]
        padding = 0 if block.valid or block_shape.kernel == 1 else 1
        entry = norms.find(block_shape.norm)[0] if block_shape.norm else None
        conv2d = entry.convolution if entry else nn.Conv2d
        self.depthwise: nn.Module | None = None
        if block.kind == "D":
            depthwise = DepthwiseConv2d if conv2d is nn.Conv2d else conv2d
            self.depthwise = depthwise(
                inputs, inputs, 3, block.stride, padding, groups=inputs, bias=False
            )
            self.conv = conv2d(inputs, outputs, 1, bias=False)
        else:
            self.conv = conv2d(
                inputs, outputs, block_shape.kernel, block.stride, padding, bias=False
            )
        self.depthwise_norms = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.residual = block.residual
        self.repeat = block.repeat
        self.scale_invariant = bool(entry and entry.scale_invariant)
        self.branch_scales: nn.Parameter | None = None
        if block_shape.branch_scales:
            self.branch_scales = nn.Parameter(torch.zeros(block_shape.branch_scales))
        if block_shape.norm is not None:
            for _ in range(block.repeat):
                *first, last = (
                    block_shape.build_norm(shape, activate=activate, dropout=dropout)
                    for shape, activate in block_shape.normalized
                )
                self.depthwise_norms.extend(first)
                self.norms.append(last)

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × width × H' × W'."""
        for application in range(self.repeat):
            separable = self.separable(application)
            if separable is not None and separable.can_run_compiled(x, residual=self.residual):
                x = separable(x, residual=self.residual)
                continue
            y = x
            if self.depthwise is not None:
                y = self.depthwise_norms[application](self.depthwise(y))
            y = self.conv(y)
            norm = self.norms[application] if self.norms else None
            if self.residual and self.branch_scales is None and isinstance(norm, FusedNorm):
                x = norm(y, residual=x)  # added in the same pass
                continue
            if norm is not None:
                y = norm(y)
            if self.branch_scales is not None:
                y = y * self.branch_scales[application]
            x = x + y if self.residual else y
        return x

    def separable(self, application: int) -> Separable | None:
        """The layers of an application of `D`; None for others, or if its branch is scaled."""
        if self.depthwise is None or not self.norms or self.branch_scales is not None:
            return None
        between, norm = self.depthwise_norms[application], self.norms[application]
        return Separable(self.depthwise, between, self.conv, norm)
