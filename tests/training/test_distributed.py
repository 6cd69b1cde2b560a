"""A run on two real processes, compared with the same run on one."""

import dataclasses
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from normlab import Run, resume
from normlab.errors import UsageError
from normlab.layers import norms
from normlab.runs.checkpoint import Checkpoint
from normlab.training.distributed import ProcessGroup

LINE = "C:6 P C:8 P D:8 P C:8+ GAP FC"
OPTIONS = ["--dataset", "digits", "--recipe", "demo", "--threads", "1", "--epochs", "1"]
OPTIONS += ["--batch-size", "61"]


# On a free port: other tests may use two processes at the same time.
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launch(out, *options):
    """Starts `normlab train` on two processes."""
    command = [sys.executable, *TORCHRUN, "2", "-m", "normlab", "train", LINE, *OPTIONS]
    return subprocess.Popen(
        [*command, *options, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


INDEPENDENT = [
    entry.name
    for entry in norms.REGISTRY.values()
    if not entry.axes.startswith(("N,", "n of N")) or entry.name == "sync-bn"
]


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A few steps of every such normalization, in one process and in two, in float64."""
    folder = tmp_path_factory.mktemp("steps")
    script = folder / "steps.py"
    script.write_text(SCRIPT)
    for processes, launcher in ((1, ()), (2, (*TORCHRUN, "2"))):
        done = subprocess.run(
            [
                sys.executable,
                *launcher,
                str(script),
                str(folder / f"{processes}.pt"),
                *INDEPENDENT,
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{n}.pt", weights_only=True) for n in (1, 2)]


SCRIPT = """
import dataclasses, sys
from pathlib import Path
import torch
from normlab import recipes
from normlab.data import load
from normlab.network.model import Network
from normlab.training.distributed import distributed
from normlab.training.batches import Batches
from normlab.training.step import TrainStep

out, *names = sys.argv[1:]
torch.set_num_threads(1)
results = {}
with distributed("cpu") as processes:
    recipe = dataclasses.replace(
        recipes.find("demo"), batch_size=37, muon=0.1, label_smoothing=0.1, weight_decay=1e-3
    )
    batches = Batches(load("digits"), recipe, 0, torch.device("cpu"))
    for name in names:
        network = Network("C:6 P C:8 P D:8 P C:8+ GAP FC", norm=name).double()
        network = network.to(memory_format=torch.channels_last)
        descent = TrainStep(network, recipe, "float32")
        measured = []
        for step in range(6):
            inputs, labels = batches(0, step)
            weights = batches.weights(labels)  # of unequal classes
            measured.append(descent.step(0.01, inputs.double(), labels, None, weights))
        results[name] = {
            "measured": measured,
            "state": {k: v.clone() for k, v in network.state_dict().items()},
        }
    if processes.is_main:
        torch.save(results, out)
# A thread that outlives the process group could abort the process when Python shuts down.
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""


@pytest.mark.parametrize("name", INDEPENDENT)
def test_two_processes_compute_what_one_does(name, steps):
    """In float64, except for the loss: a wrong gradient cannot be taken for rounding."""
    one, two = (result[name] for result in steps)
    for (loss, right), (other_loss, other_right) in zip(
        one["measured"], two["measured"], strict=True
    ):
        assert loss == pytest.approx(other_loss, rel=1e-6)  # summed in float32
        assert right == other_right
    for key, value in one["state"].items():
        torch.testing.assert_close(two["state"][key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow(15)
def test_a_run_on_two_processes_agrees_with_a_run_on_one(tmp_path, cli):
    process = launch(tmp_path / "two", "--norm", "sync-bn")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.count("epoch 1/1") == 1
    assert output.count("report: ") == 1
    code, _, errors = cli("train", LINE, *OPTIONS, "--norm", "sync-bn", "--out", tmp_path / "one")
    assert code == 0, errors
    one, two = Run.open(tmp_path / "one"), Run.open(tmp_path / "two")
    assert [run.machines[-1].processes for run in (one, two)] == [1, 2]
    assert "processes" not in (one.path / "config.json").read_text()
    assert len(two.epochs) == 1
    assert two.last.train_loss == pytest.approx(one.last.train_loss, rel=1e-3)
    weights = [load_file(run.path / "model.safetensors") for run in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-2, atol=2e-2)


@pytest.mark.slow(5)
def test_a_run_stopped_on_two_processes_resumes_on_one(tmp_path, monkeypatch):
    out = tmp_path / "run"
    small = ["--train-images", "100", "--batch-size", "12"]
    process = launch(out, *small, "--epochs", "100000")  # hours
    end = time.monotonic() + 600
    while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=600)
    assert output.count("warning: batches of 6 for each process: bn will take") == 1
    stopped = Run.open(out)
    assert not stopped.finished
    recipe = dataclasses.replace(stopped.recipe, epochs=len(stopped.epochs) + 1)
    shorter = dataclasses.replace(stopped, recipe=recipe)
    shorter.write_config()
    checkpoint = Checkpoint.load(out / "checkpoint.pt")
    dataclasses.replace(checkpoint, run=shorter.digest).save(out / "checkpoint.pt")
    with monkeypatch.context() as patch:  # the last batch has four images
        patch.setattr("normlab.training.setup.process_group", lambda: ProcessGroup(0, 5))
        with pytest.raises(UsageError, match="last batch has 4 images, too few for 5 processes"):
            resume(out, quiet=True)
    assert resume(out, quiet=True).finished


CALLBACKS = """
import sys
from pathlib import Path
import normlab
from normlab.training.distributed import distributed

out = Path(sys.argv[1])
execution = normlab.Execution(device="cpu", threads=1)
config = normlab.RunConfig(
    network="C:6 P C:8 GAP FC", dataset="digits", recipe="demo", epochs=3, train_images=64
)

class Stop(normlab.Callback):
    def on_epoch_end(self, state):
        with (out / "calls").open("a") as file:
            file.write(f"{state.epoch}\\n")
        if state.epoch == 2:
            state.stop()

out.mkdir(exist_ok=True)
with distributed("cpu"):
    normlab.train(config, out / "run", execution, callbacks=[Stop()], quiet=True)
"""


@pytest.mark.slow(10)
def test_the_main_process_calls_callbacks_and_all_processes_stop(tmp_path):
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(CALLBACKS)
    command = [sys.executable, *TORCHRUN, "2", str(script), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "calls").read_text() == "1\n2\n"
    run = Run.open(out / "run")
    assert run.finished
    assert run.stopped_after == run.last.epoch == 2


@pytest.mark.slow(5)
def test_each_process_refuses_a_batch_that_is_too_small(tmp_path):
    process = launch(tmp_path / "run", "--batch-size", "1436")
    _, errors = process.communicate(timeout=600)
    assert process.returncode != 0
    message = "an epoch's last batch has 1 images, too few for 2 processes"
    for rank in range(2):
        assert errors.count(f"normlab: rank {rank}: {message}") == 1
