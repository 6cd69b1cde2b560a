"""How much faster a study's runs are done by two one-thread processes than by one.

    python benchmarks/workers.py [--network nano] [--epochs 2] [--images 25000] [--repetitions 3]
        [--out OUT.json]

A study of six runs on so many CIFAR-10 images from $NORMLAB_DATA, with one worker and with two, in
turns; a first turn of each is not counted. What one process does for all is in the time: loading
and writing the data, estimating, recording.
"""

import tempfile
from pathlib import Path
from time import perf_counter

from common import alternate, median_ratio, medians, parser, positive, report

import normlab


def study(network, epochs, images, workers):
    """Seconds of a study."""
    config = normlab.StudyConfig(
        network=network,
        norms=("bn", "gn", "ln"),
        seeds=2,
        epochs=epochs,
        train_images=(images,),
        batch_sizes=(128,),
    )
    with tempfile.TemporaryDirectory() as folder:
        start = perf_counter()
        made = normlab.compare(config, Path(folder) / "study", workers=workers, quiet=True)
        assert all(result.state == "done" for result in made.results)
        return perf_counter() - start


def main():
    options = parser(__doc__, repetitions=3)
    options.add_argument("--network", default="nano")
    options.add_argument("--epochs", type=positive, default=2)
    options.add_argument("--images", type=positive, default=25_000)
    options = options.parse_args()
    settings = options.network, options.epochs, options.images
    seconds = alternate(
        {str(workers): lambda workers=workers: study(*settings, workers) for workers in (1, 2)},
        options.repetitions,
    )
    ratio = median_ratio(seconds["1"], seconds["2"])
    for workers, median in medians(seconds).items():
        print(f"{workers} at a time: {median:.1f} s")
    print(f"two over one: {ratio:.2f} times as fast")
    report(
        options.out,
        network=options.network,
        epochs=options.epochs,
        images=options.images,
        seconds=seconds,
        median_ratio=ratio,
    )


if __name__ == "__main__":
    main()
