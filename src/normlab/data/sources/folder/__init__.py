"""The user's own pictures in folders, one for each class, or with a table of labels beside them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from normlab.config import DataConfig
from normlab.data.dataset import Dataset, Split
from normlab.data.images import read_picture
from normlab.data.left_out import examples
from normlab.data.sources import refuse_data_root
from normlab.data.sources.folder.layouts import Labeled, Layout, find
from normlab.data.splits import dataset_of_splits
from normlab.errors import DataError
from normlab.storage.reading import in_home

SPELLING = "folder:PATH"
PUBLIC = False
HUB_NAME = None
MIRRORABLE = True  # not known: a run whose recipe mirrors says so
HAS_IMAGE_FILES = True
HAS_COLUMNS = False


def load(config: DataConfig, data_root: Path | None) -> Dataset:
    """A folder of pictures as a data set. `images.to_pixels` says how a picture is converted.

    `layouts.find` says how the pictures may lie. The classes are sorted by name. Pictures are
    ordered by class, then by their path below the class's folder. What is left out, a note counts
    and names. If there is no test split, a stratified fifth of the pictures (at least one per
    class) becomes it, and a note says so.

    Raises:
        UsageError: A data root is given beside the path.
        DataError: A folder is missing or empty, there are fewer than two classes, the splits
            differ in their classes, or a picture cannot be read.
    """
    refuse_data_root(config, data_root)
    root = Path(config.place)
    path = in_home(root)
    try:
        layout = find(path)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from error
    classes = tuple(sorted({picture.label for picture in layout.splits["train"]}))
    splits = {
        role: _read(pictures, classes, path, layout, config)
        for role, pictures in layout.splits.items()
    }
    dataset = dataset_of_splits(
        f"folder:{root}",
        classes,
        splits,
        {role: f"{folder.name}/" for role, folder in layout.folders.items()},
        split_seed=config.split_seed,
        notes=layout.notes,
    )
    left_out = filter(None, [str(layout.left_out)])
    return replace(dataset, notes=(*dataset.notes, *left_out))


def needs_download() -> bool:
    """Never: the pictures are the user's."""
    return False


def _read(
    pictures: Sequence[Labeled],
    classes: tuple[str, ...],
    root: Path,
    layout: Layout,
    config: DataConfig,
) -> Split:
    """The pictures of a split, converted. Those that cannot be read are added to what is left out.

    Raises:
        DataError: A picture cannot be read and is not to be left out, or a class would be empty.
    """
    images = np.empty((len(pictures), 3, config.size, config.size), np.uint8)
    read: list[Labeled] = []
    console = Console(stderr=True)
    for picture in track(
        pictures,
        "Reading images",
        console=console,
        transient=True,
        disable=len(pictures) <= 1000 or not console.is_terminal,
    ):
        try:
            images[len(read)] = read_picture(picture.file, config.size)[0]
            read.append(picture)
        except DataError as error:
            if not config.skip_unreadable:
                message = f"{error}; --skip-unreadable leaves such images out"
                raise DataError(message) from error
            layout.left_out.unreadable.append(picture.file.relative_to(root))
    for missing in {picture.label for picture in pictures} - {picture.label for picture in read}:
        files = [picture.file for picture in pictures if picture.label == missing]
        raise DataError(f"class {missing!r} has no image that can be read: {examples(files, str)}")
    index = {name: k for k, name in enumerate(classes)}
    return Split(
        images[: len(read)],
        np.array([index[picture.label] for picture in read], dtype=np.int64),
        names=tuple(picture.file.relative_to(root).as_posix() for picture in read),
    )
