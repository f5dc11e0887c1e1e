"""One connection of the load generator: one request at a time, its answer kept for later."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import httptools

from harness.load.job import CONNECTION_ERROR, HTTP_ERROR, OK

JSON = "application/json"


class Answer(NamedTuple):
    """How one request ended.

    Attributes:
        ended, intended, sent: moments, seconds on the owner's clock.
        outcome, status: one of OUTCOMES; the HTTP status, 0 without one.
        index: of the request's body.
        body: of the answer.
        arrivals: (bytes so far, moment) of each part of the body, if it streams.
    """

    ended: float
    intended: float
    sent: float
    outcome: str
    status: int = 0
    index: int = 0
    body: bytes = b""
    arrivals: Sequence[tuple[int, float]] = ()


class Owner(Protocol):
    """What a connection needs of the loop it works for.

    Attributes:
        wire: the requests, as `wire_format` makes them.
        clock: the moment it is, seconds.
        unix_s: what turns such a moment into Unix time.
    """

    wire: list[tuple[bytes, bytes]]
    clock: Callable[[], float]
    unix_s: float

    def ended(self, answer: Answer) -> None:
        """A request has ended."""

    def progressed(self, now: float) -> None:
        """A part of a streaming answer has arrived."""

    def ready(self, connection: "Connection", now: float) -> None:
        """The connection can carry a request."""

    def lost(self, connection: "Connection") -> None:
        """The connection is gone."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request at a time.

    Every line between an answer and the next request is paid for by the server, which shares the
    machine: answers are only kept here, and checked after the window (harness.load.runner).
    """

    def __init__(self, owner: Owner) -> None:
        self.owner, self.clock = owner, owner.clock
        self.transport: asyncio.Transport | None = None
        self.index: int | None = None  # of the request that waits for its answer
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
        head, body = self.owner.wire[index]
        due = intended + self.owner.unix_s
        self.transport.writelines((b"%bX-Request-Start: t=%.6f\r\n\r\n" % (head, due), body))

    def data_received(self, data: bytes) -> None:
        if self.index is None:
            self.transport.abort()  # nobody asked: what follows here could not be told apart
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
        self.keep_alive = self.parser.should_keep_alive()  # the parser forgets it afterwards

    def answered(self) -> None:
        """A complete answer is there: keep it; use the connection again if the server allows."""
        now = self.clock()
        status = self.parser.get_status_code()
        outcome = OK if status == 200 else HTTP_ERROR
        body = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        answer = Answer(
            now, self.intended, self.sent, outcome, status, self.index, body, self.arrivals()
        )
        self.parts.clear()
        self.index, self.complete = None, False
        self.owner.ended(answer)
        if not self.keep_alive:
            self.transport.abort()
        elif self.transport is not None:
            self.owner.ready(self, now)

    def arrivals(self) -> Sequence[tuple[int, float]]:
        """When the parts of the answer arrived; not kept where nobody asks."""
        return ()

    def fail(self, outcome: str) -> None:
        """Report the request that waits, if there is one, as failed; give the connection up."""
        if self.index is not None:
            answer = Answer(self.clock(), self.intended, self.sent, outcome, index=self.index)
            self.index = None
            self.owner.ended(answer)
        if self.transport:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.fail(CONNECTION_ERROR)
        self.owner.lost(self)


class StreamConnection(Connection):
    """A connection that also notes when each part of an answer arrived."""

    def __init__(self, owner: Owner) -> None:
        super().__init__(owner)
        self.received: list[tuple[int, float]] = []

    def send(self, index: int, intended: float, sent: float) -> None:
        self.size, self.received = 0, []
        super().send(index, intended, sent)

    def on_body(self, part: bytes) -> None:  # called by the parser
        now = self.clock()
        self.parts.append(part)
        self.size += len(part)
        self.received.append((self.size, now))
        self.owner.progressed(now)

    def arrivals(self) -> Sequence[tuple[int, float]]:
        return self.received

    def unfinished(self) -> Answer | None:
        """What has arrived so far of an answer that is not complete."""
        if self.index is None or not self.parts:
            return None
        body = b"".join(self.parts)
        return Answer(
            self.clock(), self.intended, self.sent, OK, 200, self.index, body, self.received
        )


def wire_format(
    url: str, body: bytes, headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[bytes, bytes]:
    """One POST request: its head, open for one more header, and the body, which is JSON unless the
    headers say what else.
    """
    target = urlsplit(url)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    needed = {"Host": target.netloc, "Content-Type": JSON, "Content-Length": str(len(body))}
    given = {name.lower() for name in headers}
    sent = {name: value for name, value in needed.items() if name.lower() not in given} | headers
    head = f"POST {path} HTTP/1.1\r\n" + "".join(f"{name}: {sent[name]}\r\n" for name in sent)
    return head.encode(), body
