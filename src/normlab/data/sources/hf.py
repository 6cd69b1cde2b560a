"""A data set of the Hugging Face Hub, or a folder of its files, by the library `datasets`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from normlab.config import DataConfig
from normlab.data.class_names import class_name
from normlab.data.dataset import Dataset, Split, SplitName
from normlab.data.images import read_picture
from normlab.data.sources import refuse_data_root
from normlab.data.splits import dataset_of_splits, role_of
from normlab.errors import DataError, UsageError, printable
from normlab.storage.reading import in_home
from normlab.wording import counted, listed

SPELLING = "hf:OWNER/NAME[:CONFIG]"
PUBLIC = False  # a local folder may be meant: `name_on_hub`
HUB_NAME = None
MIRRORABLE = True  # not known: a run whose recipe mirrors says so
HAS_IMAGE_FILES = HAS_COLUMNS = True
# What `datasets` reads without running a repository's code, and where images can be.
_READERS = ("parquet", "arrow", "imagefolder", "webdataset")
_ON_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FROM_FOLDER = "read from a folder, not from the Hub"
_LABEL_TYPES = re.compile(r"u?int\d+|bool|(large_)?string")


def load(config: DataConfig, data_root: Path | None) -> Dataset:
    """A data set of the Hub, downloaded into the library's cache, or a local folder of its files.

    The splits are those named as `normlab.data.splits.SPLITS` says; if there is one of another
    name, it is the whole data set. Rows without a label are left out, and a note counts them.

    Raises:
        UsageError: `datasets` is missing or too old, a data root is given, or the columns are
            others than asked for.
        DataError: It cannot be downloaded or read, would run code, or has no columns with images
            and labels.
    """
    refuse_data_root(config, data_root)
    tables, left_out = _by_role(_tables(config.place), config.dataset)
    features = tables["train"].features
    image_column = _image_column(features, config)
    label_column = _label_column(features, image_column, config)
    values, classes = _classes(tables["train"], label_column, config.dataset)
    splits, called = {}, {}
    unlabeled = unreadable = 0
    for role, table in tables.items():
        called[role] = str(table.split)
        split, without, damaged = _read(table, image_column, label_column, values, config)
        unlabeled, unreadable = unlabeled + without, unreadable + damaged
        if len(split):
            splits[role] = split
    if "train" not in splits:
        raise DataError(f"{config.dataset} has no training image with a label")
    if unlabeled:
        left_out.append(f"{counted(unlabeled, 'image')} without a label")
    if unreadable:
        left_out.append(f"{counted(unreadable, 'image')} that could not be read")
    notes = [f"images are those of {image_column!r}, labels those of {label_column!r}"]
    if in_home(Path(config.place)).is_dir():
        notes.append(_FROM_FOLDER)
    if left_out:
        notes.append(f"left out: {', '.join(left_out)}")
    return dataset_of_splits(
        config.dataset, classes, splits, called, split_seed=config.split_seed, notes=notes
    )


def needs_download() -> bool:
    """Whether `load` may download it: what the library has in its cache is not known here."""
    return True


def name_on_hub(name: str, notes: Sequence[str]) -> str | None:
    """The repository that a data set is on the Hub, `OWNER/NAME`; None if it was a folder's files.

    Args:
        name: The data set's name, `hf:OWNER/NAME[:CONFIG]`.
        notes: Its notes when it was loaded.
    """
    repository = name.split(":")[1]
    return repository if _ON_HUB.fullmatch(repository) and _FROM_FOLDER not in notes else None


def _tables(path: str) -> Mapping[str, Any]:
    """The splits of a repository or folder, by their names.

    Raises:
        UsageError: `datasets` is missing or too old.
        DataError: It cannot be read, or only by code of its own.
    """
    try:
        import datasets
    except ImportError:
        raise UsageError('hf: needs the library datasets: pip install "normlab[hf]"') from None
    if int(datasets.__version__.split(".")[0]) < 4:
        raise UsageError(
            f"datasets {datasets.__version__} runs code of repositories: "
            'pip install --upgrade "normlab[hf]"'
        )
    folder = in_home(Path(path))
    place, _, config = path.partition(":")
    if folder.is_dir():
        place, config = str(folder), ""
    elif not _ON_HUB.fullmatch(place):
        raise DataError(f"{folder} is neither a folder nor an OWNER/NAME of the Hub")
    with _errors(place), _progress_bars(datasets):
        builder = datasets.load_dataset_builder(place, config or None)
        reader = type(builder).__module__.split(".")[-1]
        if reader not in _READERS:
            raise DataError(
                f"{place} has files of the kind {reader!r}: expected {listed(_READERS, 'or')}"
            )
        builder.download_and_prepare()
        tables: Mapping[str, Any] = builder.as_dataset()
    return tables


@contextmanager
def _errors(place: str) -> Iterator[None]:
    """Errors of `datasets` on one line. It raises many kinds of them, the network's too."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        lines = printable(str(error).strip().partition("\n")[0]) or type(error).__name__
        if "scripts are no longer supported" in lines:
            raise DataError(
                f"{place} is read by a program in it, which normlab does not run: choose a "
                "repository of parquet files"
            ) from error
        raise DataError(
            f"{place} cannot be read from the Hub or the cache: {lines.rstrip('.')}; a folder of "
            "its parquet files can be named instead, hf:FOLDER"
        ) from error


