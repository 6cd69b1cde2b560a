"""The compiled passes by each compiler and of the wheel, and PyTorch's layers, in training steps.

    python benchmarks/compilers.py [--threads 1] [--repetitions 21] [--out OUT.json]

The steps are those of `normlab train` for `seed-bn`, with the recipe `seed` and its dropout but
without augmentation, and for `nano`, on CIFAR-10 from $NORMLAB_DATA. The contenders are what this
machine has: GCC and Clang with -march=native, the wheel's libraries for this kind of processor
(built here by GCC), and PyTorch's layers. They alternate in blocks of a few steps, in one process.
The first block of each is discarded. A ratio is the median of the repetitions' ratios.
"""

import ctypes
import dataclasses
import shutil
import tempfile
from functools import partial
from pathlib import Path

from common import (
    Training,
    alternate,
    cifar10_part,
    computes_in_bfloat16,
    median_ratio,
    parser,
    report,
    seconds_a_step,
    show_ratios,
)

from normlab import recipes
from normlab.layers import kernels
from normlab.layers.kernels import build, compilers, prebuilt

NETWORKS = ("seed-bn", "nano")
IMAGES = 2_560  # from the training split


def libraries(folder):
    """What this machine can build and run, by name; None: PyTorch's layers."""
    paths = {}
    for name in filter(shutil.which, ("gcc", "clang")):
        compiler = compilers.Compiler(name, compilers.output(name, "-v"))
        (folder / name).mkdir()
        paths[name] = compiler.build(str(folder / name))
    prebuilt.FOLDER = folder
    for origin, target in prebuilt.TARGETS.items():
        if shutil.which(target.compiler):
            prebuilt.build(origin, folder)
    paths |= dict(prebuilt.find())
    loaded = {name: ctypes.CDLL(str(path)) for name, path in paths.items()}
    for library in loaded.values():
        build.give_threads(library)
    return loaded | {"torch": None}


def seconds(training, library, steps):
    """Seconds per step with this library."""
    kernels.library = lambda: library
    return seconds_a_step(training, steps)


def main():
    arguments = parser(__doc__, repetitions=21, threads=1, steps=5)
    options = arguments.parse_args()
    dataset = cifar10_part(IMAGES)
    precisions = ("float32", *(["bfloat16"] if computes_in_bfloat16() else []))
    races = []
    with tempfile.TemporaryDirectory() as folder:
        built = libraries(Path(folder))
        for network in NETWORKS:
            recipe = recipes.find(network.removesuffix("-bn"))
            recipe = dataclasses.replace(recipe, augment=())
            for precision in precisions:
                contenders = {}
                for name, library in built.items():
                    training = Training(network, dataset, recipe, options.threads, precision)
                    contenders[name] = partial(seconds, training, library, options.steps)
                times = alternate(contenders, options.repetitions)
                first, *_ = times
                ratios = {name: median_ratio(each, times[first]) for name, each in times.items()}
                races.append(
                    {"network": network, "precision": precision, "seconds": times, "ratios": ratios}
                )
    caption = f"A training step's time over {next(iter(built))}'s, threads {options.threads}"
    show_ratios(caption, tuple(built), races)
    report(options.out, steps=options.steps, threads=options.threads, races=races)


if __name__ == "__main__":
    main()
