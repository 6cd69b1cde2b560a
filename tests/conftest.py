import gc
import os
import shutil
import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

# What a test process and those that it starts are given before they import torch.
os.environ["OMP_NUM_THREADS"] = "1"  # the tests' networks are too small to share between cores
os.environ["COLUMNS"] = "100"  # whatever the terminal that the tests are run in
# Files of a test process need not survive a power failure; a process that it starts syncs its own.
os.fsync = lambda handle: None
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's & has it so
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Collecting garbage less often takes a twentieth less time.
gc.set_threshold(10_000)

# No limits of time: machines differ fivefold in speed, and are shared.
settings.register_profile("normlab", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "quick", settings.get_profile("normlab"), max_examples=10, derandomize=True, database=None
)
settings.load_profile("normlab")


SLOW_FIXTURES = {"browser", "files", "finished", "server"}  # tests that use one are slow too


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Puts the slowest first, so that no worker is left with one of them at the end."""
    for item in items:
        slow = not SLOW_FIXTURES.isdisjoint(item.fixturenames)
        if slow and not item.get_closest_marker("quick"):
            item.add_marker(pytest.mark.slow(1))  # its own, if it has one, counts
    items.sort(key=seconds, reverse=True)


def seconds(item):
    """How long a slow test takes, as its marker says; 0 for all others."""
    marker = item.get_closest_marker("slow")
    return marker.args[0] if marker else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Has every test draw the same numbers, whichever ran before it in this process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small run on the embedded digits, trained to its end."""
    from normlab import RunConfig
    from normlab.training.loop import train

    config = RunConfig(
        network="C:12 P C:24 P D:32 GAP FC",
        dataset="digits",
        channels="colour",
        recipe="demo",
        epochs=3,
        learning_rate=0.1,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "trained", quiet=True)


@pytest.fixture
def cli(capsys):
    """Runs a command and returns its exit code, output and errors."""

    from normlab.cli import main

    def command(*arguments):
        code = 0
        try:
            main([*map(str, arguments)])
        except SystemExit as error:
            code = error.code or 0
        return code, *capsys.readouterr()

    return command


@pytest.fixture(scope="session")
def browser():
    """Chromium, with a camera that shows a moving circle."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            timeout=600_000,  # milliseconds
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--use-fake-device-for-media-stream"),
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()
