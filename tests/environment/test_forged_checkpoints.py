"""Stopped runs that a forger changed, with right checksums: one line, in little memory."""

import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import normlab
from environments import NETWORK
from harness import run_code
from normlab.config import Execution, RunConfig
from normlab.errors import InterruptedRunError, RunError
from normlab.runs.checkpoint import Checkpoint
from normlab.runs.run import Run
from tampering import rewrite

SETTINGS = {
    **{"network": NETWORK, "dataset": "digits", "recipe": "demo"},
    **{"epochs": 2, "train_images": 128, "batch_size": 64, "learning_rate": 0.1},
}
EXECUTION = Execution(threads=1)


class Stop(normlab.Callback):
    """Stops a run in the middle of its second epoch, with a checkpoint of that moment."""

    def on_step_end(self, state):
        if (state.epoch, state.step) == (1, 1):
            state.checkpoint().save(state.run.path / "checkpoint.pt")
            raise InterruptedRunError("stopped")


def stop(out, **settings):
    with pytest.raises(InterruptedRunError):
        normlab.train(
            RunConfig(**SETTINGS | settings), out, EXECUTION, callbacks=[Stop()], quiet=True
        )
    (out / "checkpoint-before.pt").unlink()
    return out


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that momentum SGD trains."""
    return stop(tmp_path_factory.mktemp("sgd") / "run")


@pytest.fixture(scope="module")
def stopped_with_muon(tmp_path_factory):
    """One that Muon trains, too."""
    return stop(tmp_path_factory.mktemp("muon") / "run", muon=1.0)


def resume_forged(run, forge, tmp_path):
    """Resumes a copy of a run, whose checkpoint `forge` has changed."""
    out = Path(shutil.copytree(run, tmp_path / "forged"))
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    forge(checkpoint)
    checkpoint.save(out / "checkpoint.pt")
    (out / "checkpoint-before.pt").unlink()
    return normlab.resume(out, EXECUTION, quiet=True)


def refused(run, forge, tmp_path):
    """The one line that refuses a forged checkpoint."""
    with pytest.raises(RunError, match=r"checkpoint\.pt is ") as error:
        resume_forged(run, forge, tmp_path)
    assert "\n" not in str(error.value)
    return str(error.value)


def weights(run):
    return {name: value.tolist() for name, value in run.network().state_dict().items()}


# What an optimizer keeps of a weight, instead of a tensor of its shape.
KEPT = {
    "a number": 5,
    "a text": "x",
    "a dictionary": {"a": 1},
    "another shape": torch.zeros(3),
    "a shape that takes 400 GB": torch.zeros(1).expand(10**11),
    "another type": torch.zeros(4, 3, 3, 3, dtype=torch.int64),
    "no values": torch.zeros(4, 3, 3, 3, device="meta"),
    "sparse": torch.zeros(4, 3, 3, 3).to_sparse(),
}


@pytest.mark.parametrize("value", KEPT.values(), ids=KEPT)
def test_the_state_of_a_weight_is_checked(value, stopped, tmp_path):
    def forge(checkpoint):
        checkpoint.optimizer[0]["state"][0]["momentum_buffer"] = value

    assert "its optimizer's state 0 is not that of a weight" in refused(stopped, forge, tmp_path)


@pytest.mark.parametrize(
    "states",
    [{99: {}}, {-1: {}}, {1.0: {}}, {"a": {}}, {0: 5}, [1], 5],
    ids=lambda states: str(states),
)
def test_states_of_no_weight_are_refused(states, stopped, tmp_path):
    def forge(checkpoint):
        checkpoint.optimizer[0]["state"] = states

    assert "is another recipe's: " in refused(stopped, forge, tmp_path)


def test_an_optimizer_more_or_less_is_refused(stopped, stopped_with_muon, tmp_path):
    line = refused(stopped, lambda c: c.optimizer.append(c.optimizer[0]), tmp_path / "more")
    assert "is another recipe's: 2 optimizers, expected 1" in line
    line = refused(stopped_with_muon, lambda c: c.optimizer.pop(), tmp_path / "less")
    assert "is another recipe's: 1 optimizers, expected 2" in line


def test_a_state_without_its_values_starts_anew(stopped_with_muon, tmp_path):
    def forge(checkpoint):
        for optimizer in checkpoint.optimizer:
            for state in optimizer["state"].values():
                state.update(dict.fromkeys(state), other=None)

    assert resume_forged(stopped_with_muon, forge, tmp_path).finished


def test_values_that_share_their_memory_are_values(stopped, tmp_path):
    def forge(checkpoint):
        state = checkpoint.optimizer[0]["state"][0]
        state["momentum_buffer"] = torch.zeros(1).expand(state["momentum_buffer"].shape)

    assert resume_forged(stopped, forge, tmp_path).finished


@pytest.mark.parametrize(
    "settings",
    [
        *({"momentum": value} for value in ("x", None, 2.0, float("nan"))),
        *({"weight_decay": value} for value in ("x", -5.0)),
        {"dampening": "x"},
        {"maximize": True},
        {"nesterov": False},
        {"params": [0, 0, 0]},
    ],
    ids=lambda settings: str(settings),
)
def test_the_settings_of_an_optimizer_are_the_recipes(settings, stopped, tmp_path):
    def forge(checkpoint):
        checkpoint.optimizer[0]["param_groups"] = [settings]  # as earlier versions had them

    own = resume_forged(stopped, lambda checkpoint: None, tmp_path / "own")
    forged = resume_forged(stopped, forge, tmp_path / "other")
    assert weights(forged) == weights(own)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("step", value) for value in (0, 3, 10**9)),
        *(("correct", value) for value in (65, 10**9)),
        ("loss_sum", 1e300),
        ("seconds", 1e9),
    ],
)
def test_counts_that_an_epoch_cannot_have_are_refused(field, value, stopped, tmp_path):
    line = refused(stopped, lambda checkpoint: setattr(checkpoint, field, value), tmp_path)
    assert "checkpoint.pt is damaged: " in line


# Counts the memory that the process took, which stops at 8 GB.
LIMITED = """
import resource, sys
import normlab, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
try:
    normlab.resume(sys.argv[1], normlab.Execution(threads=1), quiet=True)
