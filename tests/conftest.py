import os
import shutil

import pytest
import torch
from hypothesis import settings

from normlab import RunConfig
from normlab.training.loop import train

torch.set_num_threads(1)  # the tests' networks are too small to share a step between cores
os.environ["COLUMNS"] = "100"  # whatever the terminal that the tests are run in
settings.register_profile("normlab", deadline=None)  # machines differ fivefold, and are shared
settings.load_profile("normlab")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small run on the embedded digits, trained to its end."""
    config = RunConfig(
        network="C:12 P C:24 P D:32 GAP FC",
        dataset="digits",
        recipe="demo",
        epochs=3,
        learning_rate=0.1,
    )
    return train(config, tmp_path_factory.mktemp("runs") / "trained", quiet=True)


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
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--use-fake-device-for-media-stream"),
                "--use-fake-ui-for-media-stream",
            ],
        )
        yield browser
        browser.close()
