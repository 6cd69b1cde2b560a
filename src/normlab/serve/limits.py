"""Limits on requests: who may send them, their size, their number, the hosts they may name."""

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import anyio
from fastapi import HTTPException, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from normlab.errors import printable
from normlab.serve.arrivals import (
    MAX_FORM_BYTES,
    MAX_PICTURE_BYTES,
    Arrivals,
    busy,
    too_large,
)
from normlab.serve.hosts import is_foreign, is_own
from normlab.serve.kept_files import KeptFiles

MAX_CONCURRENT = 2  # pictures: the largest allowed takes a gigabyte of memory
MAX_WAITING = 32  # pictures; further ones are refused
MAX_PAGES = 100  # open pages: each keeps a response open, and Gradio keeps its state
# The browser sends requests to this server only, whatever Gradio's scripts or a model card name.
CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
NOT_UNDERSTOOD = "the request is not one that the page sends"
_LOG = logging.getLogger("uvicorn.error")


class RequestGuard:
    """Middleware for all routes, Gradio's too: refuses what no page or program of ours sends.

    Args:
        app: The routes.
        names: The server's names, as `names_of` returns them.
        kept: The files that Gradio keeps.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], kept: KeptFiles) -> None:
        self.app = app
        self._names = names
        self._kept = kept
        self._arrivals = Arrivals()
        self._gets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            response = await as_json_error(Request(scope), refusal)
            await response(scope, receive, send)
            return
        get = scope["method"] == "GET"
        self._gets += get
        try:
            with self._arrivals.limited(receive) as receive_limited:
                await self.app(scope, receive_limited, send_with_policy)
        except Exception as error:
            if scope["path"] == "/predict":
                raise
            log_failure(f"{scope['method']} {scope['path']}", error)  # Gradio has answered
        finally:
            self._gets -= get
        if scope["path"].rstrip("/").endswith("/upload"):
            await anyio.to_thread.run_sync(self._kept.delete_oldest)

    def _refusal(self, scope: Scope) -> HTTPException | None:
        """Why a request is refused before its body has arrived, if it is."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        declared = headers.get("content-length", "0")
        if not is_own(host, self._names):
            return HTTPException(
                400, "the Host header does not name this server: use the server's address"
            )
        if is_foreign(headers.get("origin"), host):
            return HTTPException(403, "requests from other sites are not allowed")
        if declared.isdecimal() and int(declared) > MAX_PICTURE_BYTES + MAX_FORM_BYTES:
            return too_large()
        if "=http:" in scope["path"] or "=https:" in scope["path"]:  # Gradio would fetch it
            return HTTPException(403, "requests to other hosts are not allowed")
        if scope["method"] == "GET" and self._gets >= MAX_PAGES:
            return HTTPException(503, "too many pages are open: try again", {"Retry-After": "9"})
        return None


async def read_body(request: Request) -> bytes:
    """A request's body. HTTPException 413 if it is too large, and what `Arrivals` raises."""
    body = await request.body()
    if len(body) > MAX_PICTURE_BYTES:
        raise too_large()
    return body


@contextmanager
def acquire(slots: anyio.Semaphore) -> Iterator[None]:
    """Holds one of the slots for waiting pictures. HTTPException 503 if all are taken."""
    try:
        slots.acquire_nowait()
    except anyio.WouldBlock:
        raise busy() from None
    try:
        yield
    finally:
        slots.release()


async def as_json_error(_: Request, error: Exception) -> Response:
    """A refusal as a JSON object with the key `error`."""
    assert isinstance(error, HTTPException)
    content = json.dumps({"error": error.detail}) + "\n"
    return Response(content, error.status_code, error.headers, "application/json")


async def not_understood(request: Request, _: Exception) -> Response:
    """The answer to a request on which Gradio fails: one with a field that no page sends."""
    return await as_json_error(request, HTTPException(400, NOT_UNDERSTOOD))


def log_failure(what: str, error: Exception) -> None:
    """Logs an error in Gradio in one line. Those who leave early are no error."""
    if not isinstance(error, ClientDisconnect):
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        _LOG.warning("%s", printable(f"{what} failed ({reason[:200]})"))
