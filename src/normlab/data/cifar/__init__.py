"""CIFAR-10 and CIFAR-100 in either of their layouts, archived or not, from a folder or downloaded.

Source: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, "Learning Multiple Layers of
Features from Tiny Images", 2009), which describes both layouts and publishes the archives' MD5.
Archives are read in memory, and pickles by a restricted unpickler: no file's content is written to
disk or executed.
"""

import os
from pathlib import Path

from normlab.data.cifar import download
from normlab.data.cifar.files import find, read
from normlab.data.cifar.layouts import Published, labels_digest
from normlab.data.dataset import Dataset
from normlab.errors import DataError
from normlab.storage.reading import in_home


def load(data: Published, data_root: Path | None) -> Dataset:
    """A published data set: 50,000 training and 10,000 test images, in the files' order.

    The data root is the only folder that is searched. The default is $NORMLAB_DATA (likewise),
    else the user's cache folder, else a download into that. The user's own files are accepted if
    they are well-formed; if they are not the published ones, the notes say so. Copies that others
    made differ in the pixels of a few images, and are known by the order of their labels.

    Raises:
        DataError: It is missing, malformed, or could not be downloaded.
    """
    setting = "--data-root" if data_root else "NORMLAB_DATA"
    folder = data_root or os.environ.get("NORMLAB_DATA")
    root = in_home(Path(folder)) if folder else None
    try:
        if root is None:
            files = download.cached(data) or download.fetch(data)
        elif (found := find(root, data)) is not None:
            files = found
        else:
            raise DataError(_not_in(root, data, setting))
        train, test = read(files, data)
    except OSError as error:
        name = error.filename or root or data.title
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error
    in_order = labels_digest(train.labels) == data.labels
    return Dataset(data.name, data.classes, train, test, notes=files.notes, in_order=in_order)


def needs_download(data: Published) -> bool:
    """Whether neither $NORMLAB_DATA is set nor the cache folder holds it."""
    return not os.environ.get("NORMLAB_DATA") and download.cached(data) is None


def _not_in(root: Path, data: Published, setting: str) -> str:
    binary, python = data.binary, data.python
    return (
        f"no {data.title} in {root}{'' if root.is_dir() else ', which is not a folder'}: "
        f"neither {binary.archive} nor {python.archive}, nor {binary.folder} or "
        f"{python.folder} extracted from them; get {download.url_of(data)} and put it there, "
        f"leave out {setting} to have it downloaded, or use --dataset digits --recipe demo, which "
        "needs no download"
    )
