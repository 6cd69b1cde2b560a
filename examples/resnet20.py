"""ResNet-20 with shortcuts of option A: He et al. 2015, arXiv:1512.03385, section 4.2.

normlab compare examples.resnet20:resnet20 --norms bn gn ln
normlab train examples.resnet20:resnet20 --norm gn --dataset digits --recipe demo
"""

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions. The shortcut has no parameters: it skips pixels, and adds channels of 0."""

    def __init__(self, norm, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = norm.conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = norm(outputs, activate=True)
        self.conv2 = norm.conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(branch + F.pad(shortcut, (0, 0, 0, 0, 0, self.added)))


def resnet20(norm, classes: int) -> nn.Module:
    """N × 3 × 32 × 32 to N × classes; 0.27 million parameters."""
    layers = [norm.conv2d(3, 16, 3, padding=1, bias=False), norm(16, activate=True)]
    inputs = 16
    for outputs in (16, 32, 64):
        for block in range(3):
            stride = 2 if block == 0 and outputs > 16 else 1
            layers.append(Block(norm, inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
