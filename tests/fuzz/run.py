"""Looks for bytes that break a target, guided by the code they reach; findings become tests.

    python tests/fuzz/run.py [TARGET…] [--seconds 600] [--out FILE]

What is found is written to the current folder, as `TARGET-crash-…`, and ends that search. FILE
keeps what it holds of other targets, so that each can be searched on a day of its own.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from time import perf_counter

import atheris
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))  # made_up and the targets
with atheris.instrument_imports(include=["normlab", "PIL", "pickle", "tarfile"]):
    from fuzz.targets import TARGETS
    from normlab.config import Execution
    from normlab.runs import machine
    from normlab.storage.files import write_atomically


@dataclass(frozen=True)
class Search:
    """What came of looking for bytes that break a target.

    Attributes:
        target: Its name.
        machine: Processor, Python, normlab and packages.
        seconds: How long it took.
        executions: How often bytes were read.
        edges: Places of the code, as libFuzzer counts them, that some of them reached.
        findings: What broke it, and the file that holds the bytes: none or one.
    """

    target: str
    machine: dict[str, str]
    seconds: float
    executions: int
    edges: int
    findings: tuple[str, ...]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=600, help="for each")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON file to write")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"no target {', '.join(unknown)}")
    found = False
    for name in names:
        done = searched(name, options.seconds)
        found |= bool(done.findings)
        if options.out:
            record(done, options.out)
    sys.exit(found)


def searched(name, seconds):
    """Searches in a copy of this process, for libFuzzer ends it, and says what came of it."""
    print(f"--- {name}", flush=True)
    start, said = perf_counter(), []
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        search(name, seconds, theirs)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as lines:
        for line in lines:
            sys.stderr.write(line)
            said.append(line)
    _, status = os.waitpid(process, 0)
    said = "".join(said)
    findings = re.findall(r"Test unit written to (\S+)", said)
    problem = re.search(r"Uncaught Python exception: ===\n(.*)", said) or re.search(
        r"ERROR: libFuzzer: (.*)", said
    )
    if status and not findings:
        sys.exit(f"{name}: the search itself failed")
    return Search(
        target=name,
        machine=this_machine(),
        seconds=round(perf_counter() - start, 1),
        executions=int(re.findall(r"(?m)^#(\d+)\t", said)[-1]),
        edges=int(re.findall(r"cov: (\d+)", said)[-1]),
        findings=tuple(f"{problem[1] if problem else 'unknown'} ({file})" for file in findings),
    )


def search(name, seconds, errors):
    """Does not return: libFuzzer ends the process. It writes to this file descriptor."""
    os.dup2(errors, 2)
    torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork: it would wait for them
    warnings.simplefilter("error")  # one would stand on the user's screen
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096"]
        limits.append("-report_slow_units=30")  # or what is slow alone would count as a finding
        prefix = f"-artifact_prefix={name}-"
        atheris.Setup([sys.argv[0], corpus, *limits, prefix], TARGETS[name])
        atheris.Fuzz()


def this_machine():
    """What the search ran on."""
    here = machine.describe(machine.prepare(Execution(device="cpu")), from_epoch=1)
    packages = {name: metadata.version(name) for name in ("atheris", "pillow", "torch")}
    return {
        "processor": here.processor,
        "python": here.python,
        "normlab": here.normlab,
        **packages,
    }


def record(done, out):
    """Puts a search into the file, in the place of an earlier one of its target."""
    known = json.loads(out.read_text())["searches"] if out.exists() else []
    others = [each for each in known if each["target"] != done.target]
    searches = sorted([*others, dataclasses.asdict(done)], key=lambda each: each["target"])
    write_atomically(out, json.dumps({"searches": searches}, indent=2) + "\n")


if __name__ == "__main__":
    main()
