"""Admission control: an HTTP process refuses what is too much, and clocks what it lets in."""

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import litserve
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from harness.process.groups import die_with_parent
from harness.serving.counters import Counters, HttpCounter

START_HEADER = b"x-request-start"  # "t=" and when the client sent the request, seconds of Unix time
PLAIN = b"identity"  # the Content-Encoding that leaves a body as it is
OLDEST_S = 3600  # a start longer ago, or in the future, is that of another machine's clock

request_times: ContextVar["RequestTimes | None"] = ContextVar("request_times", default=None)


class RequestTimes:
    """When a request was sent, or else arrived, and when it entered LitServe's queue.

    Only one that is `answered` to its end is added to the totals, not that of a client who left,
    which ends before its worker is done.

    Args:
        since_start_s: seconds since the client has sent it.
        clock: monotonic seconds.
    """

    __slots__ = ("answered", "clock", "queued", "sent")

    def __init__(self, since_start_s: float, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.sent = clock() - since_start_s
        self.queued = 0.0
        self.answered = False

    def enter_queue(self) -> None:
        """Call it when the request is put into LitServe's queue."""
        self.queued = self.clock()

    def add_to(self, counter: HttpCounter) -> None:
        """Add the request, now at its end, to the totals, if it was answered."""
        if self.answered:
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
    """Notes when LitServe puts a request into its queue: it calls callbacks in the line before.

    What is in that queue is served and answered to its end, whether or not the client is there.
    """

    def on_request(self, *_: Any, **__: Any) -> None:
        times = request_times.get()
        if times is not None:
            times.enter_queue()
            times.answered = True


class AdmissionControl:
    """ASGI middleware: 503 with Retry-After once `limit` requests are inside this HTTP process, 415
    for a body with a Content-Encoding, and the times of those let in.

    Only what is POSTed counts: /health, /info and /stats answer under overload too, HEAD included.

    Args:
        refusal: words an error (harness.serving.served_api).
        clock, unix_clock: seconds; tests bring their own.
    """

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        counters: Counters,
        refusal: Callable[..., JSONResponse],
        clock: Callable[[], float] = time.monotonic,
        unix_clock: Callable[[], float] = time.time,
    ) -> None:
        self.app, self.limit, self.counters, self.refusal = app, limit, counters, refusal
        self.clock, self.unix_clock = clock, unix_clock
        self.concurrency = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            die_with_parent()
            self.counter = HttpCounter(self.counters, int(os.environ["LITSERVE_WORKER_ID"]))
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(head_as_get(scope), receive, send)
        else:
            await (self.refused(scope) or self.let_in)(scope, receive, send)

    def refused(self, scope: Scope) -> JSONResponse | None:
        """The answer to a request that is not let in, whose body is then never read."""
        encoding = dict(scope["headers"]).get(b"content-encoding", PLAIN)
        if encoding.lower() != PLAIN:
            reason = f"Content-Encoding {encoding[:20].decode('latin-1')!r} cannot be read"
            headers = {"Accept-Encoding": PLAIN.decode()}
            return self.refusal(415, f"{reason}; send the body without one", headers)
        if self.concurrency >= self.limit:
            reason = "the server is at its limit; try again"
            return self.refusal(503, reason, {"Retry-After": "1"})
        return None

    async def let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, and add its times to the totals."""
        self.concurrency += 1
        times = RequestTimes(since_start(scope, self.unix_clock()), self.clock)
        request_times.set(times)
        try:
            await self.app(scope, receive, send)
        finally:
            self.concurrency -= 1
            times.add_to(self.counter)
