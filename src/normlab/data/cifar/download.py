"""Downloads a data set into the user's cache folder, once."""

from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

from normlab.data.cifar.files import PUBLISHED, Files, find
from normlab.data.cifar.layouts import Published
from normlab.errors import DataError

SITE = "https://www.cs.toronto.edu/~kriz"
TIMEOUT = 30.0  # seconds without a byte after which a download attempt fails


def url_of(data: Published) -> str:
    """Where the binary archive is published."""
    return f"{SITE}/{data.binary.archive}"


def cached(data: Published) -> Files | None:
    """The files in the cache folder; None if there are none, or a damaged archive."""
    files = find(_cache(), data)
    # Only normlab puts the archive there: if it is not the published file, it is damaged.
    return None if files and files.path.is_file() and files.notes else files


def fetch(data: Published) -> Files:
    """Downloads the binary archive: checked, written whole or not at all, with one retry.

    Raises:
        DataError: It could not be downloaded.
    """
    import pooch

    folder, url, archive = _cache(), url_of(data), data.binary.archive
    pooch.get_logger().setLevel("WARNING")  # its own lines would break the progress bar
    console = Console(stderr=True)
    start = f"Downloading {data.title} from {url} into {folder}"
    console.print(start, soft_wrap=True, markup=False, highlight=False)
    store = pooch.create(
        path=folder,
        base_url="",
        urls={archive: url},
        registry={archive: f"md5:{PUBLISHED[archive]}"},
        retry_if_failed=1,
    )
    try:
        with Progress(
            *(BarColumn(), DownloadColumn(), TimeRemainingColumn()),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            downloader = pooch.HTTPDownloader(
                progressbar=_Bar(progress), chunk_size=1 << 16, timeout=TIMEOUT
            )
            return Files(Path(store.fetch(archive, downloader=downloader)), data.binary)
    except (OSError, ValueError) as error:  # the network's or the disk's; the checksum's
        raise DataError(
            f"{data.title} could not be downloaded ({_reason(error)}): get {url} by other means "
            f"and put it into {folder}, or name its folder with --data-root; "
            "--dataset digits --recipe demo needs no download"
        ) from error


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("normlab"))


def _reason(error: Exception) -> str:
    if not hasattr(error, "response"):  # not of the requests library
        return "checksum mismatch" if isinstance(error, ValueError) else str(error)
    if error.response is not None:
        return f"the server answered {error.response.status_code}"
    return f"no full answer: {type(error).__name__}"


class _Bar:
    """A task of a rich progress display, with the names that pooch uses."""

    def __init__(self, progress: Progress) -> None:
        task = progress.add_task("", total=None)
        self.update = partial(progress.advance, task)
        self.reset = partial(progress.reset, task)
        self.close = partial(progress.stop_task, task)

    # Set once per attempt: the bytes of a failed attempt do not count.
    total = property(fset=lambda self, size: self.reset(total=size or None))
