"""The folder of uploads and heat maps, and what Gradio remembers of them, which are kept small."""

import shutil
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    import gradio

EVERY, AGE = 30, 120  # seconds


@asynccontextmanager
async def cleaned(page: "gradio.Blocks") -> AsyncIterator[None]:
    """Deletes what is older than two minutes from a page's folder, but what stands there at first.

    Gradio's own cleaning, `delete_cache`, ends for good when a picture comes while it runs.
    """
    folder = Path(page.GRADIO_CACHE)
    kept = {*folder.iterdir()}

    async def clean() -> None:
        while True:
            await anyio.sleep(EVERY)
            await anyio.to_thread.run_sync(delete_old, folder, AGE, kept)
            forget(page)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clean)
        yield
        tasks.cancel_scope.cancel()


def delete_old(folder: Path, age: float, kept: Collection[Path] = ()) -> None:
    """Deletes what is in a folder and older than `age` seconds, but what is to be kept."""
    before = time.time() - age
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # an upload is renamed when it is whole
            inside = [*path.iterdir()] if path.is_dir() else []
            if path in kept or max(p.stat().st_ctime for p in (path, *inside)) > before:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def forget(page: "gradio.Blocks") -> None:
    """Empties what grows in Gradio with each picture and each visitor, and is never read again."""
    from gradio.routes import file_upload_statuses

    for names in page.temp_file_sets:  # for delete_cache
        names.clear()
    file_upload_statuses._signals.clear()
    asked = page._queue.pending_event_ids_session
    for visitor in [visitor for visitor, events in asked.items() if not events]:
        del asked[visitor]
