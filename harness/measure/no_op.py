"""LitServe around an API that does nothing (harness.serving.no_op_server): floor of every latency, ceiling of every rate.

It is launched in every round, once for each way in which the measured servers are set up.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from harness.process.launch import ServerFailedError
from harness.results.summary import Measurement
from harness.load.job import Job
from harness.results.run import NullServer
from harness.results.rows import rate
from harness.results.breakdown import Floor, outside_ms
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
        """The same for harness.serving.no_op_server."""
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


class Nulls(defaultdict[Shape, NullRecord]):
    """What has been measured so far, by shape."""

    def __init__(self) -> None:
        super().__init__(NullRecord)

    def add(self, shape: Shape, level: LoadLevel, measurement: Measurement) -> None:
        """Keep a measurement; ServerFailedError if nothing was answered."""
        if not measurement.load.right_in_window:
            raise ServerFailedError(f"no answer at level {level.name}")
        self[shape].measurements[level.name].append(measurement)

    def floor(self, shape: Shape | None) -> Floor | None:
        """The floor of this shape; None if it was not measured.

        A lone request waits in the queue of a batching server for company that does not come: that is no floor, and the
        way through the queue is taken from a server that does not batch, if there was one.
        """
        own = self[shape].floor if shape in self else None
        if own is None or shape.max_batch_size == 1:
            return own
        floors = [record.floor for other, record in self.items() if other.max_batch_size == 1]
        return own._replace(queue_ms=min((floor.queue_ms for floor in floors if floor), default=0.0))

    def result(self, shape: Shape | None, concurrency: list[int]) -> NullServer | None:
        """What is known of this shape for the result file; None if nothing is."""
        most, floor = null_levels(concurrency)[-1], self.floor(shape)
        measured = self[shape].measurements[most.name] if floor else []
        if not measured:
            return None
        return NullServer(*floor, most.concurrency, rate([one.load.requests_per_second for one in measured]))


def gathered(measured: list[Measurement], rows: Callable[[Measurement], list]) -> list:
    """The rows of all measurements."""
    return [row for one in measured for row in rows(one)]
