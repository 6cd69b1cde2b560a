"""The speedup of a study with two one-thread workers over one.

    python benchmarks/workers.py [--network nano] [--epochs 2] [--images 25000] [--repetitions 3]
        [--out OUT.json]

A study of six runs on CIFAR-10 images from $NORMLAB_DATA, alternating between one worker and two;
the first turn of each is discarded. The time includes the work that is done once per study: loading
and writing the data, estimating, recording.
"""

import tempfile
from pathlib import Path
from time import perf_counter

from common import alternate, median_ratio, medians, parser, positive, report

import normlab


def study(network, epochs, images, workers):
    """The seconds of a study."""
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
        done = normlab.compare(config, Path(folder) / "study", workers=workers, quiet=True)
        assert all(result.state == "done" for result in done.results)
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
        print(f"{workers} worker{'s' * (workers != '1')}: {median:.1f} s")
    print(f"two workers are {ratio:.2f} times as fast as one")
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
