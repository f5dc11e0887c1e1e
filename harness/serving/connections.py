"""Connections that keep a server waiting: idle ones, slow senders, slow readers.

uvicorn waits for ever for a request that has begun, and for a client that does not read; its limit
on connections refuses whoever comes next. Here a request has to come within seconds, a client has
to read, and if all files are open the connection that has been idle for the longest is closed.
"""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi.responses import JSONResponse
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from harness.process.limits import FILES_BESIDE, open_files
from harness.serving.bounds import MAX_BODY_BYTES

PATIENCE_S = 15  # for a whole request or a client that does not read, and a second more
BYTES_PER_S = 100_000  # for so many bytes of it
HEAD_BYTES = 64 << 10  # of a request before its body; neither uvicorn nor httptools has a bound
# What a client would rather speak, as Java's does of HTTP/2: httptools drops the body behind it.
OFFER = re.compile(rb"\r\nupgrade:(?![ \t]*websocket)", re.IGNORECASE)
LEAVE = "harness.leave"  # in a request's scope: what to call if its client leaves
TICK_S = 1.0


class Connections:
    """The connections of one HTTP process; uvicorn takes it for the class of its protocol.

    Time is counted in ticks of the event loop: where the process stood still, nobody was late.

    Args:
        refusal: words an error (harness.serving.served_api).
        patience_s, most: tests bring their own; connections that may be open, by default as many
            as open files.

    Attributes:
        waiting: connections without a whole request inside, and since which tick.
        unread: connections whose client has to read before more can be written, likewise.
    """

    def __init__(
        self,
        refusal: Callable[..., JSONResponse],
        patience_s: float = PATIENCE_S,
        most: int | None = None,
    ) -> None:
        self.patience_s, self.most = patience_s, most or open_files() - FILES_BESIDE
        self.waiting: dict[BoundedProtocol, int] = {}
        self.unread: dict[BoundedProtocol, int] = {}
        self.tick, self.ticking = 0, False
        self.late = raw(refusal(408, "the request did not arrive in time"))
        self.long = raw(refusal(431, f"the headers are longer than {HEAD_BYTES} bytes"))

    def __call__(self, **options: Any) -> "BoundedProtocol":
        return BoundedProtocol(self, **options)

    def opened(self, connection: "BoundedProtocol") -> None:
        """Begin to wait for its request; make room for it if there is none."""
        self.waiting[connection] = self.tick
        if len(connection.connections) > self.most:
            idle = next(iter(self.waiting))  # the first of a dict has been in it for the longest
            del self.waiting[idle]
            idle.transport.abort()
        if not self.ticking:
            self.ticking = True
            connection.loop.call_later(TICK_S, self.tick_on, connection.connections)

    def closed(self, connection: "BoundedProtocol") -> None:
        self.waiting.pop(connection, None)
        self.unread.pop(connection, None)

    def tick_on(self, connections: set) -> None:
        """End what is late, and go on as long as there are connections."""
        self.tick += 1
        self.end_late()
        self.ticking = bool(connections)
        if self.ticking:
            asyncio.get_running_loop().call_later(TICK_S, self.tick_on, connections)

    def end_late(self) -> None:
        for connection, since in list(self.waiting.items()):
            if connection.flow.read_paused:  # it is we who do not read
                self.waiting[connection] = self.tick
            elif self.is_late(since, connection.received):
                connection.end(self.late)
        for connection, since in list(self.unread.items()):
            if self.is_late(since, connection.transport.get_write_buffer_size()):
                connection.transport.abort()

    def is_late(self, since: int, size: int) -> bool:
        return (self.tick - since) * TICK_S > self.patience_s + size / BYTES_PER_S


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which tells `bounds` when requests come and go.

    Attributes:
        received: bytes since the last request was whole.
    """

    def __init__(self, bounds: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.bounds, self.received = bounds, 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.bounds.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.bounds.closed(self)
        if self.cycle and not self.cycle.response_complete and LEAVE in self.cycle.scope:
            self.cycle.scope[LEAVE]()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            data = without_offer(data)
        self.received += len(data)
        super().data_received(data)
        if self.received > HEAD_BYTES:
            if self.in_head:
                self.end(self.bounds.long)
            elif self.received > 2 * MAX_BODY_BYTES and self.cycle.response_complete:
                self.transport.abort()  # a refused body is read to its end, but not for ever

    @property
    def in_head(self) -> bool:
        """Whether the next request's headers, or their first byte, are still to come."""
        return self.scope is None or "method" not in self.scope

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.send = without_chunks(self.cycle)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self.received = 0
        if not self.cycle.response_complete:  # not refused before it was whole
            self.bounds.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete or self.cycle.more_body:
            self.bounds.waiting[self] = self.bounds.tick

    def pause_writing(self) -> None:
        super().pause_writing()
        self.bounds.unread[self] = self.bounds.tick

    def resume_writing(self) -> None:
        super().resume_writing()
        self.bounds.unread.pop(self, None)

    def end(self, answer: bytes) -> None:
        """Close the connection, with that answer to a request that has begun and has none yet."""
        unanswered = self.in_head or not self.cycle.response_started
        if self.received and unanswered and not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()
        else:
            self.transport.abort()


def without_offer(data: bytes) -> bytes:
    """The beginning of a request, its offer to change the protocol renamed and so ignored (RFC
    9110, section 7.8).
    """
    offer = OFFER.search(data, 0, data.find(b"\r\n\r\n") + 2)
    if offer is None:
        return data
    return b"%b\r\nx-upgrade:%b" % (data[: offer.start()], data[offer.end() :])


def without_chunks(cycle: RequestResponseCycle) -> Callable[[dict[str, Any]], Awaitable[None]]:
    """Its `send`, for a client of HTTP/1.0, which knows no chunks (RFC 9112, section 6.1): an
    answer of unknown length ends with its connection.
    """
    send = cycle.send

    async def sent(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            if b"content-length" not in dict(message.get("headers", ())):
                cycle.chunked_encoding, cycle.expected_content_length = False, math.inf
        elif cycle.expected_content_length == math.inf and not message.get("more_body"):
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    return sent


def raw(response: JSONResponse) -> bytes:
    """The bytes of an answer that closes its connection."""
    headers = [*response.raw_headers, (b"connection", b"close")]
    lines = [f"HTTP/1.1 {response.status_code} ".encode()]
    lines += [name + b": " + value for name, value in headers]
    return b"\r\n".join([*lines, b"", response.body])
