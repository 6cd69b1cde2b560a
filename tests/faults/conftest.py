import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # harness
os.environ["PYTHONPATH"] = os.pathsep.join(  # for the server that processes are forked from
    [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
)

from harness import start


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The run that nothing disturbs."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    process = start(out)
    process.join()
    assert process.exitcode == 0
    return out
