"""Tunes a network's recipe for each normalization, with the same trials, on held-out images.

    python benchmarks/tune.py NETWORK --out OUT.json [--norms bn gn ln] [--epochs 6] [--lines 6]

Every normalization gets the same trials: the settings of SEARCH, line by line, each line starting
from the best settings of the lines before. The choice is made on 5,000 images held out of the
training split; the test split is not read. The schedule is the recipe's, shortened. A trial is one
run with seed 0, on one thread, in a separate process. Trials that OUT.json has already are not
repeated, so the same command resumes an interrupted search. CIFAR-10 comes from $NORMLAB_DATA.
"""

import argparse
import dataclasses
import json
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from common import positive

from normlab import RunConfig, recipes
from normlab.config import Execution
from normlab.errors import DivergedError
from normlab.storage.files import write_atomically
from normlab.training.loop import train

SEARCH = (
    [{"learning_rate": rate} for rate in (0.1, 0.2, 0.4, 0.8)],
    [{"muon": share} for share in (0.025, 0.05, 0.1, 0.2)],
    [{"batch_size": size} for size in (32, 64, 128)],
    [{"label_smoothing": share} for share in (0.0, 0.1)],
    [{"augment": steps} for steps in ((), ("shift",))],
    [{"weight_decay": decay} for decay in (0.0, 5e-4)],
)


def trial(network, norm, recipe, precision):
    """Held-out accuracy after the last epoch; 0 if training diverged."""
    recipes.RECIPES["trial"] = recipe
    config = RunConfig(
        network=network, norm=norm, recipe="trial", holdout=5000, precision=precision
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = train(config, f"{folder}/run", Execution(threads=1, device="cpu"), quiet=True)
        except DivergedError:
            return 0.0
    return run.last.accuracy


class Search:
    """The trials of a network, saved in a file."""

    def __init__(self, network, precision, out, pool):
        self.network, self.precision, self.out, self.pool = network, precision, out, pool
        self.lock = threading.Lock()
        self.trials = json.loads(out.read_text())["trials"] if out.exists() else []

    def tune(self, norm, recipe, lines):
        """The recipe with the best settings of the first lines of SEARCH."""
        for line in SEARCH[:lines]:
            candidates = [recipe, *(dataclasses.replace(recipe, **setting) for setting in line)]
            candidates = list(dict.fromkeys(candidates))
            with ThreadPoolExecutor(len(line)) as threads:
                accuracies = list(threads.map(partial(self.measure, norm), candidates))
            recipe = candidates[accuracies.index(max(accuracies))]
        return recipe

    def measure(self, norm, recipe):
        """The accuracy of a trial; it is run only if the file does not have it."""
        key = {
            "network": self.network,
            "norm": norm,
            "precision": self.precision,
            **dataclasses.asdict(recipe),
        }
        key = json.loads(json.dumps(key))  # tuples are lists in the file
        for done in self.trials:
            if done["settings"] == key:
                return done["accuracy"]
        accuracy = self.pool.submit(trial, self.network, norm, recipe, self.precision).result()
        with self.lock:
            self.trials.append({"settings": key, "accuracy": accuracy})
            content = {"network": self.network, "trials": self.trials}
            write_atomically(self.out, json.dumps(content, indent=1) + "\n")
        print(f"{norm} {accuracy:.2%} {recipe}", flush=True)
        return accuracy


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network")
    parser.add_argument("--norms", nargs="+", default=["bn", "gn", "ln"])
    parser.add_argument("--epochs", type=positive, default=6)
    parser.add_argument(
        "--lines", type=positive, default=len(SEARCH), help="use only the first N lines of SEARCH"
    )
    parser.add_argument("--workers", type=positive, default=2)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", type=Path, required=True, help="JSON file; resumed if it exists")
    arguments = parser.parse_args()
    recipe = dataclasses.replace(recipes.find(arguments.network), epochs=arguments.epochs)
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        search = Search(arguments.network, arguments.precision, arguments.out, pool)
        with ThreadPoolExecutor(len(arguments.norms)) as threads:
            tune = partial(search.tune, recipe=recipe, lines=arguments.lines)
            best = threads.map(tune, arguments.norms)
            for norm, tuned in zip(arguments.norms, best, strict=True):
                print(f"{norm}: {tuned}")


if __name__ == "__main__":
    main()
