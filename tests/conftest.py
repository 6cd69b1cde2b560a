import os

import pytest
import torch

torch.set_num_threads(1)  # the tests' networks are too small to share a step between cores

from normlab import RunConfig  # noqa: E402
from normlab.training import train  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _no_data_root():
    """Only the tests that ask for CIFAR-10 see it."""
    os.environ["COLUMNS"] = "100"


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A small run on the embedded digits, trained to its end."""
    config = RunConfig(
        network="C:12 P C:24 P D:32 GAP FC", dataset="digits", recipe="demo", epochs=3
    )
    return train(config, tmp_path_factory.mktemp("runs") / "trained", quiet=True)
