"""Limits on what is arriving: the time of each request's body, and the bytes of all together."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio
from fastapi import HTTPException
from starlette.types import Message, Receive

MAX_PICTURE_BYTES = 10 * 1024**2
MAX_FORM_BYTES = 64 * 1024  # what a form may add to a picture
MAX_ARRIVING_BYTES = 128 * 1024**2  # of all requests that are not answered yet
UPLOAD_TIMEOUT = 60  # seconds


class Arrivals:
    """The bodies of the requests that are not answered yet, oldest first."""

    def __init__(self) -> None:
        self._all: list[_Arrival] = []

    @contextmanager
    def limited(self, receive: Receive) -> Iterator[Receive]:
        """Limits a request's body while the request is answered.

        The function it yields raises HTTPException: 413 for a body that is too large, 408 for one
        that takes too long, 503 for one that has to make room for a newer one.
        """
        arrival = _Arrival(receive, self)
        self._all.append(arrival)
        try:
            yield arrival.receive
        finally:
            self._all.remove(arrival)

    def make_room(self) -> None:
        """Drops the oldest incomplete bodies where all together have too many bytes.

        The newest are kept: those who stall cannot keep others from sending.
        """
        current = [arrival for arrival in self._all if not arrival.dropped]
        excess = sum(arrival.bytes for arrival in current) - MAX_ARRIVING_BYTES
        for arrival in current:
            if excess > 0 and not arrival.complete:
                excess -= arrival.bytes
                arrival.drop()


class _Arrival:
    """A request's body."""

    def __init__(self, receive: Receive, arrivals: Arrivals) -> None:
        self.bytes = 0
        self.complete = self.dropped = False
        self._receive = receive
        self._arrivals = arrivals
        self._deadline = anyio.current_time() + UPLOAD_TIMEOUT
        self._waiting = anyio.CancelScope()

    def drop(self) -> None:
        """Has `receive` raise an error, at once if it waits."""
        self.dropped = True
        self._waiting.cancel()

    async def receive(self) -> Message:
        """The next part of the body."""
        if self.complete:  # then it tells when the client leaves
            return await self._receive()
        message: Message | None = None
        if not self.dropped:
            with anyio.CancelScope(deadline=self._deadline) as self._waiting:
                message = await self._receive()
        if message is not None:
            self.bytes += len(message.get("body", b""))
            self.complete = not message.get("more_body", False)
            if self.bytes > MAX_PICTURE_BYTES + MAX_FORM_BYTES:
                raise too_large()
            self._arrivals.make_room()
        if self.dropped:
            raise busy()
        if message is None:
            raise HTTPException(408, f"the picture did not arrive within {UPLOAD_TIMEOUT} seconds")
        return message


def too_large() -> HTTPException:
    """The refusal of a body that is too large."""
    return HTTPException(413, f"a picture may have {MAX_PICTURE_BYTES // 1024**2} MB at most")


def busy() -> HTTPException:
    """The refusal of a request for which there is no place."""
    return HTTPException(503, "too many pictures: try again", {"Retry-After": "1"})
