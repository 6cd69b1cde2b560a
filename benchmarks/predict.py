"""Time and memory of `normlab predict` for CIFAR-10's 10,000 test images as PNG files.

    python benchmarks/predict.py [--repetitions 3] [--out FILE]

The time includes the start of the program. The first turn is discarded, so the files are in the
disk cache. Memory is the peak of the process. For comparison, 1,000 of the pictures, four batches,
are measured too. CIFAR-10 comes from $NORMLAB_DATA. Times need an idle machine.
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


def measure(model, folder, answers):
    """Seconds and peak memory in MB of a prediction for a folder of pictures."""
    command = [sys.executable, "-m", "normlab", "predict", "--model", model, str(folder), "--csv"]
    with answers.open("w") as output:
        start = perf_counter()
        _, memory = watched(command, output)
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
            f"{model}, {count:,}": partial(measure, model, root / str(count), root / "answers.csv")
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
