"""What `normlab predict` takes for CIFAR-10's 10,000 test images as PNG files: time and memory.

    python benchmarks/predict.py [--repetitions 3] [--out FILE]

The program's start is counted; the files have been read before, in the uncounted first turn. Memory
is the most that the process held, with 1,000 of the pictures beside it, which are four batches.
CIFAR-10 comes from $NORMLAB_DATA. Times need an idle machine.
"""

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from time import perf_counter

from common import alternate, parser, report, show, watched
from PIL import Image

from normlab.data import load
from normlab.inference.predict import MODELS

COUNTS = (10_000, 1_000)


def ask(model, folder, answers):
    """Seconds, and the most memory in MB, of a command that answers on a folder of pictures."""
    command = [sys.executable, "-m", "normlab", "predict", "--model", model, str(folder), "--csv"]
    with answers.open("w") as output:
        start = perf_counter()
        memory = watched(command, output)
        return {"seconds": perf_counter() - start, "memory_mb": memory}


def main():
    options = parser(__doc__, repetitions=3).parse_args()
    images = load("cifar10").test.images
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for count in COUNTS:
            (root / str(count)).mkdir()
            for k, image in enumerate(images[:count]):
                Image.fromarray(image.transpose(1, 2, 0)).save(root / str(count) / f"{k:05}.png")
        contenders = {
            f"{model}, {count:,}": partial(ask, model, root / str(count), root / "answers.csv")
            for model in MODELS
            for count in COUNTS
        }
        results = alternate(contenders, options.repetitions)
    medians = {
        name: {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}
        for name, turns in results.items()
    }
    show(
        "normlab predict, medians",
        ("network, pictures", "seconds", "MB"),
        [(n, f"{m['seconds']:.1f}", f"{m['memory_mb']:,.0f}") for n, m in medians.items()],
    )
    report(options.out, ("pillow",), turns=results, medians=medians)


if __name__ == "__main__":
    main()
