"""LitServe around an API that does nothing (harness.null_server): floor of every latency, ceiling of every rate.

It is launched in every round, once for each way in which the measured servers are set up.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from harness.levels import Measurement
from harness.load import Job
from harness.results import NullServer
from harness.rows import rate
from harness.stages import Floor, outside_ms
from harness.suite import LoadLevel, Suite

LONGEST_S = 1.5  # of a level: what does nothing is soon known
LONE = LoadLevel(1, None)


class Shape(NamedTuple):
    """How LitServe is set up around an API."""

    max_batch_size: int
    batch_timeout_s: float
    workers_per_device: int

    @property
    def flags(self) -> tuple[str, ...]:
        """The same for harness.null_server."""
        return (
            "--max-batch-size", str(self.max_batch_size), "--batch-timeout", str(self.batch_timeout_s),
            "--workers-per-device", str(self.workers_per_device),
        )  # fmt: skip


def shape_of(info: dict[str, Any]) -> Shape | None:
    """How the server with this /info is set up; None if it does not say."""
    return Shape(*(info[name] for name in Shape._fields)) if info.keys() >= set(Shape._fields) else None


def null_levels(concurrency: list[int]) -> list[LoadLevel]:
    """One lone request, and the most at once: the floor and the ceiling."""
    return [LoadLevel(level, None) for level in sorted({1, max(concurrency)})]


def null_job(job: Job, url: str) -> Job:
    """The same requests to a server that does nothing."""
    duration_s = min(job.duration_s, LONGEST_S)
    return replace(job, url=f"{url}/predict", duration_s=duration_s, check=None, carries_output=None)


def answer_flags(suite: Suite) -> tuple[str, ...]:
    """An answer of the suite's size, where it is one JSON document."""
    return () if suite.carries_output else ("--answer", suite.sample_answer.decode())


@dataclass
class NullRecord:
    """What has been measured of one shape so far, by load."""

    measurements: dict[str, list[Measurement]] = field(default_factory=lambda: defaultdict(list))

    @property
    def floor(self) -> Floor | None:
        """What a lone request costs outside queue and worker; None if it was not measured."""
        measured = self.measurements[LONE.name]
        workers, doors = gathered(measured, lambda one: one.workers), gathered(measured, lambda one: one.doors)
        return outside_ms(workers, doors)

    def result(self, concurrency: list[int]) -> NullServer | None:
        """The record for the result file."""
        most, floor = null_levels(concurrency)[-1], self.floor
        measured = self.measurements[most.name]
        if floor is None or not measured:
            return None
        rates = rate([one.load.requests_per_second for one in measured])
        return NullServer(floor.arriving_ms, floor.returning_ms, most.concurrency, rates)


def gathered(measured: list[Measurement], rows: Callable[[Measurement], list]) -> list:
    """The rows of all measurements."""
    return [row for one in measured for row in rows(one)]
