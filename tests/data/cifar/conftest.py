import numpy as np
import pytest

from cifar10_files import MadeUp
from normlab.data.cifar import download, layouts


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Twenty images per file, and a user without settings, cache or CIFAR-10."""
    monkeypatch.setattr(layouts, "RECORDS", 20)
    monkeypatch.setattr(download, "SITE", "http://127.0.0.1:9/nothing-listens-here")
    monkeypatch.delenv("NORMLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 20, 3072), dtype=np.uint8)
    return MadeUp(pixels, rng.permuted(np.tile(np.arange(20) % 10, (6, 1)), axis=1))
