"""A network for inference: pixels in, probabilities out, BatchNorm folded into the convolutions."""

import copy

import torch
from torch import Tensor, nn

from normlab.layers.depthwise import DepthwiseConv2d
from normlab.layers.fused import ChannelAffine
from normlab.layers.norms.none import Affine
from normlab.network.model import Convolution, Network


class InferenceModel(nn.Module):
    """A copy of a network in eval mode, from pixels to probabilities. It cannot be trained.

    A normalization that in eval mode is one weight and one bias for each channel is folded into the
    convolution before it (Jacob et al. 2018, Quantization and Training of Neural Networks,
    arXiv:1712.05877, section 3.2). If several normalizations share one convolution, as in `C*3`,
    they remain layers of their own.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        network = copy.deepcopy(network)
        self.shape = network.shape
        self.register_buffer("input_mean", network.input_mean[:, None, None])
        self.register_buffer("input_std", network.input_std[:, None, None])
        self.blocks = nn.Sequential(
            *(
                SharedConvolution(block) if isinstance(block, Convolution) else block
                for block in network.blocks
            )
        )
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Pixels, uint8 N × C × S × S, to probabilities, float32 N × classes."""
        x = (images.to(torch.float32) / 255 - self.input_mean) / self.input_std
        logits: Tensor = self.blocks(x)
        return logits.flatten(1).softmax(1)


class SharedConvolution(nn.Module):
    """A `C`, `c` or `D` block: one convolution, applied once or several times."""

    def __init__(self, block: Convolution) -> None:
        super().__init__()
        self.residual, self.scales = block.residual, block.branch_scales
        self.uses = nn.ModuleList()
        for k in range(block.repeat):
            layers = []
            if block.depthwise is not None:
                layers += _folded(block.depthwise, block.depthwise_norms[k], block.repeat)
            layers += _folded(block.conv, block.norms[k] if block.norms else None, block.repeat)
            self.uses.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to N × width × H' × W'."""
        for k, apply in enumerate(self.uses):
            y = apply(x)
            if self.scales is not None:
                y = y * self.scales[k]
            x = x + y if self.residual else y
        return x


_PLAIN = (nn.Conv2d, DepthwiseConv2d)


def _folded(conv: nn.Module, norm: nn.Module | None, repeat: int) -> list[nn.Module]:
    """A convolution, applied `repeat` times, and one normalization after it, as layers."""
    if norm is None:
        return [conv]
    first, *rest = norm if type(norm) is nn.Sequential else [norm]
    affine = as_affine(first)
    if affine is None:
        return [conv, norm]
    weight, bias, activate = affine
    if repeat > 1 or type(conv) not in _PLAIN:  # another class computes with other weights
        layer = Affine((len(weight), 1, 1), activation=None, dropout=0.0)
        layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
        layer.activate = activate
        return [conv, layer, *rest]
    assert isinstance(conv, nn.Conv2d)
    conv.weight = nn.Parameter(conv.weight * weight[:, None, None, None])
    conv.bias = nn.Parameter(bias)
    return [conv, *([activate] if activate else []), *rest]


def as_affine(norm: nn.Module) -> ChannelAffine | None:
    """What the normalization says it is in eval mode, if that is one affine map per channel.

    Its own class must say it: a class derived from that may compute something else.
    """
    return norm.as_affine() if "as_affine" in vars(type(norm)) else None  # type: ignore[operator]