except normlab.NormlabError as error:
    print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 400_000, grown  # kB: the data set and its libraries, and no weights
"""
WIDE = "C:8 P " + "C:4096 " * 40 + "GAP FC"


def resume_in_little_memory(out):
    """What the resuming of a run prints that is refused; AssertionError if it takes memory."""
    code, output, errors = run_code(LIMITED, str(out), environment=os.environ)
    assert code == 0, errors
    assert output.count("\n") == 1
    return output


@pytest.mark.parametrize(
    "tensors", ["the run's own", "of that shape, without memory", "in a sparse file of 32 GiB"]
)
def test_a_checkpoint_is_compared_with_the_layout_before_memory_is_allocated(
    tensors, stopped, tmp_path
):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    rewrite(out / "config.json", layout=WIDE)
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    checkpoint.run = Run.open(out).digest
    if tensors == "of that shape, without memory":
        with torch.device("meta"):
            shapes = normlab.Network(WIDE).state_dict()
        checkpoint.model = {
            name: torch.zeros((), dtype=shape.dtype).expand(shape.shape)
            for name, shape in shapes.items()
        }
    checkpoint.save(out / "checkpoint.pt")
    (out / "checkpoint-before.pt").unlink()
    if tensors == "in a sparse file of 32 GiB":
        os.truncate(out / "checkpoint.pt", 2**35)
    line = resume_in_little_memory(out)
    assert re.search(r"checkpoint\.pt is damaged or .*: the layout's parameters take 23,557,", line)


@pytest.mark.slow(3)
def test_a_checkpoint_larger_than_the_runs_can_be_is_refused_before_it_is_read(stopped, tmp_path):
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    checkpoint.model["extra"] = torch.zeros(2 * 10**8, dtype=torch.uint8)
    checkpoint.save(out / "checkpoint.pt")
    os.truncate(out / "checkpoint-before.pt", 2**31)  # sparse
    number = r"[\d,]+"
    assert re.fullmatch(
        rf".*checkpoint\.pt cannot be read: it has 200,{number} bytes, at most 1,{number} are "
        rf"expected; and .*-before\.pt cannot be read: it has 2,{number} bytes, .*\n",
        resume_in_little_memory(out),
    )


@pytest.mark.slow(3)
@pytest.mark.parametrize(
    "settings",
    [
        {"branches": "expand", "muon": 1.0},
        {"branches": "repvgg"},
        {"precision": "bfloat16"},
        {"network": "C:1 C:256 GAP FC", "branches": "expand"},  # most is in the branches
    ],
    ids=str,
)
def test_every_runs_own_checkpoint_is_small_enough(settings, tmp_path):
    out = stop(tmp_path / "run", **settings)
    assert normlab.resume(out, EXECUTION, quiet=True).finished


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def head(shape, descr="<f2"):
    """The begin of a file that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


OUTPUTS = {
    "nothing": b"",
    "text": saved(np.full((128, 1, 10), "x")),
    "another type": saved(np.zeros((128, 1, 10), np.float32)),
    "objects": saved(np.full((128, 1, 10), None)),
    "other images": saved(np.zeros((127, 1, 10), np.float16)),
    "other classes": saved(np.zeros((128, 1, 9), np.float16)),
    "no views": saved(np.zeros((128, 10), np.float16)),
    "2 TB": head((10**12,)),
    "more than that": head((10**30,)),
    "cut": saved(np.zeros((128, 1, 10), np.float16))[:-1],
    "an archive": b"PK\x03\x04" + bytes(50),
    "an empty archive": b"PK\x05\x06" + bytes(18),
    "an open bracket": b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16,
    "a long header": b"\x93NUMPY\x02\x00" + (60_000).to_bytes(4, "little") + b"[" * 60_000,
    "a deep header": b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"-" * 8999 + b"1",
}


@pytest.fixture(scope="module")
def taught(stopped, tmp_path_factory):
    """A stopped run that learns from a teacher."""
    folder = tmp_path_factory.mktemp("taught")
    teacher = normlab.train(RunConfig(**SETTINGS), folder / "teacher", EXECUTION, quiet=True)
    return stop(folder / "run", teacher=str(teacher.path))


@pytest.mark.parametrize("outputs", OUTPUTS.values(), ids=OUTPUTS)
def test_a_teachers_outputs_are_checked_before_they_are_read(outputs, taught, tmp_path):
    out = Path(shutil.copytree(taught, tmp_path / "run"))
    (out / "teacher.npy").write_bytes(outputs)
    with pytest.raises(RunError, match=r"teacher\.npy is damaged: ") as error:
        normlab.resume(out, EXECUTION, quiet=True)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_one_view_is_too_few_where_the_recipe_mirrors(taught, tmp_path):
    out = Path(shutil.copytree(taught, tmp_path / "run"))
    run = Run.open(out)
    rewrite(out / "config.json", recipe=vars(run.recipe) | {"mirror": True})
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    checkpoint.run = Run.open(out).digest
    checkpoint.save(out / "checkpoint.pt")
    with pytest.raises(RunError, match=r"teacher\.npy is damaged: .*expected float16, \(128, 2, "):
        normlab.resume(out, EXECUTION, quiet=True)
