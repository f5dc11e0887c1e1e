"""LitServe around an API that does nothing (harness.serving.no_op_server), set up as variants are.

What it costs a lone request is LitServe's own part of every latency; what it lets through is the
ceiling of every rate. It is launched in every epoch, once for each way in which servers are set up.
"""

from collections import defaultdict
from dataclasses import replace
from typing import Any, NamedTuple

from harness.load.job import Job
from harness.measure.window import OfferedLoad, Window

MODULE = "harness.serving.no_op_server"
LONGEST_S = 1.5  # of a window: what does nothing is soon known
LONE = OfferedLoad(1)


class Shape(NamedTuple):
    """How LitServe is set up around an API."""

    max_batch_size: int
    batch_timeout_s: float
    workers_per_device: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The same for the no-op server."""
        return (
            *("--max-batch-size", str(self.max_batch_size)),
            *("--batch-timeout", str(self.batch_timeout_s)),
            *("--workers-per-device", str(self.workers_per_device)),
        )


def shape_of(info: dict[str, Any]) -> Shape | None:
    """How the server with this /info is set up; None if it does not say."""
    if not info.keys() >= set(Shape._fields):
        return None
    return Shape(*(info[name] for name in Shape._fields))


def no_op_loads(loads: list[OfferedLoad]) -> list[OfferedLoad]:
    """One lone request, and the most at once: the cost and the ceiling."""
    most = max((load.concurrency or 1 for load in loads), default=1)
    return [OfferedLoad(concurrency) for concurrency in sorted({1, most})]


def no_op_job(job: Job, url: str) -> Job:
    """The same requests to a server that does nothing."""
    duration_s = min(job.duration_s, LONGEST_S)
    return replace(
        job, url=f"{url}/predict", duration_s=duration_s, check=None, carries_output=None
    )


class NoOpWindows(defaultdict[Shape, dict[OfferedLoad, list[Window]]]):
    """What has been measured of the no-op servers so far, by shape and load."""

    def __init__(self) -> None:
        super().__init__(lambda: defaultdict(list))

    def add(self, shape: Shape, offered: OfferedLoad, window: Window) -> None:
        """Keep a window."""
        self[shape][offered].append(window)
