"""A custom normalization, compared with BatchNorm on the embedded digits in half a minute.

    python examples/own_normalization.py

A name registered in Python exists only in this program. For runs that the command line can open,
put the class into a file of its own, my_norms.py, without registering it:

    normlab train assignment --norm my_norms:L1Norm --dataset digits --recipe demo
"""

import torch
from torch import Tensor, nn

import normlab


@normlab.register(
    "l1",
    formula="(x − E) / (E|x − E| + ε) · w + b",
    paper="the mean absolute deviation instead of the standard deviation",
    axes="C, H, W",
    parameters="2·C",
)
class L1Norm(nn.Module):
    """Over a whole map of shape (C, H, W), affine per channel. normlab adds a ReLU after it."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(shape[0], 1, 1))
        self.bias = nn.Parameter(torch.zeros(shape[0], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """N × C × H × W to the same shape."""
        centred = x - x.mean((1, 2, 3), keepdim=True)
        deviation = centred.abs().mean((1, 2, 3), keepdim=True)
        return centred / (deviation + 1e-5) * self.weight + self.bias


if __name__ == "__main__":
    runs = []
    for norm in ("bn", "l1"):
        config = normlab.RunConfig(network="assignment", norm=norm, dataset="digits", recipe="demo")
        runs.append(normlab.train(config, out=f"runs/own-normalization/assignment-{norm}-0"))
    print("report:", normlab.write_report(runs))
