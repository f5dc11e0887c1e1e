"""Admission control: an HTTP process refuses what is too much, and clocks what it lets in."""

import asyncio
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import litserve
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from harness.process.groups import die_with_parent
from harness.serving.abandoned import CLIENT_LEFT, Abandoned
from harness.serving.bounds import Bounds
from harness.serving.connections import LEAVE
from harness.serving.counters import Counters, HttpCounter

START_HEADER = b"x-request-start"  # "t=" and when the client sent the request, seconds of Unix time
PLAIN = b"identity"  # the Content-Encoding that leaves a body as it is
REFUSALS_PER_S, LONGEST_REFUSAL_S = 500, 2.0
OLDEST_S = 3600  # a start longer ago, or in the future, is that of another machine's clock

NOT_SERVED = 504, CLIENT_LEFT  # the answers in place of a worker's own

request_times: ContextVar["RequestTimes | None"] = ContextVar("request_times", default=None)


class RequestTimes:
    """When a request was sent, or else arrived, and when it entered LitServe's queue; and whether
    its client has left.

    Only one that is `answered` by a worker is added to the totals, for only those are in the
    workers' own: not one that waited for too long, or that was passed over; nor one whose answer is
    still `partial`: a stream that its client cut off has no time of its own.

    Args:
        since_start_s: seconds since the client has sent it.
        clock: monotonic seconds.
        abandoned: where it is noted that its client has left.
    """

    __slots__ = ("abandoned", "answered", "clock", "left", "partial", "queued", "sent", "uid")

    def __init__(
        self, since_start_s: float, clock: Callable[[], float], abandoned: Abandoned
    ) -> None:
        self.clock, self.abandoned = clock, abandoned
        self.sent = clock() - since_start_s
        self.queued = 0.0
        self.answered = self.left = self.partial = False
        self.uid: Any = None

    def leave(self) -> None:
        """Call it when its client has left."""
        self.left = True
        if self.uid is not None:
            self.abandoned.add(self.uid)

    def take(self, uid: Any) -> None:
        """Call it when the request has got its name in LitServe's queue."""
        self.uid = uid
        if self.left:
            self.abandoned.add(uid)

    def enter_queue(self) -> None:
        """Call it when the request is put into LitServe's queue."""
        self.queued = self.clock()

    def add_to(self, counter: HttpCounter) -> None:
        """Add the request, now at its end, to the totals, if it was answered to the last part."""
        if self.answered and not self.partial:
            counter.request_done(self.queued - self.sent, self.clock() - self.queued)


def since_start(scope: Scope, now: float) -> float:
    """Seconds from the client's sending to `now`, Unix time; 0 if it does not say when it sent."""
    for name, value in reversed(scope["headers"]):  # our own client sends it last
        if name == START_HEADER:
            try:
                ago_s = now - float(value.removeprefix(b"t="))
            except ValueError:
                return 0.0
            return ago_s if 0 <= ago_s < OLDEST_S else 0.0
    return 0.0


def head_as_get(scope: Scope) -> Scope:
    """FastAPI has no route for HEAD; uvicorn, which keeps its own scope, leaves out the body."""
    return scope | {"method": "GET"} if scope.get("method") == "HEAD" else scope


class QueueClock(litserve.Callback):
    """Notes when LitServe puts a request into its queue: it calls callbacks in the line before."""

    def on_request(self, *_: Any, **__: Any) -> None:
        times = request_times.get()
        if times is not None:
            times.enter_queue()
            times.answered = True  # unless it turns out to be NOT_SERVED


class ResponseBuffer(dict):
    """LitServe's buffer of answers by the names of their requests, which tells each request its
    name.
    """

    def __setitem__(self, uid: Any, item: Any) -> None:
        times = request_times.get()
        if times is not None:
            times.take(uid)
        super().__setitem__(uid, item)


