"""The door of an HTTP process: refuses what is too much, and clocks the way of the others to the queue and back."""

import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import litserve
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from harness.serving.counters import Counters
from harness.process.groups import die_with_parent

START_HEADER = b"x-request-start"  # "t=" and when the client sent the request, seconds of Unix time
OLDEST_S = 3600  # a start longer ago, or in the future, is that of another machine's clock

passage: ContextVar["Passage | None"] = ContextVar("passage", default=None)


class Passage:
    """One request's moments in an HTTP process, monotonic seconds: sent or else arrived, and put into the queue.

    Only a `whole` one is added to the totals: not that of a client who left, which ends before its worker is done.
    """

    __slots__ = ("began", "queued", "whole")

    def __init__(self, scope: Scope) -> None:
        self.began = time.monotonic() - since_start(scope)
        self.queued = 0.0
        self.whole = False


def since_start(scope: Scope) -> float:
    """Seconds since the client sent the request; 0 if it does not say."""
    for name, value in reversed(scope["headers"]):  # our own client sends it last
        if name == START_HEADER:
            try:
                ago = time.time() - float(value.removeprefix(b"t="))
            except ValueError:
                return 0.0
            return ago if 0 <= ago < OLDEST_S else 0.0
    return 0.0


class QueueClock(litserve.Callback):
    """Notes when LitServe puts a request into its queue: it tells callbacks in the line before.

    What is in that queue is served and answered to its end, whether or not the client is still there.
    """

    def on_request(self, *_: Any, **__: Any) -> None:
        here = passage.get()
        if here is not None:
            here.queued, here.whole = time.monotonic(), True


class Gate:
    """ASGI middleware: 503 with Retry-After once `limit` requests are inside this HTTP process, and the clocks.

    Only what is POSTed counts: /health, /info and /stats answer under overload too.
    """

    def __init__(self, app: ASGIApp, limit: int, counters: Counters, refusal: Callable[..., JSONResponse]) -> None:
        self.app, self.limit, self.counters, self.refusal = app, limit, counters, refusal
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            die_with_parent()
            self.door = self.counters.door(int(os.environ["LITSERVE_WORKER_ID"]))
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
        elif self.in_flight >= self.limit:
            busy = self.refusal(503, "the server is at its limit; try again", {"Retry-After": "1"})
            await busy(scope, receive, send)
        else:
            self.in_flight += 1
            here = Passage(scope)
            passage.set(here)
            try:
                await self.app(scope, receive, send)
            finally:
                self.in_flight -= 1
                if here.whole:
                    self.door.passed(here.queued - here.began, time.monotonic() - here.queued)
