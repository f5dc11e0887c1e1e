"""The load generator's connection: one request in flight, an answer kept and not looked at until the load is over."""

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httptools

from harness.load.job import CONNECTION_ERROR, HTTP_ERROR, OK

if TYPE_CHECKING:
    from harness.load.loops import Run


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight.

    Every line between an answer and the next request is paid for by the server, which shares the machine: answers are
    only kept here, and judged after the window (Run.judged).
    """

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.index: int | None = None  # of the request in flight
        self.complete = False
        self.parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, part: bytes) -> None:  # called by the parser
        self.parts.append(part)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, index: int, intended: float, sent: float) -> None:
        """Send the request `index`, which was due at `intended`."""
        self.index, self.intended, self.sent = index, intended, sent
        head, rest = self.run.wire[index]
        self.transport.writelines((b"%bX-Request-Start: t=%.6f\r\n\r\n" % (head, intended + self.run.unix_s), rest))

    def data_received(self, data: bytes) -> None:
        if self.index is None:
            self.transport.abort()  # nobody asked: what follows on this connection could not be told apart
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.fail(CONNECTION_ERROR)
            return
        if self.complete:
            self.answered()

    def on_message_complete(self) -> None:  # called by the parser
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # known only here: the parser forgets it afterwards

    def answered(self) -> None:
        """A complete answer is there: keep it, and use the connection again if the server allows."""
        now = time.monotonic()
        status = self.parser.get_status_code()
        answer = Answer(now, self.intended, self.sent, OK if status == 200 else HTTP_ERROR, status, self.index,
                        self.parts[0] if len(self.parts) == 1 else b"".join(self.parts), self.arrivals())  # fmt: skip
        self.parts.clear()
        self.index, self.complete = None, False
        self.run.ended(answer)
        if not self.keep_alive:
            self.transport.abort()
        elif self.transport is not None:
            self.run.ready(self, now)

    def arrivals(self) -> list[tuple[int, float]]:
        """When the parts of the answer arrived; not kept where nobody asks."""
        return []

    def fail(self, outcome: str) -> None:
        """Report the request in flight, if there is one, as failed, and give the connection up."""
        if self.index is not None:
            self.run.ended(Answer(time.monotonic(), self.intended, self.sent, outcome, 0, self.index, b"", []))
            self.index = None
        if self.transport:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.fail(CONNECTION_ERROR)
        self.run.lost(self)


class StreamConnection(Connection):
    """A connection that also notes when each part of an answer arrived."""

    def __init__(self, run: "Run") -> None:
        super().__init__(run)
        self.received: list[tuple[int, float]] = []

    def send(self, index: int, intended: float, sent: float) -> None:
        self.size, self.received = 0, []
        super().send(index, intended, sent)

    def on_body(self, part: bytes) -> None:  # called by the parser
        self.parts.append(part)
        self.size += len(part)
        self.received.append((self.size, time.monotonic()))

    def arrivals(self) -> list[tuple[int, float]]:
        return self.received


class Answer(NamedTuple):
    """How one request ended.

    Attributes:
        ended, intended, sent: moments, monotonic seconds.
        outcome, status: one of OUTCOMES; the HTTP status, 0 without one.
        index: of the request.
        body: of the answer.
        arrivals: (bytes so far, moment) of each part of the body, if it streams.
    """

    ended: float
    intended: float
    sent: float
    outcome: str
    status: int
    index: int
    body: bytes
    arrivals: list[tuple[int, float]]


def wire_format(url: str, body: bytes) -> tuple[bytes, bytes]:
    """One POST request with a JSON body: its head, open for one more header, and the body."""
    target = urlsplit(url)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n"
    )
    return head.encode(), body
