"""What the faults have in common: a small run, in a process that may be killed."""

import json
from multiprocessing import get_context

import torch
from safetensors.torch import load_file

from normlab.config import Execution, RunConfig
from normlab.errors import NormlabError
from normlab.report.write import write_report
from normlab.run import Run
from normlab.training import resume, train

CONFIG = RunConfig(network="C:4 P C:6 P GAP FC", dataset="digits", recipe="demo", epochs=4, seed=3)
EXECUTION = Execution(device="cpu", threads=1)

# A process takes a moment: what it needs is imported once, in the server that it is forked from.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["harness", "captum.attr", "sklearn.datasets"])


def work(out, config=CONFIG):
    """A run and its report, from wherever the folder's files allow."""
    if (out / "model.safetensors").exists():
        run = Run.open(out)
    elif (out / "config.json").exists():
        run = resume(out, EXECUTION, quiet=True)
    else:
        run = train(config, out, EXECUTION, quiet=True)
    write_report([run])
    return run


def start(out, config=CONFIG):
    """`work` in a process of its own."""
    process = FORKS.Process(target=_alone, args=(out, config))
    process.start()
    return process


def _alone(out, config):
    torch.set_num_threads(1)
    work(out, config)


def problem(out):
    """Does the work; what is said where it cannot be done, in a line."""
    try:
        work(out)
    except NormlabError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def measured(out):
    """What a run measured, but for the time it took."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "checksum")} for line in lines]


def assert_equal_runs(out, whole):
    """Two finished runs are equal, bit for bit, and nothing is left over."""
    assert measured(out) == measured(whole)
    weights, expected = (load_file(path / "model.safetensors") for path in (out, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list(out.glob("*.pt"))
