"""How well training uses the machine: its operations per second over the best matrix product's.

    python benchmarks/against_machine.py [--threads 2] [--repetitions 5] [--out OUT.json]

For each network, this measures the float32 operations per second of whole training steps on
CIFAR-10 images from $NORMLAB_DATA (batch 128, recipe `seed` without augmentation), and divides them
by those of torch's float32 matrix product at its fastest size. The count includes the
multiply-accumulates of convolutions and FC, two operations each, once forward and twice backward
(although the first convolution needs no gradient of its input). It excludes normalization,
activation, pooling, the update and making the batch. Their time is included, so 100% is out of
reach.

It also measures the images per second of `normlab.evaluate` on the 10,000 test images. Products,
training and evaluation alternate; the first turn of each is discarded.
"""

import dataclasses
import statistics
from functools import partial
from time import perf_counter

import torch
from common import Training, alternate, medians, parser, report, show

from normlab import data, recipes
from normlab.inference.evaluate import evaluate
from normlab.network.summary import summarize

NETWORKS = ("seed-bn", "micro", "nano", "C:32s2 D:56 D:56+ P D:88 D:88+ P D:112 D:112+ GAP FC")
RECIPE = dataclasses.replace(recipes.find("seed"), augment=(), batch_size=128)
SIZES = (512, 1024, 2048, 4096)
OPERATIONS = 4e10  # at least, in a turn of products


def product(size):
    """A function for the operations per second of float32 products of size × size matrices."""
    a, b, c = torch.randn(3, size, size).unbind()

    def run():
        operations = 2 * size**3
        times = max(1, round(OPERATIONS / operations))
        start = perf_counter()
        for _ in range(times):
            torch.mm(a, b, out=c)
        return times * operations / (perf_counter() - start)

    return run


def evaluation(network, dataset):
    """A function for the test images per second of normlab's evaluation."""

    def run():
        start = perf_counter()
        evaluate(network, dataset)
        return len(dataset.test) / (perf_counter() - start)

    return run


def main():
    arguments = parser(__doc__, repetitions=5, threads=2, steps=20)
    options = arguments.parse_args()
    dataset = data.load("cifar10")

    contenders = {("product", size): product(size) for size in SIZES}
    for name in NETWORKS:
        training = Training(name, dataset, RECIPE, options.threads)  # also sets torch's threads
        contenders["training", name] = partial(training, options.steps)
        contenders["evaluation", name] = evaluation(training.network, dataset)
    results = alternate(contenders, options.repetitions)

    products = {size: results["product", size] for size in SIZES}
    best_size, best = max(medians(products).items(), key=lambda item: item[1])
    networks = {}
    for name in NETWORKS:
        summary = summarize(name)
        training, evaluated = results["training", name], results["evaluation", name]
        rate = statistics.median(training)
        networks[name] = {
            "layout": summary.layout,
            "parameters": summary.parameters,
            "macs": summary.macs,
            "training_images_per_second": training,
            "median_training_images_per_second": rate,
            "training_operations_per_second": 6 * summary.macs * rate,
            "share_of_best_product": 6 * summary.macs * rate / best,
            "evaluation_images_per_second": evaluated,
            "median_evaluation_images_per_second": statistics.median(evaluated),
        }
    show(
        f"Float32, batch {RECIPE.batch_size}, threads {options.threads}; "
        f"best matrix product {best / 1e9:.0f} GFLOP/s, at {best_size} × {best_size}",
        ("", "parameters", "M MACs", "training images/s", "GFLOP/s", "share", "test images/s"),
        [
            (
                name,
                f"{network['parameters']:,}",
                f"{network['macs'] / 1e6:.1f}",
                f"{network['median_training_images_per_second']:,.0f}",
                f"{network['training_operations_per_second'] / 1e9:.0f}",
                f"{network['share_of_best_product']:.0%}",
                f"{network['median_evaluation_images_per_second']:,.0f}",
            )
            for name, network in networks.items()
        ],
    )
    report(
        options.out,
        threads=options.threads,
        batch_size=RECIPE.batch_size,
        steps_a_turn=options.steps,
        product_operations_per_second=products,
        best_product={"size": best_size, "operations_per_second": best},
        networks=networks,
    )


if __name__ == "__main__":
    main()
