"""A demo page and an HTTP API for trained runs, built with Gradio (the extra `serve`)."""

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
from normlab.serve.examples import load_examples
from normlab.serve.served_run import ServedRun

# Gradio and its dependencies read these when they are imported: no telemetry, no requests to other
# hosts, no record of what visitors upload.
_OFFLINE = {
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
    """Serves a page on which finished runs predict pictures, until it is interrupted.

    Args:
        runs: One or several; their predictions are shown side by side.
        host: The address to listen on. The default can only be reached from this machine.
        port: The port; 0 chooses a free one.
        data_root: Where the data lies, for example pictures. Nothing is downloaded.

    Raises:
        UsageError: There is no run, one is given twice, the port is out of range, or gradio is not
            installed.
        NormlabError: The server cannot listen on the address.
        RunError: A run is unfinished or damaged.
        DataError: The data is not in `data_root`.
    """
    run_names = names(runs)
    if find_spec("gradio") is None:
        raise UsageError('the page needs gradio: pip install "normlab[serve]"')
    with _listen(host, port) as listener:
        served_runs = [ServedRun(name, run) for name, run in zip(run_names, runs, strict=True)]
        examples = load_examples(runs[0], data_root)
        address = _address(host, listener.getsockname()[1])
        if host in ("0.0.0.0", "::"):
            print("note: anyone on this network can reach the page at this machine's address")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that uploads are deleted
        with tempfile.TemporaryDirectory(prefix="normlab-") as uploads:
            os.environ.update(_OFFLINE, GRADIO_TEMP_DIR=uploads)
            from normlab.serve.server import run_server

            run_server(served_runs, examples, address, listener)


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 to 65535, not {port}")
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # the rest repeats the address
        raise NormlabError(
            f"cannot listen on port {port} of {host} ({reason}): choose another --port or --host"
        ) from None


def _address(host: str, port: int) -> str:
    """The URL for a browser on this machine."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
