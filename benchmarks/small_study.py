"""The time of a small study from its command to its page, on local workers and on Ray.

    python benchmarks/small_study.py [--repetitions 1] [--out OUT.json]

`normlab compare` on the embedded digits: three normalizations with three seeds, with the recipe
`demo`, on two cores of this machine. Local workers and `--ray` alternate, without a warm-up. Both
must give the same `study.json`, except for its costs. Ray comes with normlab[ray].
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from common import hold_to, parser, positive, report

SETTINGS = "--norms bn gn ln --seeds 3 --dataset digits --recipe demo"
CORES = 2
LIMIT = 180  # seconds, at most


def study(network, flags):
    """The seconds of a study, and its study.json without the costs."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "study"
        start = perf_counter()
        command = [sys.executable, "-m", "normlab", "compare", network, *SETTINGS.split()]
        subprocess.run([*command, "--out", str(out), *flags], check=True)
        seconds = perf_counter() - start
        content = json.loads((out / "study.json").read_text())
    del content["costs"]
    return seconds, content


def main():
    options = parser(__doc__, repetitions=1)
    options.add_argument("--network", default="C:8 P C:16 P C:16 GAP FC")
    options.add_argument("--epochs", type=positive, help="default: the recipe's")
    options = options.parse_args()
    hold_to(CORES)
    shorter = ["--epochs", str(options.epochs)] if options.epochs else []
    ways = {"local": ["--workers", str(CORES), *shorter], "ray": [*shorter, "--ray"]}
    seconds, contents = {way: [] for way in ways}, []
    for _ in range(options.repetitions):
        for way, flags in ways.items():
            taken, content = study(options.network, flags)
            seconds[way].append(taken)
            contents.append(content)
    same = all(content == contents[0] for content in contents)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    for way, median in medians.items():
        print(f"{way}: {median:.0f} s, limit {LIMIT} s")
    print(f"the numbers {'are the same' if same else 'DIFFER'}")
    report(
        options.out,
        packages=("ray",),
        network=options.network,
        epochs=contents[0]["arms"][0]["recipe"]["epochs"],
        cores_used=CORES,
        seconds=seconds,
        median_seconds=medians,
        limit_seconds=LIMIT,
        same_numbers=same,
    )
    if not same or max(medians.values()) > LIMIT:
        sys.exit(1)


if __name__ == "__main__":
    main()
