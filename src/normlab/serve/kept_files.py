"""Uploads and heat maps: how long they are kept, and how many; and Gradio's records of them."""

import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import gradio

INTERVAL = 30  # seconds between two passes
MAX_AGE = 120  # seconds
MAX_BYTES = 100 * 1024**2


class KeptFiles:
    """The files in a page's folder. Each is in a folder of its own, once it is there as a whole.

    They are deleted when the page that shows them goes, when they are older than two minutes, and,
    the oldest first, when they have too many bytes together.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._permanent: set[Path] = set()
        self._shown: dict[str, frozenset[Path]] = {}  # replaced, not changed: threads read them

    def keep_present(self) -> None:
        """Keeps what is there now, for good: the page's example pictures."""
        self._permanent = {*self._present()}

    def add(self, session: str, paths: Iterable[Path]) -> None:
        """Records that a page shows files of the folder."""
        added = {path.resolve().parent for path in paths}
        self._shown[session] = self._shown.get(session, frozenset()) | added

    def delete_session(self, session: str) -> None:
        """Deletes the files of a page that has gone, except those that others show as well."""
        entries = self._shown.pop(session, frozenset())
        for entry in entries.difference(*[*self._shown.values()]) - self._permanent:
            _delete(entry)

    def delete_old(self) -> None:
        """Deletes what is older than two minutes."""
        limit = time.time() - MAX_AGE
        for changed, _, entry in self._entries():
            if changed <= limit:
                _delete(entry)
        for session, entries in [*self._shown.items()]:
            if not any(entry.exists() for entry in entries):
                self._shown.pop(session, None)

    def delete_oldest(self) -> None:
        """Deletes the oldest while all together have more than `MAX_BYTES`."""
        entries = sorted(self._entries())
        excess = sum(size for _, size, _ in entries) - MAX_BYTES
        for _, size, entry in entries:
            if excess <= 0:
                return
            _delete(entry)
            excess -= size

    def _present(self) -> list[Path]:
        try:
            return [*self._folder.iterdir()]
        except FileNotFoundError:  # a system may empty its folder for temporary files
            return []

    def _entries(self) -> list[tuple[float, int, Path]]:
        """The time of each entry's last change, its bytes, and the entry, except the permanent."""
        entries = []
        for entry in {*self._present()} - self._permanent:
            with suppress(FileNotFoundError):  # a complete upload is renamed
                inside = [*entry.iterdir()] if entry.is_dir() else []
                states = [path.stat() for path in (entry, *inside)]
                changed = max(state.st_ctime for state in states)
                entries.append((changed, sum(state.st_size for state in states), entry))
        return entries


def _delete(entry: Path) -> None:
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


@asynccontextmanager
async def periodic_cleanup(page: "gradio.Blocks", kept: KeptFiles) -> AsyncIterator[None]:
    """Deletes old files every half minute.

    Gradio's own `delete_cache` stops for good when a picture arrives while it runs.
    """

    async def clean() -> None:
        while True:
            await anyio.sleep(INTERVAL)
            await anyio.to_thread.run_sync(kept.delete_old)
            clear_gradio_records(page)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clean)
        yield
        tasks.cancel_scope.cancel()


def clear_gradio_records(page: "gradio.Blocks") -> None:
    """Clears records that grow with each picture and visitor and that Gradio never reads again."""
    from gradio.routes import file_upload_statuses

    for names in page.temp_file_sets:  # for delete_cache
        names.clear()
    file_upload_statuses._signals.clear()
    pending = page._queue.pending_event_ids_session
    for session in [session for session, events in pending.items() if not events]:
        del pending[session]
