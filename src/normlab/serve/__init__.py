"""A page to try runs on, and an HTTP API: Gradio's (the extra `serve`)."""

import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from normlab.errors import NormlabError, UsageError
from normlab.findings.run import names
from normlab.runs.run import Run
from normlab.serve.examples import examples
from normlab.serve.runs import ServedRun

# What Gradio and the libraries it brings read when they are imported: that they report to nobody,
# ask nobody, and keep no record of what was asked.
_ALONE = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


def serve(
    runs: Sequence[Run],
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    data_root: Path | None = None,
) -> None:
    """Serves a page on which finished runs are asked about pictures, until it is interrupted.

    Args:
        runs: One or several, side by side.
        host: The address to listen on; the default is reached from this machine alone.
        port: 0 takes one that is free.
        data_root: Where the data lies, for pictures to try. Nothing is downloaded.

    Raises:
        UsageError: There is no run, one twice, or no such port; gradio is not installed.
        NormlabError: The address cannot be listened on.
        RunError: A run is not finished, or is damaged.
        DataError: The data is not in `data_root`.
    """
    called = names(runs)
    if find_spec("gradio") is None:
        raise UsageError('the page needs gradio: pip install "normlab[serve]"')
    with _listen(host, port) as listening:
        served = [ServedRun(name, run) for name, run in zip(called, runs, strict=True)]
        to_try = examples(runs[0], data_root)
        address = _address(host, listening.getsockname()[1])
        if host in ("0.0.0.0", "::"):
            print("note: whoever is in this network can reach the page, at this machine's address")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # uploads are deleted then too
        with tempfile.TemporaryDirectory(prefix="normlab-") as uploads:
            os.environ.update(_ALONE, GRADIO_TEMP_DIR=uploads)
            from normlab.serve.server import run_server

            run_server(served, to_try, address, listening)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 to 65535, not {port}")
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # what follows says the address again
        raise NormlabError(
            f"cannot listen on port {port} of {host} ({reason}): choose another --port or --host"
        ) from None


def _address(host: str, port: int) -> str:
    """Where this machine's browser finds it."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"
