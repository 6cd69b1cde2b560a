"""CIFAR-10: 50,000 training and 10,000 test images of ten classes."""

from pathlib import Path

from normlab.config import DataConfig
from normlab.data import cifar
from normlab.data.cifar.layouts import CIFAR10
from normlab.data.dataset import Dataset

SPELLING = "cifar10"
PUBLIC = True
HUB_NAME = "uoft-cs/cifar10"
MIRRORABLE = True
HAS_IMAGE_FILES = HAS_COLUMNS = False


def load(_: DataConfig, data_root: Path | None) -> Dataset:
    """Loads it. Raises what `normlab.data.cifar.load` raises."""
    return cifar.load(CIFAR10, data_root)


def needs_download() -> bool:
    """Whether `load` would download it, without a data root."""
    return cifar.needs_download(CIFAR10)
