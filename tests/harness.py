"""Small runs in processes of their own, which may be killed, and checks of what is left."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import sys
import tempfile
import time
from itertools import count
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file

from normlab import cli
from normlab.config import Execution, RunConfig
from normlab.errors import InterruptedRunError, NormlabError, RunError
from normlab.report.run_page import write_report
from normlab.runs.run import Run
from normlab.training.callbacks import Callback
from normlab.training.loop import resume, train

CONFIG = RunConfig(network="C:4 P C:6 P GAP FC", dataset="digits", recipe="demo", epochs=4, seed=3)
TINY = dataclasses.replace(CONFIG, train_images=64, epochs=1)
EXECUTION = Execution(device="cpu", threads=1)

TRAIN = (
    *("train", TINY.network, "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
    *("--seed", "3", "--train-images", "64", "--device", "cpu", "--threads", "1", "--out"),
)  # TINY on the command line

# Imports take a moment: the server that the processes are forked from does them once.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("normlab.report.run_page", "normlab.training.loop"),
        *("captum.attr", "sklearn.datasets", "torch._dynamo"),  # imported late by the modules above
    ]
)


class AtStep(Callback):
    """Calls a function with the state after each step."""

    def __init__(self, function):
        self.on_step_end = function


class InterruptAt(Callback):
    """Sends the signal of Ctrl-C after the given steps (epoch from 0, step from 1)."""

    def __init__(self, *places):
        self.places = places

    def on_step_end(self, state):
        if (state.epoch, state.step) in self.places:
            os.kill(os.getpid(), signal.SIGINT)


class StopAt(Callback):
    """Stops the run after a step of an epoch (from 0; steps from 1), to be resumed."""

    def __init__(self, epoch, step):
        self.place = epoch, step

    def on_step_end(self, state):
        if (state.epoch, state.step) == self.place:
            raise InterruptedRunError("stopped")


class ExitAt(Callback):
    """Ends the run after a step of an epoch (from 0; steps from 1). Nothing is saved then."""

    def __init__(self, epoch, step):
        self.place = epoch, step

    def on_step_end(self, state):
        if (state.epoch, state.step) == self.place:
            raise SystemExit


def work(out, config=CONFIG, *, report=True, callbacks=()):
    """Trains or resumes a run, as its folder allows, and writes its page."""
    if not (out / "config.json").exists():
        run = train(config, out, EXECUTION, callbacks=callbacks, quiet=True)
    else:
        try:
            run = resume(out, EXECUTION, callbacks=callbacks, quiet=True)
        except RunError as error:
            if "is finished" not in str(error):
                raise
            run = Run.open(out)
    if report:
        write_report([run])
    return run


def start(out, config=CONFIG, **options):
    """`work` in a process of its own."""
    process = FORKS.Process(target=_alone, args=(out, config), kwargs=options)
    process.start()
    return process


def _alone(out, config, *, report=True, kill=None, halt=None):
    torch.set_num_threads(1)
    if kill is not None:
        _kill_before(*kill)
    work(out, config, report=report, callbacks=[] if halt is None else [_HaltAt(*halt)])


def start_watched(out, config, *, log):
    """A run in a process of its own, which logs what it uses after each epoch (as `held`)."""
    process = FORKS.Process(target=_watched, args=(out, config, log))
    process.start()
    return process


def _watched(out, config, log):
    epochs = []
    watch = Callback()
    watch.on_epoch_end = lambda state: epochs.append(held())
    train(config, out, EXECUTION, callbacks=[watch], quiet=True)
    log.write_text(json.dumps(epochs))


def held(process="self"):
    """What a process uses: MB of memory, threads, open files."""
    folder = Path("/proc") / str(process)
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return {
        "memory": int(status["VmRSS"].removesuffix("kB")) / 1024,
        "threads": int(status["Threads"]),
        "open": len([*(folder / "fd").iterdir()]),
    }


def run_code(code, *arguments, environment):
    """Runs Python code in a process of its own, which has imported the libraries already.

    Args:
        code: What `python -c` would be given.
        arguments: Its command line.
        environment: All its variables.

    Returns:
        Its exit code, output and errors.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("output", "errors")]
        process = FORKS.Process(target=_run_code, args=(code, arguments, dict(environment), files))
        process.start()
        process.join(600)
        return process.exitcode, *(file.read_text() for file in files)


