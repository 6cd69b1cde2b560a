"""Limits on requests: their size, their time, their number, and the hosts they may name."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import HTTPException, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_PICTURE_BYTES = 10 * 1024 * 1024
MAX_FORM_BYTES = 64 * 1024  # what a form may add to a picture
UPLOAD_TIMEOUT = 60  # seconds
MAX_CONCURRENT = 2  # pictures: the largest allowed takes a gigabyte of memory
MAX_WAITING = 32  # pictures; further ones are refused
# The browser sends requests to this server only, whatever Gradio's scripts or a model card name.
CONTENT_SECURITY_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)


class RequestGuard:
    """Middleware for all routes, Gradio's too: refuses large bodies and requests to other hosts."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        bytes_left = MAX_PICTURE_BYTES + MAX_FORM_BYTES

        async def receive_limited() -> Message:
            nonlocal bytes_left
            message = await receive()
            bytes_left -= len(message.get("body", b""))
            if bytes_left < 0:
                raise too_large()
            return message

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
            await send(message)

        declared = Headers(scope=scope).get("content-length", "0")
        refusal = None
        if declared.isdecimal() and int(declared) > bytes_left:
            refusal = too_large()
        elif "=http:" in scope["path"] or "=https:" in scope["path"]:  # Gradio would fetch it
            refusal = HTTPException(403, "requests to other hosts are not allowed")
        if refusal is None:
            await self.app(scope, receive_limited, send_with_policy)
        else:
            response = await as_json_error(Request(scope), refusal)
            await response(scope, receive, send)


async def read_body(request: Request) -> bytes:
    """A request's body. HTTPException: 408 if it does not arrive in time, 413 if too large."""
    body = bytearray()
    try:
        with anyio.fail_after(UPLOAD_TIMEOUT):
            async for part in request.stream():
                body += part
    except TimeoutError:
        raise HTTPException(
            408, f"the picture did not arrive within {UPLOAD_TIMEOUT} seconds"
        ) from None
    if len(body) > MAX_PICTURE_BYTES:
        raise too_large()
    return bytes(body)


@contextmanager
def acquire(slots: anyio.Semaphore) -> Iterator[None]:
    """Holds one of the slots for waiting requests. HTTPException 503 if all are taken."""
    try:
        slots.acquire_nowait()
    except anyio.WouldBlock:
        raise HTTPException(503, "too many pictures: try again", {"Retry-After": "1"}) from None
    try:
        yield
    finally:
        slots.release()


def too_large() -> HTTPException:
    """The refusal of a body that is too large."""
    return HTTPException(413, f"a picture may have {MAX_PICTURE_BYTES // 1024**2} MB at most")


async def as_json_error(_: Request, error: Exception) -> Response:
    """A refusal as a JSON object with the key `error`."""
    assert isinstance(error, HTTPException)
    content = json.dumps({"error": error.detail}) + "\n"
    return Response(content, error.status_code, error.headers, "application/json")
