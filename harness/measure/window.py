"""A window, one server under one offered load once; and the record of a server's windows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from harness.load.job import LoadResult
from harness.measure.utilisation import WORKERS, RoleMemory, Usage


class OfferedLoad(NamedTuple):
    """What a window asks of a server: a closed loop of so many connections, or arrivals at a rate.

    Attributes:
        concurrency: requests kept waiting for their answers; None in an open loop.
        rate: requests per second that arrive, whatever the server does; None in a closed loop.
    """

    concurrency: int | None
    rate: float | None = None

    @property
    def name(self) -> str:
        """ "8" for a concurrency of eight, "100/s" for an offered rate of a hundred."""
        return str(self.concurrency) if self.rate is None else f"{self.rate:g}/s"


class WorkerWork(NamedTuple):
    """What one worker did in a window: the difference of two of its running totals.

    Attributes:
        requests, batches: served.
        spent_s: seconds that requests spent in the queue and in each stage, summed over requests.
        busy_s: seconds the worker was at work, all stages.
        batch_sizes: how many batches of each size.
    """

    requests: int
    batches: int
    spent_s: dict[str, float]
    busy_s: float
    batch_sizes: dict[int, int]


class HttpWork(NamedTuple):
    """What one HTTP process did in a window: the difference of two of its running totals.

    Attributes:
        requests: whose answers ended.
        ingress_s: from being sent until in LitServe's queue, summed over requests.
        after_ingress_s: from there to the end of the answer.
    """

    requests: int
    ingress_s: float
    after_ingress_s: float


@dataclass(frozen=True)
class Window:
    """One server under one offered load, once.

    Attributes:
        load: what came back.
        usage: what the machine spent.
        workers: what each worker did since the queue was full, as the latencies are those of then
            (LoadResult); none if the server has no /stats.
        http: what each HTTP process did, likewise.
        served_filling: requests that the workers served in the window before that.
        client_ceiling: requests/s that this client can measure at most; None if nobody asked.
        epoch, block: in which it was measured.
    """

    load: LoadResult
    usage: Usage
    workers: list[WorkerWork] = field(default_factory=list)
    http: list[HttpWork] = field(default_factory=list)
    served_filling: int = 0
    client_ceiling: float | None = None
    epoch: int = 0
    block: int = 0

    @property
    def first_output_s(self) -> list[float]:
        """Seconds to the first output of each correct answer that had one, the queue being full."""
        return known(self.load.of_full_queue(self.load.first_output_s))

    @property
    def output_gaps_s(self) -> list[float]:
        """Seconds between outputs, of all correct answers."""
        return [gap for gaps in self.load.of_correct(self.load.output_gaps_s) for gap in gaps]


def work_between(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> tuple[list[WorkerWork], list[HttpWork]]:
    """What workers and HTTP processes did between two readings of /stats."""
    if not before or not after:
        return [], []
    workers = zip(before["workers"], after["workers"], strict=True)
    http = zip(before["http"], after["http"], strict=True)
    return [worker_work(*pair) for pair in workers], [http_work(*pair) for pair in http]


def worker_work(before: dict[str, Any], after: dict[str, Any]) -> WorkerWork:
    """The difference of two running totals of one worker, as /stats tells them."""
    sizes = Counter({int(size): count for size, count in after["batch_sizes"].items()})
    sizes.subtract({int(size): count for size, count in before["batch_sizes"].items()})
    return WorkerWork(
        requests=after["requests"] - before["requests"],
        batches=after["batches"] - before["batches"],
        spent_s={
            stage: spent - before["spent_s"][stage] for stage, spent in after["spent_s"].items()
        },
        busy_s=sum(after["busy_s"].values()) - sum(before["busy_s"].values()),
        batch_sizes={size: count for size, count in sizes.items() if count},
    )


def http_work(before: dict[str, Any], after: dict[str, Any]) -> HttpWork:
    """The difference of two running totals of one HTTP process, as /stats tells them."""
    return HttpWork(*(after[name] - before[name] for name in HttpWork._fields))


@dataclass
class Record:
    """What has been measured of one server so far.

    Attributes:
        variant: whose server it is.
        windows: by name of the offered load.
        startups_s: of the launches beside which no other server started.
        setup_metrics: what the first worker of each launch measured while it set itself up.
        in_process: (epoch, block, requests/s) of the same work without a server.
        memory: what its processes held by role, in the epoch in which they held most.
        server: what /info said.
        error: why it could not be measured to the end.
    """

    variant: str
    windows: dict[str, list[Window]] = field(default_factory=dict)
    startups_s: list[float] = field(default_factory=list)
    setup_metrics: list[dict[str, float]] = field(default_factory=list)
    in_process: list[tuple[int, int, float]] = field(default_factory=list)
    memory: dict[str, RoleMemory] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def note_memory(self, memory: dict[str, RoleMemory]) -> None:
        """Keep it if it is the most so far."""
        if total_bytes(memory) >= total_bytes(self.memory):
            self.memory = memory

    def add(self, offered: OfferedLoad, window: Window) -> None:
        """Keep a window."""
        self.windows.setdefault(offered.name, []).append(window)

    def at(self, load: str) -> list[Window]:
        """The windows at the offered load of that name."""
        return self.windows.get(load, [])


def total_bytes(memory: Mapping[str, RoleMemory]) -> int:
    """What all roles hold, shared pages divided among the sharers, or left out where the kernel
    does not tell; 0 of nothing.
    """
    private_bytes = sum(role.private_bytes for role in memory.values())
    parts = [role.proportional_bytes for role in memory.values()]
    return private_bytes if None in parts else sum(parts)


def worker_bytes(memory: Mapping[str, RoleMemory]) -> int | None:
    """What one worker holds, mean over them, likewise; None if none is known."""
    workers = {role: each for role, each in memory.items() if role == WORKERS}
    return round(total_bytes(workers) / workers[WORKERS].processes) if workers else None


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def mean(values: Iterable[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else None
