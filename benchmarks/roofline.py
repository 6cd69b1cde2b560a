"""Where a training step's time goes above the bound that the machine sets.

    python benchmarks/roofline.py [--threads 2] [--networks seed-bn line micro nano]
        [--precisions float32 bfloat16] [--repetitions 15] [--figure OUT.svg] [--out OUT.json]

Each network trains on CIFAR-10 images from $NORMLAB_DATA with batches of 128 (recipe `seed` without
augmentation and dropout). Of every pass of every block, forward and backward, this measures the
time, from its start to the start of the next one: the median over steps. The rest is the batch, the
loss, the update and what comes before the first block. What autograd does between two passes counts
to the first.

A pass has to do its operations, and to read its inputs and write its results once. So its bound is
the larger of two times (Williams, Waterman & Patterson 2009, Roofline, section 3):

    its operations    over those per second of the fastest matrix product of its type
    its bytes         over those per second of a triad (triad.c) whose arrays are as large together,
                      or larger

Operations are two for each multiply-accumulate of a convolution or FC, and those of the formulas of
a normalization with its activation (forward 7 a value, backward 15) or a pool (3 an output). A
backward pass of a convolution has two products, the first one of the network one. Weights are small
and count as operations only. The triad needs GCC or clang with OpenMP.
"""

import ctypes
import dataclasses
import statistics
import subprocess
import tempfile
from collections import defaultdict
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from common import Training, cifar10_part, parser, report, show
from matplotlib.patches import Rectangle
from torch import nn

from normlab import recipes
from normlab.layers import kernels
from normlab.layers.fused import FusedNorm
from normlab.layers.pooling import MaxPool
from normlab.network.model import Convolution
from normlab.report import plots
from normlab.storage.files import write_atomically

NETWORKS = ("seed-bn", "line", "micro", "nano")
PRECISIONS = ("float32", "bfloat16")
BATCH = 128
RECIPE = dataclasses.replace(recipes.find("seed"), augment=(), batch_size=BATCH, dropout=0.0)
PRODUCTS = (512, 1024, 2048)
SETS = [2**k for k in range(15, 29)]  # bytes of the triad's three arrays together
SECONDS = 0.05  # of a measurement of the triad or of the product
KINDS = {
    nn.Conv2d: "convolution",
    nn.Linear: "FC",
    FusedNorm: "normalization",
    MaxPool: "pooling",
    nn.AvgPool2d: "pooling",
    nn.AdaptiveAvgPool2d: "pooling",
}
OPERATIONS = {"normalization": (7, 15), "pooling": (3, 3)}  # a value, forward and backward
SEPARABLE = "block D"  # the kind of a block in one pass


# --- The machine --------------------------------------------------------------------------------


def rate(run, amount):
    """The best of five rates: how much of `amount` a second `run` does, called often enough."""
    run(1)
    start = perf_counter()
    run(1)
    times = max(1, round(SECONDS / max(perf_counter() - start, 1e-7)))
    rates = []
    for _ in range(5):
        start = perf_counter()
        run(times)
        rates.append(times * amount / (perf_counter() - start))
    return max(rates)


def products(dtype):
    """Operations per second of the fastest square matrix product."""

    def of(size):
        a, b, c = (torch.randn(size, size).to(dtype) for _ in range(3))

        def run(times):
            for _ in range(times):
                torch.mm(a, b, out=c)

        return rate(run, 2 * size**3)

    return max(map(of, PRODUCTS))