def _run_code(code, arguments, environment, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it depends on the variables
    sys.argv[1:] = arguments
    exec(code, {})


def kill_everywhere(folder, config, calls, *, report=True):
    """Runs that are killed before each of their calls, the first, the second, … until one ends.

    Args:
        folder: Where the runs' folders are made.
        config: Of the runs.
        calls: Of the module `os`: of `fsync`, `replace`, `unlink`.
        report: Whether they make their page too.

    Yields:
        The folder of each, and the call: `replace config.json`.
    """
    log = folder / "killed-before"
    for number in count(1):
        out = folder / str(number)
        process = start(out, config, report=report, kill=(number, calls, log))
        process.join()
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL
        yield out, log.read_text()


def _kill_before(number, calls, log):
    """Makes this process kill itself before a call, given by its number, and log that call."""
    numbers = count(1)

    def watched(name):
        call = getattr(os, name)

        def instead(*arguments, **options):
            target = arguments[-1]
            path = Path(f"/proc/self/fd/{target}").readlink() if name == "fsync" else Path(target)
            # Removing a missing file changes nothing.
            if (name != "unlink" or path.exists()) and next(numbers) == number:
                file = re.sub(r"^\.(.+)-.{8}(\.\w+)$", r"\1\2", path.name)  # its final name
                log.write_text(f"{name} {'folder' if path.is_dir() else file}")
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return instead

    for name in calls:
        setattr(os, name, watched(name))


class _HaltAt(Callback):
    """Stops this process after a step, until it gets SIGCONT."""

    def __init__(self, epoch, step):
        self.place = epoch, step

    def on_step_end(self, state):
        if (state.epoch, state.step) == self.place:
            os.kill(os.getpid(), signal.SIGSTOP)


def wait_until_it_stands_still(process):
    stat = Path(f"/proc/{process.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)


def start_command(log, *arguments):
    """Starts a command in a process of its own; returns once it handles SIGINT.

    The log gets its standard error.
    """
    process = FORKS.Process(target=_command, args=(log, arguments))
    process.start()
    while not log.exists():
        time.sleep(0.01)
    return process


def _command(log, arguments):
    dispatch = cli._dispatch

    def interruptible(arguments):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        dispatch(arguments)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    cli._dispatch = interruptible
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT), 2)
    cli.main(arguments)


def assert_interrupted(code, message):
    """Checks that Ctrl-C stopped a command with one line. False if it had finished before."""
    if code == 0:
        assert all(line.startswith("note: ") for line in message.splitlines())
        return False
    assert code == 130, (code, message)
    assert re.fullmatch(r"normlab: (interrupted|stopped\b[^\n]*)\n", message), message
    return True


def processes_of(mark):
    """The processes with a variable in their environment, and the processes that they started."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if mark.encode() in path.read_bytes().split(b"\0"):
                processes.append(int(path.parent.name))
    return processes


def problem(out, config=CONFIG, **options):
    """Does the work. Returns the error in one line if that fails, else None."""
    try:
        work(out, config, **options)
    except NormlabError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


def measured(out):
    """The epochs of a run, without their times."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in ("seconds", "checksum")} for line in lines]


def assert_equal_runs(out, whole):
    """Checks that two finished runs are equal bit for bit and that no checkpoint is left."""
    assert measured(out) == measured(whole)
    weights, expected = (load_file(path / "model.safetensors") for path in (out, whole))
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert not list(out.glob("*.pt"))
