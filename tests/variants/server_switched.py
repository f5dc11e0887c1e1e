"""Switched: the MNIST baseline whose clocks can be taken out of every request's way while it runs.

The file that SWITCH in the environment names holds one byte: 1, and requests are measured as in every server; 0, and
they are served all the same, but not measured.
"""

import mmap
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from starlette.types import Receive, Scope, Send

from harness.serving.admission import Gate
from harness.serving.instrumentation import ArrivalQueue, MeasuredAPI, http_error
from harness.serving.serve import serve
from mnist_model_benchmarking.server_baseline import BaselineAPI


def switch() -> mmap.mmap:
    """The byte, shared with whoever turns it."""
    with Path(os.environ["SWITCH"]).open("r+b") as file:
        return mmap.mmap(file.fileno(), 1)


class Unclocked:
    """What a request meets with the clocks out: it is still kept apart from its neighbours, and counted as inside."""

    def noted(self: ArrivalQueue, item: tuple) -> tuple:
        return item

    def decode_request(self: MeasuredAPI, request: dict) -> Any:
        try:
            return self.api.decode_request(request)
        except Exception as error:
            return http_error(error)

    def predict(self: MeasuredAPI, item: Any) -> Any:
        return item if isinstance(item, HTTPException) else self.api.predict(item)

    def encode_response(self: MeasuredAPI, output: Any) -> Any:
        return self.refused(output) if isinstance(output, HTTPException) else self.api.encode_response(output)

    async def __call__(self: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)  # without a passage, QueueClock is idle
        finally:
            self.in_flight -= 1


def take_out() -> None:
    """Let this process take its clocks out whenever the byte is 0; a request has them to its end or not at all."""
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

    switched(Gate, "__call__", turned)
    switched(ArrivalQueue, "noted", turned)
    for name in ("decode_request", "predict", "encode_response"):
        switched(MeasuredAPI, name, lambda: taken[0])


class SwitchedAPI(BaselineAPI):
    """The baseline."""

    def setup(self, device: str) -> None:
        take_out()
        super().setup(device)


if __name__ == "__main__":
    take_out()  # for the HTTP process, which is forked from this one
    serve(SwitchedAPI())
