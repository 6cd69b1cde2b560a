"""Searches for bytes that break a target, guided by code coverage. Findings become tests.

    python tests/fuzz/run.py [TARGET…] [--seconds 600] [--out FILE]

A finding is written to the current folder as `TARGET-crash-…` and ends the search of that target.
FILE keeps the results of other targets, so that each can be searched on another day.
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
    """The result of searching for bytes that break a target.

    Attributes:
        target: Its name.
        machine: Processor, Python, normlab and packages.
        seconds: How long it took.
        executions: Number of inputs that were read.
        edges: Edges of the control flow that were reached, as libFuzzer counts them.
        findings: The error and the file that holds the bytes: none or one.
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
    failed = False
    for name in names:
        result = run_search(name, options.seconds)
        failed |= bool(result.findings)
        if options.out:
            record(result, options.out)
    sys.exit(failed)


def run_search(name, seconds):
    """Searches in a fork, because libFuzzer ends the process, and returns the result."""
    print(f"--- {name}", flush=True)
    start, lines = perf_counter(), []
    ours, theirs = os.pipe()
    process = os.fork()
    if process == 0:
        search(name, seconds, theirs)
    os.close(theirs)
    with os.fdopen(ours, errors="replace") as errors:
        for line in errors:
            sys.stderr.write(line)
            lines.append(line)
    _, status = os.waitpid(process, 0)
    log = "".join(lines)
    findings = re.findall(r"Test unit written to (\S+)", log)
    problem = re.search(r"Uncaught Python exception: ===\n(.*)", log) or re.search(
        r"ERROR: libFuzzer: (.*)", log
    )
    if status and not findings:
        sys.exit(f"{name}: the search itself failed")
    return Search(
        target=name,
        machine=this_machine(),
        seconds=round(perf_counter() - start, 1),
        executions=int(re.findall(r"(?m)^#(\d+)\t", log)[-1]),
        edges=int(re.findall(r"cov: (\d+)", log)[-1]),
        findings=tuple(f"{problem[1] if problem else 'unknown'} ({file})" for file in findings),
    )


def search(name, seconds, errors):
    """Does not return: libFuzzer ends the process. It writes to this file descriptor."""
    os.dup2(errors, 2)
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork: it would wait
    warnings.simplefilter("error")  # a user would see it
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(TARGETS[name].seeds):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096"]
        limits.append("-report_slow_units=30")  # otherwise slow input counts as a finding
        prefix = f"-artifact_prefix={name}-"
        atheris.Setup([sys.argv[0], corpus, *limits, prefix], TARGETS[name])
        atheris.Fuzz()


def this_machine():
    """The processor and the versions that the search ran on."""
    here = machine.describe(machine.prepare(Execution(device="cpu")), from_epoch=1)
    packages = {name: metadata.version(name) for name in ("atheris", "pillow", "torch")}
    return {
        "processor": here.processor,
        "python": here.python,
        "normlab": here.normlab,
        **packages,
    }


def record(result, out):
    """Writes a result to the file; it replaces an earlier one of the same target."""
    known = json.loads(out.read_text())["searches"] if out.exists() else []
    others = [each for each in known if each["target"] != result.target]
    searches = sorted([*others, dataclasses.asdict(result)], key=lambda each: each["target"])
    write_atomically(out, json.dumps({"searches": searches}, indent=2) + "\n")


if __name__ == "__main__":
    main()
