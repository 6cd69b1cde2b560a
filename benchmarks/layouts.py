"""Draws layouts to search among: of a named network's kind, with 97 to 100% of its budget.

    python benchmarks/layouts.py {line,line-5k,micro,nano} [--count 12] [--seed 0]

Prints the command that trains them and the named network itself, each with bn, gn and ln alike, on
held-out images. Its page ranks them. Draws depend on the seed alone. A layout that does not
come near the budget is drawn again.

`line` and `line-5k` keep the assignment's line, and draw its widths and which of its blocks are
residual. `micro` and `nano` draw the number of blocks `D` in each of three stages, their widths,
the stem's stride, and whether a block has an activation between its halves.
"""

import argparse
import random
import shlex

from common import positive

from normlab.network import zoo
from normlab.network.summary import summarize
from normlab.network.widths import ENOUGH

BUDGETS = {"line": 50_000, "line-5k": 5_000, "micro": 50_000, "nano": 5_000}
SCALES = [k / 16 for k in range(8, 400)]  # of the drawn widths
EVEN = 2  # widths are multiples, so that gn has groups


def even(width):
    return max(EVEN, round(width / EVEN) * EVEN)


def draw_ratios(draws, most):
    """The widths of three stages, as multiples of the first; each up to `most` of that before."""
    second, third = draws.uniform(1.0, most), draws.uniform(1.0, most)
    return [1.0, second, second * third]


def draw_line(draws):
    """A function from a scale to a layout of the assignment's line."""
    ratios = draw_ratios(draws, 1.8)
    first, squeeze = draws.uniform(0.5, 1.0), draws.uniform(0.5, 0.9)
    residual = [draws.random() < 0.7 for _ in range(4)]

    def at(scale):
        a, b, c = (even(4 * ratio * scale) for ratio in ratios)
        plus = ["+" if each else "" for each in residual]
        return (
            f"C:{even(first * a)} C:{a} c:{even(squeeze * a)} P "
            f"C:{b} C:{b}{plus[0]} C:{b}{plus[1]} c:{even(squeeze * b)} P "
            f"C:{c} C:{c}{plus[2]} C:{c}{plus[3]} GAP c"
        )

    return at


def draw_separable(draws):
    """The same for a stem and three stages of `D`."""
    stages = [draws.randint(1, 4) for _ in range(3)]
    ratios = draw_ratios(draws, 2.0)
    stem = draws.choice(["", "", "s2"])
    first = draws.uniform(0.4, 1.0)
    between = draws.choice(["", "", "a"])

    def at(scale):
        blocks = [f"C:{even(4 * first * scale)}{stem}"]
        for number, (count, ratio) in enumerate(zip(stages, ratios, strict=True)):
            width = even(4 * ratio * scale)
            blocks += ["P"] if number else []
            blocks += [f"D:{width}{between}", *[f"D:{width}{between}+"] * (count - 1)]
        return " ".join([*blocks, "GAP FC"])

    return at


def draw(network, draws):
    """A layout near the budget, of widths from `SCALES`; None if none of them is."""
    at = (draw_line if network.startswith("line") else draw_separable)(draws)
    budget, best = BUDGETS[network], None
    for scale in SCALES:
        layout = at(scale)
        parameters = summarize(layout, norm="bn").parameters
        if parameters >= budget:
            break
        best = layout if parameters >= ENOUGH * budget else None
    return best


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("network", choices=BUDGETS)
    arguments.add_argument("--count", type=positive, default=12, metavar="N")
    arguments.add_argument("--seed", type=int, default=0, metavar="N")
    options = arguments.parse_args()
    draws = random.Random(options.seed)
    named = zoo.find(options.network)
    layouts = {}  # each once
    while len(layouts) < options.count:
        layout = draw(options.network, draws)
        if layout not in (None, named):
            layouts[layout] = None
    command = ["normlab", "compare", named, "--layouts", *layouts]
    command += ["--norms", "bn", "gn", "ln", "--recipe", options.network, "--untuned"]
    command += ["--holdout", "5000", "--seeds", "1", "--epochs", "5", "--precision", "bfloat16"]
    print(shlex.join(command))


if __name__ == "__main__":
    main()
