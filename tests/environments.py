"""Commands in environments that a test makes: other variables, streams and C libraries."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest

from normlab import RunConfig

NETWORK = "C:4 P C:4 GAP FC"
TRAIN = (
    *("train", NETWORK, "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
    *("--train-images", "128", "--batch-size", "64", "--threads", "1", "--device", "cpu"),
)
TRAINED = RunConfig(  # by TRAIN
    network=NETWORK, dataset="digits", recipe="demo", epochs=1, train_images=128, batch_size=64
)
COMPARE = (
    *("compare", NETWORK, "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
    *("--train-images", "128", "--seeds", "1", "--norms", "bn", "gn", "--workers", "2"),
)


def on_few_images(command):
    """The words of a command of the documentation, which trains for a second at most."""
    few = ("--train-images", "256") if command[0] in ("train", "compare") else ()
    return [*command, *few]


# Both are standard on Linux; the C library of macOS cannot be replaced so.
needs_shims = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and gcc"
)


# What pip installs as `normlab`: a script, beside which Python looks for modules.
SCRIPT = (sys.executable, "-P", "-c", "from normlab.__main__ import main; main()")


def normlab(*arguments, cwd, redirect="", command=SCRIPT, before=None, **variables):
    """Runs a command as a user does, from a shell.

    Args:
        arguments: The command line.
        cwd: The working folder.
        redirect: What the shell does with its streams, such as `>&-`.
        command: How normlab is started.
        before: Is called in the new process, before it begins.
        variables: Of the environment.

    Returns:
        The finished process, with what it printed as text.
    """
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirect}', "sh", *command, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=600,
        preexec_fn=before,
    )


def limit(kind, value):
    """Limits what a process may use."""
    return partial(resource.setrlimit, kind, (value, value))


def unusual_process():
    """Few files, little memory, and signals as some parents leave them."""
    limit(resource.RLIMIT_NOFILE, 40)()
    limit(resource.RLIMIT_AS, 4 << 30)()
    os.umask(0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


# Commands in one process, which imports everything once. None may have the working folder searched.
IN_ONE_PROCESS = """
import os, shlex, sys
from normlab.__main__ import main
searched = {*sys.path}
for line in sys.argv[1:]:
    try:
        main(shlex.split(line))
    except SystemExit as end:
        assert not end.code, line
    assert not {"", os.getcwd()} & ({*sys.path} - searched), line
"""


def gcc(folder, script):
    """The variable that makes a script the first gcc on the PATH."""
    path = folder / "bin" / "gcc"
    path.parent.mkdir()
    path.write_bytes(script if isinstance(script, bytes) else script.encode())
    path.chmod(0o755)
    return {"PATH": f"{path.parent}{os.pathsep}{os.environ['PATH']}"}


def quick_gcc(folder):
    """That of the real gcc without optimization: the compiled passes then take it a second."""
    real = shutil.which("gcc")
    return gcc(folder, f'#!/bin/sh\n[ "$1" = -v ] && exec {real} -v\nexec {real} "$@" -O0')


def shim(folder, source):
    """Compiles C functions that take the place of the C library's; the variable that loads them."""
    path = folder / "shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", path, "-ldl"],
        input=f"#define _GNU_SOURCE\n{source}",
        text=True,
        check=True,
    )
    return {"LD_PRELOAD": str(path)}


def assert_one_line(process, code=1):
    """Checks that a command failed with its code and one line."""
    assert process.returncode == code, process
    assert process.stderr.count("\n") == 1, process.stderr
    assert process.stderr.startswith("normlab: "), process.stderr
