"""Looks for bytes that break a target, guided by the code they reach; findings become tests.

    python tests/fuzz/run.py [TARGET…] [--seconds 600]

What is found is written to the current folder, as `crash-…`, and ends the search.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_up and the targets
with atheris.instrument_imports(include=["normlab"]):
    from fuzz.targets import TARGETS


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for each")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}")
    if len(names) == 1:
        search(TARGETS[names[0]], options.seconds)
    for name in names:
        print(f"--- {name}", flush=True)
        again = [sys.executable, __file__, name, "--seconds", str(options.seconds)]
        if code := subprocess.run(again).returncode:
            sys.exit(code)


def search(target, seconds):
    """Does not return: libFuzzer ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(target.seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096"]
        atheris.Setup([sys.argv[0], corpus, *limits], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
