"""CIFAR-10 in either of its published layouts, archived or extracted, from a folder or downloaded.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009), which describes both layouts and publishes the archives' MD5.
Archives are read in memory, and pickles by a restricted unpickler: no file's content is written to
disk or executed.
"""

import os
from pathlib import Path

from normlab.data.dataset import Dataset
from normlab.data.sources import Request
from normlab.data.sources.cifar10 import download
from normlab.data.sources.cifar10.files import find, read
from normlab.data.sources.cifar10.layouts import BINARY, CLASSES, PYTHON
from normlab.errors import DataError

SPELLING = PUBLIC_NAME = "cifar10"
HUB_NAME = "uoft-cs/cifar10"
MIRRORABLE = True
HAS_IMAGE_FILES = False


def load(request: Request) -> Dataset:
    """CIFAR-10: 50,000 training and 10,000 test images of ten classes, in the files' order.

    The data root is the only folder that is searched. The default is $NORMLAB_DATA (likewise),
    else the user's cache folder, else a download into that. The user's own files are accepted if
    they are well-formed; if they are not the published ones, the notes say so.

    Raises:
        DataError: It is missing, malformed, or could not be downloaded.
    """
    setting = "--data-root" if request.data_root else "NORMLAB_DATA"
    folder = request.data_root or os.environ.get("NORMLAB_DATA")
    root = Path(folder).expanduser() if folder else None
    try:
        if root is None:
            files = download.cached() or download.fetch()
        elif (found := find(root)) is not None:
            files = found
        else:
            raise DataError(_not_in(root, setting))
        train, test = read(files)
    except OSError as error:
        name = error.filename or root or "CIFAR-10"
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    return Dataset("cifar10", CLASSES, train, test, notes=files.notes)


def needs_download() -> bool:
    """Whether neither $NORMLAB_DATA is set nor the cache folder holds it."""
    return not os.environ.get("NORMLAB_DATA") and download.cached() is None


def _not_in(root: Path, setting: str) -> str:
    return (
        f"no CIFAR-10 in {root}{'' if root.is_dir() else ', which is not a folder'}: "
        f"neither {BINARY.archive} nor {PYTHON.archive}, nor {BINARY.folder} or "
        f"{PYTHON.folder} extracted from them; get {download.URL} and put it there, leave out "
        f"{setting} to have it downloaded, or use --dataset digits, which needs no download"
    )
