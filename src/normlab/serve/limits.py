"""What no request may do, whichever of the server's routes it asks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import HTTPException, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 10 * 1024 * 1024  # bytes of a picture
FORM = 64 * 1024  # bytes that a form may add to it
PATIENCE = 60  # seconds for a picture to come
AT_ONCE = 2  # pictures: one of the most pixels takes a gigabyte
WAITING = 32  # then further ones are turned away
# The browser asks this server alone, whatever Gradio's scripts, or a model's card, may name.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)


class Guard:
    """Around every route, Gradio's too: no body is too long, and no other host is asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        left = LARGEST + FORM

        async def receive_counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise too_large()
            return message

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = POLICY
            await send(message)

        declared = Headers(scope=scope).get("content-length", "0")
        refused = None
        if declared.isdecimal() and int(declared) > left:
            refused = too_large()
        elif "=http:" in scope["path"] or "=https:" in scope["path"]:  # Gradio would fetch it
            refused = HTTPException(403, "no other host is asked")
        if refused is None:
            await self.app(scope, receive_counted, send_with_policy)
        else:
            response = await as_json_error(Request(scope), refused)
            await response(scope, receive, send)


async def body(request: Request) -> bytes:
    """What a request brings, if it is no more than a picture and comes in time."""
    whole = bytearray()
    try:
        with anyio.fail_after(PATIENCE):
            async for part in request.stream():
                whole += part
    except TimeoutError:
        raise HTTPException(408, f"the picture did not come within {PATIENCE} seconds") from None
    if len(whole) > LARGEST:
        raise too_large()
    return bytes(whole)


@contextmanager
def one_of(places: anyio.Semaphore) -> Iterator[None]:
    """One of the places for those who wait; 503 where all are taken."""
    try:
        places.acquire_nowait()
    except anyio.WouldBlock:
        raise HTTPException(503, "too many pictures: try again", {"Retry-After": "1"}) from None
    try:
        yield
    finally:
        places.release()


def too_large() -> HTTPException:
    """The answer to more bytes than a picture may have."""
    return HTTPException(413, f"a picture may have {LARGEST // 1024**2} MB")


async def as_json_error(_: Request, error: Exception) -> Response:
    """A refusal as an object with `error`."""
    assert isinstance(error, HTTPException)
    content = json.dumps({"error": error.detail}) + "\n"
    return Response(content, error.status_code, error.headers, "application/json")
