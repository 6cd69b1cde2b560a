"""Deletes old uploads and heat maps, and what Gradio remembers of them."""

import shutil
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import gradio

INTERVAL = 30  # seconds between two passes
MAX_AGE = 120  # seconds


@asynccontextmanager
async def periodic_cleanup(page: "gradio.Blocks") -> AsyncIterator[None]:
    """Deletes files older than two minutes from a page's folder, except those there at the start.

    Gradio's own `delete_cache` stops for good when a picture arrives while it runs.
    """
    folder = Path(page.GRADIO_CACHE)
    permanent = {*folder.iterdir()}

    async def clean() -> None:
        while True:
            await anyio.sleep(INTERVAL)
            await anyio.to_thread.run_sync(delete_old, folder, MAX_AGE, permanent)
            clear_gradio_records(page)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clean)
        yield
        tasks.cancel_scope.cancel()


def delete_old(folder: Path, max_age: float, permanent: Collection[Path] = ()) -> None:
    """Deletes a folder's entries older than `max_age` seconds, except the permanent ones."""
    limit = time.time() - max_age
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # a complete upload is renamed
            inside = [*path.iterdir()] if path.is_dir() else []
            if path in permanent or max(p.stat().st_ctime for p in (path, *inside)) > limit:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def clear_gradio_records(page: "gradio.Blocks") -> None:
    """Clears records that grow with each picture and visitor and that Gradio never reads again."""
    from gradio.routes import file_upload_statuses

    for names in page.temp_file_sets:  # for delete_cache
        names.clear()
    file_upload_statuses._signals.clear()
    pending = page._queue.pending_event_ids_session
    for session in [session for session, events in pending.items() if not events]:
        del pending[session]
