"""A network as it is used: pixels in, probabilities out, BatchNorm folded into the convolutions."""

import copy

import torch
from torch import Tensor, nn

from normlab.layers.fused import FusedNorm
from normlab.layers.norms.batch import BatchRenorm, GhostBatchNorm, SyncBatchNorm
from normlab.layers.norms.none import Affine
from normlab.layers.norms.registry import EPSILON
from normlab.network.model import Convolution, Network


class InferenceModel(nn.Module):
    """A copy of a network that does what others need of it, and learns no more.

    A normalization that is, in use, a weight and a bias for each channel goes into the convolution
    before it (Jacob et al. 2018, Quantization and Training of Neural Networks, arXiv:1712.05877,
    section 3.2). Where several normalizations share one convolution, as in `C*3`, it stays beside.
    """

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        network = copy.deepcopy(network)
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
        """Pixels, uint8 N × 3 × 32 × 32, to probabilities, float32 N × classes."""
        x = (images.to(torch.float32) / 255 - self.input_mean) / self.input_std
        logits: Tensor = self.blocks(x)
        return logits.flatten(1).softmax(1)


class SharedConvolution(nn.Module):
    """`C`, `c` and `D`, applied once or as often as the block says."""

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


def _folded(conv: nn.Module, norm: nn.Module | None, times: int) -> list[nn.Module]:
    """A convolution, used so many times, and the normalization after it, as layers in a row."""
    if norm is None:
        return [conv]
    first, *rest = norm if type(norm) is nn.Sequential else [norm]
    affine = _affine(first)
    if affine is None:
        return [conv, norm]
    if times > 1 or type(conv) is not nn.Conv2d:  # another class has its own way with its weights
        return [conv, affine, *rest]
    conv.weight = nn.Parameter(conv.weight * affine.weight[:, None, None, None])
    conv.bias = affine.bias
    return [conv, *([nn.ReLU()] if affine.activate else []), *rest]


def _affine(norm: nn.Module) -> Affine | None:
    """What a normalization is in use, where that is a weight and a bias for each channel.

    Only of exactly these classes: one that is derived from them may compute something else.
    """
    if type(norm) is Affine:
        return norm
    if type(norm) is GhostBatchNorm:
        return _affine(norm.norm)
    activate = False
    if type(norm) is FusedNorm and norm.groups is None:
        deviation = (norm.running_var + norm.eps).sqrt()
        activate = norm.activate
    elif type(norm) is SyncBatchNorm:
        deviation = (norm.running_var + EPSILON).sqrt()
    elif type(norm) is BatchRenorm:
        deviation = norm.running_std
    else:
        return None
    assert norm.bias is not None
    affine = Affine((len(norm.weight), 1, 1), activate=activate, dropout=0.0)
    affine.weight = nn.Parameter(norm.weight / deviation)
    affine.bias = nn.Parameter(norm.bias - norm.running_mean * affine.weight)
    return affine