class AdmissionControl:
    """ASGI middleware: lets a request in once its body is here and clocks it from then on, or
    refuses it: 503 with Retry-After for what is beyond the bounds, 413 for a body too long, 415 for
    one with a Content-Encoding.

    Only what is POSTed counts: /health, /info and /stats answer under overload too, HEAD included.

    Args:
        refusal: words an error (harness.serving.served_api).
        bounds: of what is inside; None to refuse nothing, and leave bodies to the application.
        clock, unix_clock: seconds; tests bring their own.

    Attributes:
        concurrency: requests inside this HTTP process.
        bytes_inside: of their bodies, and of those that are still arriving.
    """

    def __init__(
        self,
        app: ASGIApp,
        counters: Counters,
        refusal: Callable[..., JSONResponse],
        bounds: Bounds | None = None,
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.app, self.counters, self.refusal, self.bounds = app, counters, refusal, bounds
        self.clock, self.unix_clock = clock, unix_clock
        self.concurrency = self.bytes_inside = 0
        busy = "the server is at its limit; try again"
        self.overloaded, self.next_refusal = refusal(503, busy, {"Retry-After": "1"}), 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            die_with_parent()
            self.counter = HttpCounter(self.counters, int(os.environ["LITSERVE_WORKER_ID"]))
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(head_as_get(scope), receive, send)
        elif self.bounds is None:
            await self.let_in(scope, receive, send)
        else:
            await (self.refused(scope) or self.read)(scope, receive, send)

    def refused(self, scope: Scope) -> ASGIApp | None:
        """The answer to a request that is not let in, whose body is then never read."""
        headers = dict(scope["headers"])
        encoding = headers.get(b"content-encoding", PLAIN)
        if encoding.lower() != PLAIN:
            reason = f"Content-Encoding {encoding[:20].decode('latin-1')!r} cannot be read"
            accepted = {"Accept-Encoding": PLAIN.decode()}
            return self.refusal(415, f"{reason}; send the body without one", accepted)
        if int(headers.get(b"content-length", 0)) > self.bounds.max_body_bytes:
            return self.too_long()
        return self.overload if self.bounds.is_full(self.concurrency) else None

    def too_long(self) -> JSONResponse:
        return self.refusal(413, f"the body is longer than {self.bounds.max_body_bytes} bytes")

    async def overload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, but no faster than REFUSALS_PER_S while a client waits for LONGEST_REFUSAL_S at
        most: LitServe takes one answer of a worker per round of the event loop, and a round that is
        full of refusals lets nothing through.
        """
        now = self.clock()
        in_turn = max(now, self.next_refusal + 1 / REFUSALS_PER_S)
        self.next_refusal = min(in_turn, now + LONGEST_REFUSAL_S)
        await asyncio.sleep(self.next_refusal - now)
        await self.overloaded(scope, receive, send)

    def refused_size(self, size: int) -> ASGIApp | None:
        """The answer to a request whose body, as far as it is here, is too much."""
        if size > self.bounds.max_body_bytes:
            return self.too_long()
        too_many = self.bounds.are_too_many(self.bytes_inside, size)
        return self.overload if too_many else None

    async def read(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, whose bytes count from their arrival on, and let the request in.

        While it arrives the request counts as bytes only: a slow one keeps nobody out.
        """
        pieces, size, more, refused = [], 0, True, None
        try:
            while more and not refused:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                piece, more = message.get("body", b""), message.get("more_body", False)
                pieces.append(piece)
                size += len(piece)
                self.bytes_inside += len(piece)
                refused = self.refused_size(size)
            if not refused and self.bounds.is_full(self.concurrency):
                refused = self.overload
            if refused:
                pieces.clear()
                self.bytes_inside, size = self.bytes_inside - size, 0
                await refused(scope, receive, send)
            else:
                body = first_received(b"".join(pieces), receive)
                pieces.clear()
                await self.let_in(scope, body, send)
        finally:
            self.bytes_inside -= size

    async def let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and add its times to the totals."""
        self.concurrency += 1
        since_start_s = since_start(scope, self.unix_clock())
        times = RequestTimes(since_start_s, self.clock, self.counters.abandoned)
        scope[LEAVE] = times.leave
        request_times.set(times)

        async def noting(message: Message) -> None:
            if message.get("status") in NOT_SERVED:
                times.answered = False
            is_body = message["type"] == "http.response.body"
            times.partial = not is_body or message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            self.concurrency -= 1
            times.add_to(self.counter)


def first_received(body: bytes, receive: Receive) -> Receive:
    """`receive`, which gives that body first."""
    message: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def again() -> Message:
        nonlocal message
        if message is None:
            return await receive()
        whole, message = message, None
        return whole

    return again
