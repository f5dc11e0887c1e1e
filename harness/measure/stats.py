"""What measuring needs of a server's /stats: other code than this checkout's may tell less."""

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from harness.process.launch import ServerFailedError


@dataclass
class HttpTotals:
    """Of one HTTP process (harness.serving.counters)."""

    pid: int
    requests: int
    ingress_s: float
    after_ingress_s: float


@dataclass
class SpentTotals:
    """Seconds by stage, besides whatever stages a worker has."""

    queue_wait: float


@dataclass
class WorkerTotals:
    """Of one worker (harness.serving.counters)."""

    pid: int
    requests: int
    batches: int
    busy_s: dict[str, float]
    spent_s: SpentTotals
    setup_metrics: dict[str, float]
    batch_sizes: dict[int, int]


@dataclass
class Stats:
    """All of it."""

    http: list[HttpTotals]
    workers: list[WorkerTotals] = Field(min_length=1)


STATS = TypeAdapter(Stats)


def refuse_other_stats(stats: dict) -> None:
    """ServerFailedError with one sentence if /stats lacks something or says it in another form."""
    try:
        STATS.validate_python(stats)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"its /stats is not what this code measures with: {where}: {first['msg']}"
        raise ServerFailedError(message) from error
