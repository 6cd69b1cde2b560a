"""Other programs: each is started in a process group of its own, and ended with all it started."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from normlab.errors import NormlabError


class TooSlowError(NormlabError):
    """A program takes too long: another attempt would, too."""


def run(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
    errors_alone: bool = False,
) -> tuple[int, str]:
    """Runs a program. It is killed, with all it started, if it takes too long or is interrupted.

    Args:
        command: The program and its arguments.
        seconds: How long it may take.
        environment: All its variables; None: this process's.
        errors_alone: Keep what it prints on its standard error, and nothing else.

    Returns:
        Its exit code, and what it printed.

    Raises:
        OSError: It cannot be started.
        NormlabError: The user may start no more threads.
        TooSlowError: It took longer.
    """
    # Ctrl-C interrupts the main thread alone: started in another, the process is always known.
    starter = ThreadPoolExecutor(1)
    try:
        started = starter.submit(
            subprocess.Popen[bytes],
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if errors_alone else subprocess.PIPE,
            stderr=subprocess.PIPE if errors_alone else subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
    except RuntimeError as error:  # as many threads as the user may have
        raise NormlabError(f"{command[0]} cannot be started: {error}") from error
    starter.shutdown(wait=False)
    try:
        output, errors = started.result().communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise TooSlowError(f"{command[0]} took longer than {seconds:.0f} seconds") from None
    finally:
        process = started.result()
        if process.returncode is None:  # afterwards its number may be another group's
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    return process.returncode, (errors if errors_alone else output).decode(errors="replace")
