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
    """Let this process take its clocks out whenever the byte is 0."""
    byte = switch()

    def switched(owner: type, name: str, without: Callable[..., Any]) -> None:
        measured = getattr(owner, name)

        @wraps(measured)  # LitServe looks at signatures
        def either(self: Any, *rest: Any) -> Any:
            return (measured if byte[0] else without)(self, *rest)

        setattr(owner, name, either)

    for name in ("decode_request", "predict", "encode_response"):
        switched(MeasuredAPI, name, lambda self, value, name=name: getattr(self.api, name)(value))
    switched(ArrivalQueue, "noted", lambda _, item: item)
    switched(Gate, "clocked", lambda self, *rest: self.app(*rest))  # without a passage, QueueClock has nothing to note


class SwitchedAPI(BaselineAPI):
    """The baseline."""

    def setup(self, device: str) -> None:
        take_out()
        super().setup(device)


if __name__ == "__main__":
    take_out()  # for the HTTP process, which is forked from this one
    serve(SwitchedAPI())
