"""Commands in environments that a test makes: other variables, streams and C libraries."""

import os
import shutil
import subprocess
import sys

import pytest

NETWORK = "C:4 P C:4 GAP FC"
TRAIN = (
    *("train", NETWORK, "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
    *("--train-images", "128", "--batch-size", "64", "--threads", "1", "--device", "cpu"),
)
COMPARE = (
    *("compare", NETWORK, "--dataset", "digits", "--recipe", "demo", "--epochs", "1"),
    *("--train-images", "128", "--seeds", "1", "--norms", "bn", "gn", "--workers", "2"),
)

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
