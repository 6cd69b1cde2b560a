"""A demo page and an HTTP API for trained runs, built with Gradio (the extra `serve`)."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path

from normlab.errors import NormlabError, UsageError
from normlab.notes import note
from normlab.runs import several
from normlab.runs.run import Run
from normlab.serve.examples import load_examples
from normlab.serve.hosts import is_everywhere, names_of
from normlab.serve.served_run import ServedRun

# Gradio and its dependencies read these when they are imported: no telemetry, no requests to other
# hosts, by a proxy or not, no record of what visitors upload.
_OFFLINE = {
    "NO_PROXY": "*",
    "no_proxy": "*",
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
    names: Sequence[str] = (),
) -> None:
    """Serves a page on which finished runs predict pictures, until it is interrupted.

    Args:
        runs: One or several; their predictions are shown side by side.
        host: The address to listen on. The default can only be reached from this machine.
        port: The port; 0 chooses a free one.
        data_root: Where the data lies, for example pictures. Nothing is downloaded.
        names: Further host names by which requests may call the server.

    Raises:
        UsageError: There is no run, one is given twice, the port is out of range, a name is none,
            or gradio is not installed.
        NormlabError: The server cannot listen on the address.
        RunError: A run is unfinished or damaged.
        DataError: The data is not in `data_root`.
    """
    run_names = several.names(runs)
    if find_spec("gradio") is None:
        raise UsageError('the page needs gradio: pip install "normlab[serve]"')
    with _listen(host, port) as listener:
        bound, port = listener.getsockname()[:2]
        own_names = names_of(host, bound, names)
        served_runs = [ServedRun(name, run) for name, run in zip(run_names, runs, strict=True)]
        examples = load_examples(runs[0], data_root)
        address = _address(host, bound, port)
        if is_everywhere(bound):
            note("anyone on this network can reach the page at this machine's address")
        with ExitStack() as stack:  # what is entered last is undone first
            stack.enter_context(_stopped_by_signals())
            uploads = stack.enter_context(tempfile.TemporaryDirectory(prefix="normlab-"))
            stack.enter_context(_environment(GRADIO_TEMP_DIR=uploads, **_OFFLINE))
            from normlab.serve.server import run_server

            run_server(served_runs, examples, address, listener, own_names, Path(uploads))


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Has SIGTERM, and a terminal that closes, stop the server as Ctrl-C does: uploads go."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    previous = {signal.SIGTERM: signal.signal(signal.SIGTERM, signal.default_int_handler)}
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows; nohup ignores it
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_DFL:
        stop = lambda *_: signal.raise_signal(signal.SIGTERM)  # noqa: E731
        previous[hangup] = signal.signal(hangup, stop)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:  # None: Python did not install it, and cannot
                signal.signal(number, handler)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Sets variables for the block, and removes those by which users configure Gradio apps."""
    foreign = [name for name in os.environ if name.startswith(("GRADIO_", "SPACE_"))]
    before = {name: os.environ.pop(name, None) for name in {*foreign, *variables}}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"--port must be from 0 to 65535, not {port}")
    try:
        family, *_, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(where[:2], family=family)
    except (OSError, UnicodeError) as error:  # UnicodeError: no such name is possible
        reason = getattr(error, "strerror", None) or "no such name"
        reason = reason.partition(" (")[0]  # the rest repeats the address
        raise NormlabError(
            f"cannot listen on port {port} of {host or repr(host)} ({reason}): "
            "choose another --port or --host"
        ) from None


def _address(host: str, bound: str, port: int) -> str:
    """The URL for a browser on this machine."""
    loopback = "::1" if ":" in bound else "127.0.0.1"
    local = loopback if is_everywhere(bound) else host
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
