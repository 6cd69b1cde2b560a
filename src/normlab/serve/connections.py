"""Limits on connections: their number, and how long each may wait for its client."""

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 128
HEADER_SECONDS = 10  # for a request's headers
READ_SECONDS = 60  # for a client that does not read what it is sent
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


class LimitedConnection(H11Protocol):
    """A connection that is closed where its client keeps the server waiting.

    When there are `MAX_CONNECTIONS`, a new one takes the place of that which has waited longest for
    its client to send a whole request. If none waits, the new one gets status 503.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.waiting_since = self.loop.time()
        self._header_timer = _Timer(self.loop)
        self._reading_timer = _Timer(self.loop)

    @property
    def is_waiting(self) -> bool:
        """Whether it is the client's turn: to send a request, or the rest of one."""
        return self._awaits_headers or self.cycle.more_body

    @property
    def _awaits_headers(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts or refuses a connection."""
        if len(self.connections) >= MAX_CONNECTIONS and not self._make_place():
            transport.set_protocol(asyncio.Protocol())  # what the client sends is ignored
            transport.write(_FULL)
            transport.close()
            return
        super().connection_made(transport)
        self._set_timer()

    def _make_place(self) -> bool:
        """Closes the connection that has waited longest for its client, if one waits."""
        waiting = [
            connection
            for connection in self.connections
            if isinstance(connection, LimitedConnection) and connection.is_waiting
        ]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda connection: connection.waiting_since)
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def data_received(self, data: bytes) -> None:
        """Takes a part of a request."""
        super().data_received(data)
        self._set_timer()

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        super().on_response_complete()
        self.waiting_since = self.loop.time()
        self._set_timer()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        self._reading_timer.start(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._reading_timer.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._header_timer.cancel()
        self._reading_timer.cancel()
        super().connection_lost(exc)

    def _set_timer(self) -> None:
        """Gives the client until `HEADER_SECONDS` after the last response, however it sends."""
        if self._awaits_headers:
            self._header_timer.start(HEADER_SECONDS, self.transport.abort)
        else:
            self._header_timer.cancel()


class _Timer:
    """Calls a function once, unless it is cancelled before."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, seconds: float, function: Callable[[], None]) -> None:
        """Starts the timer. One that runs is left as it is."""
        if self._handle is None:
            self._handle = self._loop.call_later(seconds, function)

    def cancel(self) -> None:
        """Stops the timer, if it runs."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
