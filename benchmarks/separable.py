"""The block `D` in one pass, and its layers one after the other: forward and backward.

    python benchmarks/separable.py [--threads 2] [--precisions float32 bfloat16] [--avx2]
        [--repetitions 15] [--out OUT.json]

Blocks of `nano` and `micro`, and wider ones, with batches of 128, in alternating turns of two steps
of a block. The ratio is the median over turns. --avx2 holds both to AVX2, on a processor that has
more: oneDNN, and the passes, built by GCC.
"""

import copy
import ctypes
import os
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

import torch
from common import alternate, median_ratio, medians, parser, report, show
from torch import nn

from normlab.layers import kernels
from normlab.layers.kernels import build, compilers
from normlab.network.model import Network
from normlab.training.precision import products_in

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
NORMS = ("bn", "gn")
STEPS = 2  # of a turn
# Channels before and after, side
BLOCKS = [
    *[(12, 16, 32), (16, 16, 32), (24, 24, 16), (26, 26, 8)],
    *[(24, 48, 32), (48, 48, 32), (48, 64, 16), (64, 64, 16), (64, 104, 8), (104, 104, 8)],
]


def seconds(block, x, dy, precision):
    """Seconds of a step: forward and backward."""
    start = perf_counter()
    for _ in range(STEPS):
        for tensor in (x, *block.parameters()):
            tensor.grad = None  # else gradients are added up, too
        with products_in(precision, x.device):
            y = block(x)
        y.backward(dy)
    return (perf_counter() - start) / STEPS


def contenders(channels, outputs, side, norm, precision):
    """A turn of each."""
    plus = "+" if channels == outputs else ""
    block = Network(f"C:{channels} D:{outputs}{plus} GAP FC", norm=norm).blocks[1]
    layers = copy.deepcopy(block)
    for layer in layers.modules():  # hooks: they are called one by one
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda *_: None)
    x, dy = (
        torch.randn(128, count, side, side)
        .to(PRECISIONS[precision])
        .contiguous(memory_format=torch.channels_last)
        for count in (channels, outputs)
    )
    x.requires_grad_()
    return {
        name: partial(seconds, each, x, dy, precision)
        for name, each in (("one pass", block), ("layers", layers))
    }


def hold_to_avx2():
    """From now on, the passes and oneDNN use nothing beyond AVX2."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"  # read at the first convolution
    flags = (*compilers.FLAGS, *compilers.GCC_FLAGS, "-march=x86-64-v3")
    with tempfile.TemporaryDirectory() as folder:  # once it is loaded, the file is not needed
        library = ctypes.CDLL(str(compilers.build("gcc", flags, Path(folder) / "kernels.so")))
    build.give_threads(library)
    kernels.library = lambda: library


def main():
    arguments = parser(__doc__, repetitions=15, threads=2)
    arguments.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=[*PRECISIONS], metavar="NAME"
    )
    arguments.add_argument("--avx2", action="store_true", help="hold both to AVX2")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    if options.avx2:
        hold_to_avx2()
    rows, measured = [], {}
    for precision in options.precisions:
        for norm in NORMS:
            for channels, outputs, side in BLOCKS:
                turns = contenders(channels, outputs, side, norm, precision)
                results = alternate(turns, options.repetitions)
                times = medians(results)
                ratio = median_ratio(results["layers"], results["one pass"])
                name = f"{channels} to {outputs}, {side} × {side}, {norm}, {precision}"
                measured[name] = results
                milliseconds = (f"{1e3 * times[one]:.2f}" for one in ("layers", "one pass"))
                rows.append((name, *milliseconds, f"{ratio:.2f}"))
    show(
        f"milliseconds of a block, forward and backward, {options.threads} threads",
        ("block", "layers", "one pass", "ratio"),
        rows,
    )
    report(options.out, threads=options.threads, avx2=options.avx2, seconds=measured)


if __name__ == "__main__":
    main()