@contextmanager
def _progress_bars(datasets: Any) -> Iterator[None]:
    """Shows the library's bars in a terminal only."""
    shown = datasets.are_progress_bars_disabled()
    if not Console(stderr=True).is_terminal:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        (datasets.disable_progress_bars if shown else datasets.enable_progress_bars)()


def _by_role(tables: Mapping[str, Any], name: str) -> tuple[dict[SplitName, Any], list[str]]:
    """The splits by what they are for, and the names of those that are not used."""
    found: dict[SplitName, Any] = {}
    left_out = []
    for split, table in tables.items():
        role = role_of(split)
        if len(tables) == 1:
            role = "train"
        if role is None or role in found:
            left_out.append(f"split {printable(split)!r}")
        else:
            found[role] = table
    if "train" not in found:
        raise DataError(f"{name} has no split 'train': it has {listed([*map(repr, tables)])}")
    return found, left_out


def _image_column(features: Mapping[str, Any], config: DataConfig) -> str:
    from datasets import Image

    images = [name for name, feature in features.items() if isinstance(feature, Image)]
    return _column(features, images, config.image_column, "images", "--image-column")


def _label_column(features: Mapping[str, Any], image_column: str, config: DataConfig) -> str:
    from datasets import ClassLabel

    rest = {name: feature for name, feature in features.items() if name != image_column}
    labels = [name for name, feature in rest.items() if isinstance(feature, ClassLabel)]
    values = [
        name
        for name, feature in rest.items()
        if _LABEL_TYPES.fullmatch(str(getattr(feature, "dtype", "")))
    ]
    if config.label_column:  # any that holds labels; by itself, a class is preferred to a number
        labels = values
    return _column(features, labels or values, config.label_column, "labels", "--label-column")


def _column(
    features: Mapping[str, Any], fitting: list[str], wanted: str | None, what: str, flag: str
) -> str:
    """The column that is wanted, or else the only one that fits."""
    has = listed([f"{name} ({_kind(feature)})" for name, feature in features.items()])
    if wanted is not None and wanted not in fitting:
        raise UsageError(f"{flag} {wanted}: there is no such column with {what}: there are {has}")
    if wanted is not None:
        return wanted
    if not fitting:
        raise DataError(f"there is no column with {what}: there are {has}")
    if len(fitting) > 1:
        raise UsageError(
            f"there are {len(fitting)} columns with {what}, {listed(fitting)}: "
            f"choose one with {flag}"
        )
    return fitting[0]


def _kind(feature: Any) -> str:
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else name


def _classes(table: Any, column: str, name: str) -> tuple[dict[Any, int], list[str]]:
    """The label of each value in a column, and the classes' names."""
    feature = table.features[column]
    if names := getattr(feature, "names", None):
        return {k: k for k in range(len(names))}, [class_name(each, name) for each in names]
    values = sorted(set(table.unique(column)) - {None, ""})
    classes = [class_name(str(value), name) for value in values]
    distinct = [*dict.fromkeys(classes)]
    return {v: distinct.index(c) for v, c in zip(values, classes, strict=True)}, distinct


def _read(
    table: Any, image_column: str, label_column: str, values: Mapping[Any, int], config: DataConfig
) -> tuple[Split, int, int]:
    """The images of a split, and how many have no label and how many cannot be read.

    Raises:
        DataError: An image cannot be read and is not to be left out, or a label is unknown.
    """
    from datasets import Image

    table = table.select_columns([image_column, label_column])
    table = table.cast_column(image_column, Image(decode=False))
    images = np.empty((len(table), 3, config.size, config.size), np.uint8)
    labels: list[int] = []
    names: list[str] = []
    unlabeled = unreadable = 0
    console = Console(stderr=True)
    with _errors(config.dataset):
        rows = track(
            enumerate(table),
            "Reading images",
            total=len(table),
            console=console,
            transient=True,
            disable=len(table) <= 1000 or not console.is_terminal,
        )
        for index, row in rows:
            picture, value = row[image_column], row[label_column]
            name = f"{table.split} image {index}"
            where = f"{name} of {config.dataset}"
            # -1 stands for a secret label, unless it is a label itself.
            if (
                picture is None
                or value is None
                or value == ""
                or (value == -1 and -1 not in values)
            ):
                unlabeled += 1
                continue
            if value not in values:
                raise DataError(f"{where} has a label that train lacks: {value!r}")
            try:
                images[len(labels)] = _pixels(picture, config.size)
            except DataError as error:
                if not config.skip_unreadable:
                    raise DataError(f"{where}: {error}; --skip-unreadable leaves it out") from error
                unreadable += 1
                continue
            labels.append(values[value])
            names.append(f"{table.split}/{Path(picture['path']).name}" if picture["path"] else name)
    split = Split(
        images[: len(labels)], np.array(labels, dtype=np.int64), names=tuple(map(printable, names))
    )
    return split, unlabeled, unreadable


def _pixels(picture: Mapping[str, Any], size: int) -> Any:
    content = picture["bytes"]
    return read_picture(Path(picture["path"]) if content is None else content, size)[0]
