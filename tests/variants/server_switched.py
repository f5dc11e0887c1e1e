"""Switched: the MNIST baseline whose clocks can be taken out of every request's way while it runs.

The file that SWITCH in the environment names holds one byte: 1, and requests are measured as in every server; 0, and
they are served as LitServe alone would.
"""

import mmap
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from harness.gate import Gate
from harness.measured import ArrivalQueue, MeasuredAPI
from harness.serve import serve
from mnist_model_benchmarking.server_baseline import BaselineAPI


def switch() -> mmap.mmap:
    """The byte, shared with whoever turns it."""
    with Path(os.environ["SWITCH"]).open("r+b") as file:
        return mmap.mmap(file.fileno(), 1)


def take_out() -> None:
    """Let this process take its clocks out whenever the byte is 0; a request has them to its end or not at all."""
    byte, taken = switch(), [1]

    def turned() -> int:
        taken[0] = byte[0]
        return taken[0]

    def switched(owner: type, name: str, is_on: Callable[[], int], without: Callable[..., Any]) -> None:
        measured = getattr(owner, name)

        @wraps(measured)  # LitServe looks at signatures
        def either(self: Any, *rest: Any) -> Any:
            return (measured if is_on() else without)(self, *rest)

        setattr(owner, name, either)

    switched(ArrivalQueue, "noted", turned, lambda _, item: item)
    for name in ("decode_request", "predict", "encode_response"):
        switched(MeasuredAPI, name, lambda: taken[0], lambda self, value, name=name: getattr(self.api, name)(value))
    switched(Gate, "__call__", turned, lambda self, *rest: self.app(*rest))  # without a passage, QueueClock is idle


class SwitchedAPI(BaselineAPI):
    """The baseline."""

    def setup(self, device: str) -> None:
        take_out()
        super().setup(device)


if __name__ == "__main__":
    take_out()  # for the HTTP process, which is forked from this one
    serve(SwitchedAPI())
