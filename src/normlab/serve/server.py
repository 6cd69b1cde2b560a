"""The server: the page, and `POST /predict`."""

import logging
import socket
from collections.abc import Callable, Sequence
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
from normlab.inference.predict import Picture
from normlab.report.prediction_lines import as_json
from normlab.runs import machine
from normlab.serve import limits
from normlab.serve.examples import Example
from normlab.serve.page import CSS, THEME, build_page
from normlab.serve.runs import Answer, ServedRun, explain_all
from normlab.serve.uploads import cleaned

SESSIONS = 100  # open pages that Gradio keeps a copy of its settings for

Result = TypeVar("Result")


def run_server(
    runs: Sequence[ServedRun],
    to_try: Sequence[Example] | str,
    address: str,
    listening: socket.socket,
) -> None:
    """Answers until it is interrupted. Arguments as `build_page` takes them, and a bound socket."""
    machine.share_arenas()
    torch.set_num_threads(1)  # the networks are too small to share one between cores
    app = build_app(runs, to_try, address)
    print(f"{', '.join(run.name for run in runs)}: {address} (Ctrl-C ends it)", flush=True)
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    _Server(config).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends without a word: the open pages that it then cuts off are no errors."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        super().handle_exit(sig, frame)


def build_app(runs: Sequence[ServedRun], to_try: Sequence[Example] | str, address: str) -> FastAPI:
    """The page at `/`, and the API. Arguments as `build_page` takes them."""
    by_name = {run.name: run for run in runs}
    example = f"curl --data-binary @picture.jpg {address}/predict"
    limiter = anyio.CapacityLimiter(limits.AT_ONCE)
    places = anyio.Semaphore(limits.WAITING)

    async def in_turn(function: Callable[..., Result], *arguments: object) -> Result:
        return await anyio.to_thread.run_sync(function, *arguments, limiter=limiter)

    async def explain(picture: Picture) -> list[Answer]:
        return await in_turn(explain_all, runs, picture)

    page = build_page(runs, explain, to_try, address)
    page.queue(max_size=limits.WAITING, default_concurrency_limit=limits.AT_ONCE)
    # As launch() would, which cannot serve an API beside the page: only uploads may be named.
    page.has_launched = True
    page.state_session_capacity = SESSIONS
    processing_utils.async_ssrf_protected_download = _refuse_address

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: cleaned(page))
    app.add_middleware(limits.Guard)
    app.add_exception_handler(HTTPException, limits.as_json_error)
    app.add_exception_handler(ClientDisconnect, _to_nobody)

    @app.post("/predict")
    async def predict(request: Request, run: str = runs[0].name) -> Response:
        if run not in by_name:
            raise HTTPException(404, f"no run {run!r}: there are {', '.join(by_name)}")
        with limits.one_of(places):
            picture = await limits.body(request)
            # Asked now: what is too large is said to be that, form or not.
            if request.headers.get("content-type", "").lower().startswith("multipart/"):
                raise HTTPException(415, f"send the file as it is, not in a form: {example}")
            try:
                prediction = await in_turn(by_name[run].predict, picture)
            except DataError as error:
                raise HTTPException(400, str(error)) from None
            except RunError as error:
                raise HTTPException(500, str(error)) from None
        return Response(as_json(prediction) + "\n", media_type="application/json")

    @app.api_route("/predict", methods=["GET", "PUT", "PATCH", "DELETE"])
    async def send_it_otherwise() -> Response:
        raise HTTPException(405, f"send a picture: {example}", {"Allow": "POST"})

    gradio.mount_gradio_app(
        app, page, "/", max_file_size=limits.LARGEST, theme=THEME, css=CSS, footer_links=[],
        run_history=False, ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False,
    )  # fmt: skip
    return app


async def _refuse_address(*_: object, **__: object) -> str:
    """In the place of Gradio's download of a picture that is given by its address."""
    raise gradio.Error("give the picture, not its address", print_exception=False)


async def _to_nobody(_: Request, __: Exception) -> Response:
    """Who asked went away before the picture was whole: no error of the server's."""
    return Response(status_code=400)
