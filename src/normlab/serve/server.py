"""The server: the demo page and `POST /predict`."""

import logging
import socket
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

import anyio
import gradio
import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from gradio import processing_utils
from starlette.requests import ClientDisconnect

from normlab.errors import DataError, RunError
from normlab.inference.explain import DISPLAY_SIZE
from normlab.inference.picture_process import NoProcessError, PictureReader
from normlab.inference.predict import Prediction
from normlab.report.prediction_lines import as_json
from normlab.runs import machine
from normlab.serve import limits
from normlab.serve.arrivals import MAX_PICTURE_BYTES
from normlab.serve.connections import LimitedConnection
from normlab.serve.demo_page import CSS, THEME, build_page, sizes
from normlab.serve.examples import Example
from normlab.serve.kept_files import KeptFiles, periodic_cleanup
from normlab.serve.served_run import PredictionWithHeatMap, ServedRun

Result = TypeVar("Result")


def run_server(
    runs: Sequence[ServedRun],
    examples: Sequence[Example] | str,
    address: str,
    listener: socket.socket,
    names: Collection[str],
    uploads: Path,
) -> None:
    """Serves until it is interrupted.

    Args:
        runs: As `build_page` takes them.
        examples: As `build_page` takes them.
        address: The server's URL.
        listener: A bound socket.
        names: The server's names, as `hosts.names_of` returns them.
        uploads: The folder that Gradio keeps files in.
    """
    machine.share_arenas()
    torch.set_num_threads(1)  # the networks are too small to gain from several
    app = build_app(runs, examples, address, names, uploads)
    print(f"{', '.join(run.name for run in runs)}: {address} (Ctrl-C stops it)", flush=True)
    config = uvicorn.Config(
        app, http=LimitedConnection, ws="none", log_config=None, log_level="warning",
        access_log=False, proxy_headers=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    _Server(config).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Stops silently: open pages that lose their connection are not errors."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


def build_app(
    runs: Sequence[ServedRun],
    examples: Sequence[Example] | str,
    address: str,
    names: Collection[str],
    uploads: Path,
) -> FastAPI:
    """The page at `/` and the API at `/predict`. Arguments as `run_server` takes them."""
    by_name = {run.name: run for run in runs}
    usage = f"curl --data-binary @picture.jpg {address}/predict"
    any_size = f"of any size, which is converted to {sizes(runs)}"
    concurrency = anyio.CapacityLimiter(limits.MAX_CONCURRENT)
    slots = anyio.Semaphore(limits.MAX_WAITING)

    async def run_in_thread(function: Callable[..., Result], *arguments: object) -> Result:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=concurrency)

    reader = PictureReader()
    kept = KeptFiles(uploads)

    async def explain(content: bytes) -> list[PredictionWithHeatMap]:
        results = await run_in_thread(_explain_all, reader, runs, content)
        await anyio.to_thread.run_sync(kept.delete_oldest)
        return results

    page = build_page(runs, explain, examples, address, kept)
    page.queue(
        max_size=limits.MAX_WAITING,
        default_concurrency_limit=limits.MAX_CONCURRENT,
        api_open=False,  # nothing goes past the queue
    )
    # As launch() does, which cannot serve an API beside the page: then only uploads can be named.
    page.has_launched = True
    page.state_session_capacity = limits.MAX_PAGES
    processing_utils.async_ssrf_protected_download = _refuse_address

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        kept.keep_present()
        try:
            async with periodic_cleanup(page, kept):
                yield
        finally:
            reader.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(limits.RequestGuard, names=names, kept=kept)
    app.add_exception_handler(HTTPException, limits.as_json_error)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)

    @app.post("/predict")
    async def predict(request: Request, run: str = runs[0].name) -> Response:
        if run not in by_name:
            raise HTTPException(404, f"no run {run!r}: there are {', '.join(by_name)}")
        content = await limits.read_body(request)
        # Checked after the body: a form that is too large gets the error about its size.
        if request.headers.get("content-type", "").lower().startswith("multipart/"):
            raise HTTPException(415, f"send the file as it is, not in a form: {usage}")
        with limits.acquire(slots):  # who is still sending takes no place
            try:
                prediction = await run_in_thread(_predict, reader, by_name[run], content)
            except DataError as error:
                raise HTTPException(400, str(error)) from None
            except NoProcessError as error:
                raise HTTPException(503, str(error), {"Retry-After": "1"}) from None
            except RunError as error:
                raise HTTPException(500, str(error)) from None
        return Response(as_json(prediction) + "\n", media_type="application/json")

    @app.api_route("/predict", methods=["GET", "PUT", "PATCH", "DELETE"])
    async def wrong_method() -> Response:
        raise HTTPException(405, f"send a picture {any_size}: {usage}", {"Allow": "POST"})

    gradio.mount_gradio_app(
        app, page, "/", max_file_size=MAX_PICTURE_BYTES, theme=THEME, css=CSS,
        footer_links=[], run_history=False, ssr_mode=False, mcp_server=False,
        enable_monitoring=False, pwa=False, allowed_paths=[], root_path="",
        app_kwargs={"exception_handlers": {Exception: limits.not_understood}},
    )  # fmt: skip
    return app


def _predict(reader: PictureReader, run: ServedRun, content: bytes) -> Prediction:
    (picture,) = reader.read(content, [run.size])
    return run.predict(picture)


def _explain_all(
    reader: PictureReader, runs: Sequence[ServedRun], content: bytes
) -> list[PredictionWithHeatMap]:
    """Each run's prediction and heat map for a picture's file."""
    wanted = [*dict.fromkeys(run.size for run in runs), DISPLAY_SIZE]
    *pictures, shown = reader.read(content, wanted)
    by_size = dict(zip(wanted, pictures, strict=False))
    return [run.explain(by_size[run.size], shown.pixels) for run in runs]


async def _refuse_address(*_: object, **__: object) -> str:
    """Replaces Gradio's download of a picture given by its URL."""
    raise gradio.Error("upload the picture itself, not its address", print_exception=False)


async def _client_disconnected(_: Request, __: Exception) -> Response:
    """The client left before its picture was complete: not an error of the server."""
    return Response(status_code=400)