def triads(threads):
    """Bytes per second of the triad for each size of its arrays together."""
    source = Path(__file__).with_name("triad.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "triad.so"
        flags = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
        subprocess.run(["cc", *flags, "-o", library, source], check=True)
        triad = ctypes.CDLL(str(library)).triad
    speeds = {}
    for size in SETS:
        length = size // 12
        arrays = np.ones((3, length), np.float32)
        a, b, c = (ctypes.c_void_p(row.ctypes.data) for row in arrays)

        def run(times, a=a, b=b, c=c, length=length):
            triad(a, b, c, ctypes.c_int64(length), ctypes.c_int64(times), threads)

        speeds[size] = rate(run, 12 * length)
    return speeds


# --- The passes ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Pass:
    """What a pass of a block must do at least."""

    kind: str
    operations: float
    moved: float  # bytes

    def bound(self, product, speeds):
        """The seconds that it must take, and whether its operations are why."""
        fitting = [speed for size, speed in speeds.items() if size >= self.moved]
        speed = max(fitting, default=speeds[max(speeds)])
        computing, moving = self.operations / product, self.moved / speed
        return max(computing, moving), computing > moving


class Watch:
    """Takes the time at the start of every pass of a network's steps.

    `passes` has what each pass must do, once a step was watched; `starts` what began when, in
    order, since it was cleared.
    """

    def __init__(self, training, bytes_a_value):
        self.passes, self.starts, self.size = {}, [], bytes_a_value
        self.block, self.by_layers = None, set()
        network, step = training.network, training.train_step
        network.register_forward_pre_hook(lambda *_: self.begin("input"))
        network.register_forward_hook(lambda *_: self.begin("loss"))
        update = step.update
        step.update = lambda rate: (self.begin("update"), update(rate))
        words = network.layout.split()
        for number, (word, block) in enumerate(zip(words, network.blocks, strict=True), 1):
            if isinstance(block, Convolution) and block.separable(0) is not None:
                block.register_forward_pre_hook(partial(self._enter, f"{number} {word}"))
            else:
                self._watch_layers(f"{number} {word}", block)

    def _watch_layers(self, name, block):
        for part, layer in block.named_modules():
            kind = next((KINDS[known] for known in KINDS if isinstance(layer, known)), None)
            if kind is not None:
                self._watch(name, part, layer, kind)

    def begin(self, what):
        self.starts.append((what, perf_counter()))

    def _enter(self, name, block, inputs):
        """Hooks on its layers would keep a block from being computed in one pass."""
        self.block = name
        compiled = block.separable(0).can_run_compiled(*inputs, residual=block.residual)
        if not compiled and name not in self.by_layers:
            self.by_layers.add(name)
            self._watch_layers(name, block)

    @contextmanager
    def separable_watched(self):
        """Within it, blocks in one pass are watched."""
        run = kernels.separable
        forwards = []

        def watched(name, x, between, convolved, *arguments, **named):
            if name == "forward":
                forwards.append(self.block)
            block = self.block if name == "forward" else forwards.pop()
            self.begin((block, "", name))
            before, after = x.numel(), convolved.numel()
            products = 2 * (9 * before + x.shape[1] * after)
            values = OPERATIONS["normalization"][name == "backward"] * (before + after)
            times = 1 if name == "forward" else 2
            moved = (before + after + (before if name == "backward" else 0)) * self.size
            self.passes[block, "", name] = Pass(SEPARABLE, times * products + values, moved)
            run(name, x, between, convolved, *arguments, **named)

        kernels.separable = watched
        try:
            yield
        finally:
            kernels.separable = run

    def _watch(self, block, name, layer, kind):
        if kind == "convolution" and layer.groups > 1:
            kind = "depthwise"
        forward, backward = (block, name, "forward"), (block, name, "backward")

        def note(layer, inputs, named, output):
            x, gradients = inputs[0], 1 + inputs[0].requires_grad
            if isinstance(layer, nn.Conv2d | nn.Linear):
                once = 2 * output.numel() * layer.weight[0].numel()
                operations = (once, gradients * once)
            else:
                operations = tuple(count * output.numel() for count in OPERATIONS[kind])
            read, written = x.numel() * self.size, output.numel() * self.size
            residual = 0 if named.get("residual") is None else written
            self.passes[forward] = Pass(kind, operations[0], read + residual + written)
            moved = read + written + (gradients - 1) * read
            self.passes[backward] = Pass(kind, operations[1], moved)

        layer.register_forward_pre_hook(lambda *_: self.begin(forward))
        layer.register_forward_hook(note, with_kwargs=True)
        layer.register_full_backward_pre_hook(lambda *_: self.begin(backward))


def seconds(training, watch, repetitions):
    """The median seconds of everything that begins in a step, by its name."""
    taken = defaultdict(list)
    for step in range(repetitions + 3):
        watch.starts.clear()
        watch.begin("batch")
        training(1)
        watch.begin("")
        spent = defaultdict(float)  # a block that is applied twice has two of each pass
        for (name, start), (_, end) in pairwise(watch.starts):
            spent[name] += end - start
        for name, value in spent.items():
            if step >= 3:
                taken[name].append(value)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(name, precision, dataset, threads, repetitions, machine):
    """The rows of a network: its passes, then the rest."""
    training = Training(name, dataset, RECIPE, threads, precision)
    watch = Watch(training, 2 if precision == "bfloat16" else 4)
    rows = []
    with watch.separable_watched():
        taken = seconds(training, watch, repetitions)
    for key, value in taken.items():
        row = {"seconds": value, "bound": 0.0, "kind": "rest", "name": key}
        if key in watch.passes:
            one, (block, part, direction) = watch.passes[key], key
            bound, computing = one.bound(machine["products"][precision], machine["triads"])
            row = {
                "block": block,
                "pass": part,
                "kind": one.kind,
                "direction": direction,
                "operations": one.operations,
                "bytes": one.moved,
                "seconds": value,
                "bound": bound,
                "bound_by": "operations" if computing else "bytes",
            }
        rows.append(row)
    return rows


# --- What is shown ------------------------------------------------------------------------------


def table(rows):
    """Rows of the table: each block, its passes by kind, forward and backward together apart."""
    head = ("block", "pass", *("ms", "bound", "times") * 2)
    by_pass = defaultdict(dict)
    for row in rows:
        if row["kind"] != "rest":
            by_pass[row["block"], row["pass"], row["kind"]][row["direction"]] = row
    lines = []
    for (block, part, kind), both in by_pass.items():
        line = [block, f"{kind} ({part})" if part else kind]
        for row in (both["forward"], both["backward"]):
            line += [
                f"{1e3 * row['seconds']:.2f}",
                f"{1e3 * row['bound']:.2f}",
                f"{row['seconds'] / row['bound']:.1f}",
            ]
        lines.append(tuple(line))
    return head, lines


def by_kind(rows):
    """Seconds and bound of each kind of pass and direction, the longest first."""
    sums = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        name = f"{row['kind']} {row.get('direction', '')}".strip()
        sums[name][0] += row["seconds"]
        sums[name][1] += row["bound"]
    return sorted(sums.items(), key=lambda item: -item[1][0])


@plots.styled
def figure(measured):
    """For each network and precision, a bar of time for each kind of pass, its bound dark."""
    precisions = list(next(iter(measured.values())))
    counts = [len(by_kind(next(iter(of_network.values())))) for of_network in measured.values()]
    size = (1.5 * plots.WIDTH, sum(1.1 + 0.24 * count for count in counts))
    drawn = plots.Chart(figsize=size, layout="constrained")
    paper = Rectangle((0, 0), 1, 1, transform=drawn.transFigure, color=plots.PAPER, zorder=-1)
    drawn.add_artist(paper)  # for readers whose page is dark
    grid = drawn.subplots(
        len(measured), len(precisions), squeeze=False, sharey="row", height_ratios=counts
    )
    for line, (name, of_network) in zip(grid, measured.items(), strict=True):
        kinds = [kind for kind, _ in by_kind(next(iter(of_network.values())))][::-1]
        for axes, (precision, rows) in zip(line, of_network.items(), strict=True):
            sums = dict(by_kind(rows))
            times, bounds = (np.array([sums[kind][k] for kind in kinds]) * 1e3 for k in (0, 1))
            axes.barh(kinds, times, color=plots.color_of(0), alpha=0.35, label="time")
            axes.barh(kinds, bounds, color=plots.color_of(0), label="bound")
            share = bounds.sum() / times.sum()
            axes.set(title=f"{name}, {precision}: {share:.0%} bound", xlabel="ms a step")
    grid[0][-1].legend(loc="lower right", fontsize=8)
    return drawn


def main():
    arguments = parser(__doc__, repetitions=15, threads=2)
    arguments.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    arguments.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME"
    )
    arguments.add_argument("--figure", type=Path, metavar="FILE", help="SVG to write")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    machine = {
        "triads": triads(options.threads),
        "products": {name: products(getattr(torch, name)) for name in options.precisions},
    }
    for name, speed in machine["products"].items():
        print(f"matrix product, {name}: {speed / 1e9:,.0f} GFLOP/s")
    for size, speed in machine["triads"].items():
        print(f"triad of {size / 1024:,.0f} KiB: {speed / 1e9:,.0f} GB/s")
    dataset = cifar10_part(40 * BATCH)
    measured = {}
    for name in options.networks:
        measured[name] = {}
        for precision in options.precisions:
            arguments = (name, precision, dataset, options.threads, options.repetitions, machine)
            rows = measured[name][precision] = measure(*arguments)
            whole, bound = (sum(row[key] for row in rows) for key in ("seconds", "bound"))
            caption = f"{name}, {precision}: {1e3 * whole:.1f} ms a step, {bound / whole:.0%} of it"
            show(f"{caption} bound; forward, then backward", *table(rows))
            show(
                f"{name}, {precision}, by kind",
                ("", "ms", "share", "bound", "above it"),
                [
                    (
                        kind,
                        f"{1e3 * took:.2f}",
                        f"{took / whole:.0%}",
                        f"{1e3 * least:.2f}",
                        f"{1e3 * (took - least):.2f}",
                    )
                    for kind, (took, least) in by_kind(rows)
                ],
            )
    report(options.out, threads=options.threads, speeds=machine, networks=measured)
    if options.figure:
        write_atomically(options.figure, plots.svg(figure(measured)))


if __name__ == "__main__":
    main()
