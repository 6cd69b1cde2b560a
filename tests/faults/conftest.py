import pytest

from harness import start


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A run without faults."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    process = start(out)
    process.join()
    assert process.exitcode == 0
    return out
