"""Switched: the MNIST baseline whose clocks can be taken out of the requests' way while it runs.

The file that SWITCH in the environment names holds one byte: 1, and requests are measured as in
every server; 0, and they are served all the same, but not measured.
"""

import mmap
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.types import Receive, Scope, Send

from harness.serving.admission import AdmissionControl
from harness.serving.instrumentation import ArrivalQueue, InstrumentedAPI, http_error
from harness.serving.serve import serve
from mnist_model_benchmarking.server_baseline import BaselineAPI


def switch() -> mmap.mmap:
    """The byte, shared with whoever turns it."""
    with Path(os.environ["SWITCH"]).open("r+b") as file:
        return mmap.mmap(file.fileno(), 1)


class Unclocked:
    """What a request meets with the clocks out: it is kept apart from its neighbours, and counted
    as inside, all the same.
    """

    def noted(self: ArrivalQueue, item: tuple) -> tuple:
        return item

    def decode_request(self: InstrumentedAPI, request: dict) -> Any:
        try:
            return self.api.decode_request(request)
        except Exception as error:
            return http_error(error)

    def predict(self: InstrumentedAPI, item: Any) -> Any:
        return item if isinstance(item, HTTPException) else self.api.predict(item)

    def encode_response(self: InstrumentedAPI, output: Any) -> Any:
        is_error = isinstance(output, HTTPException)
        return self.refused(output) if is_error else self.api.encode_response(output)

    async def let_in(self: AdmissionControl, scope: Scope, receive: Receive, send: Send) -> None:
        self.concurrency += 1
        try:
            await self.app(scope, receive, send)  # without its RequestTimes, QueueClock is idle
        finally:
            self.concurrency -= 1


def take_out() -> None:
    """Let this process take its clocks out whenever the byte is 0; a request has them to its end or
    not at all.
    """
    byte, taken = switch(), [1]

    def turned() -> int:
        taken[0] = byte[0]
        return taken[0]

    def switched(owner: type, name: str, is_on: Callable[[], int]) -> None:
        clocked, unclocked = getattr(owner, name), vars(Unclocked)[name]

        @wraps(clocked)  # LitServe looks at signatures
        def either(self: Any, *rest: Any) -> Any:
            return (clocked if is_on() else unclocked)(self, *rest)

        setattr(owner, name, either)

    switched(AdmissionControl, "let_in", turned)
    switched(ArrivalQueue, "noted", turned)
    for name in ("decode_request", "predict", "encode_response"):
        switched(InstrumentedAPI, name, lambda: taken[0])


class SwitchedAPI(BaselineAPI):
    """The baseline."""

    def setup(self, device: str) -> None:
        take_out()
        super().setup(device)


if __name__ == "__main__":
    take_out()  # for the HTTP process, which is forked from this one
    serve(SwitchedAPI())
