"""A file of arrays as `numpy.savez` writes it, with the names of Keras or of MedMNIST."""

from pathlib import Path

import numpy as np

from normlab.config import DataConfig
from normlab.data.arrays import Labeled, dataset_of
from normlab.data.dataset import Dataset, SplitName
from normlab.data.sources import refuse_data_root
from normlab.errors import DataError, printable
from normlab.storage.reading import in_home, open_regular
from normlab.wording import listed

SPELLING = "npz:FILE"
PUBLIC = False
HUB_NAME = None
MIRRORABLE = True  # not known: a run whose recipe mirrors says so
HAS_IMAGE_FILES = HAS_COLUMNS = False
NAMES: dict[SplitName, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "holdout": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
LARGEST = 2**34  # bytes of all arrays: a small file can unpack to a huge one


def load(config: DataConfig, data_root: Path | None) -> Dataset:
    """The arrays of a file as a data set. `normlab.data.from_arrays` says what arrays they are.

    Nothing in the file is executed: pickled objects are refused.

    Raises:
        UsageError: A data root is given beside the path.
        DataError: The file is missing or damaged, lacks arrays, or has others than expected.
    """
    refuse_data_root(config, data_root)
    path = in_home(Path(config.place))
    found: dict[SplitName, Labeled] = {}
    try:
        with open_regular(path) as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds one array, not several with names")
            assert archive.zip is not None  # while it is open
            if sum(member.file_size for member in archive.zip.infolist()) > LARGEST:
                raise ValueError(f"it unpacks to more than {LARGEST // 2**30} GB")
            for split, pairs in NAMES.items():
                for images, labels in pairs:
                    if images in archive and labels in archive and split not in found:
                        found[split] = Labeled(images, archive[images], labels, archive[labels])
            names = [*archive]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged archives and headers can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path} cannot be read as a file of arrays: {reason}") from error
    if "train" not in found:
        wanted = " or ".join(f"{images} and {labels}" for images, labels in NAMES["train"])
        has = listed([printable(name) for name in names]) if names else "nothing"
        raise DataError(f"{path} has {has}: expected {wanted}")
    used = {name for arrays in found.values() for name in (arrays.image_name, arrays.label_name)}
    notes = []
    if rest := [printable(name) for name in names if name not in used]:
        notes.append(f"left out: {listed(rest)} of {path.name}")
    try:
        return dataset_of(found, config.dataset, config.split_seed, notes=notes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def needs_download() -> bool:
    """Never: the file is the user's."""
    return False
