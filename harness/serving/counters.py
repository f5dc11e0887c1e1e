"""Running totals of workers and HTTP processes, in memory that they write and /stats reads."""

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from ctypes import Array, Structure, c_byte, c_double, c_int64, sizeof
from functools import cache
from typing import Any

from harness.serving.abandoned import Abandoned

QUEUE_WAIT = "queue_wait"
ROUNDING = 1e-9  # of sums of shares


class HttpTotals(Structure):
    """Of one HTTP process.

    Attributes:
        pid: 0 before it has started.
        requests: answered to their end.
        ingress_s: from being sent to LitServe's queue, summed over the requests.
        after_ingress_s: from there to the end of the answer, likewise.
    """

    _fields_ = (
        ("pid", c_int64),
        ("requests", c_int64),
        ("ingress_s", c_double),
        ("after_ingress_s", c_double),
    )


@cache
def worker_totals(stages: int, setup_metrics: int, max_batch_size: int) -> type[Structure]:
    """The structure of one worker's totals, its arrays as long as the API that is served needs.

    A request spends in a stage what its whole batch takes: spent_s is busy_s times the batch size.
    """

    class WorkerTotals(Structure):
        _fields_ = (
            ("pid", c_int64),
            ("requests", c_int64),
            ("rejected", c_int64),
            ("batches", c_int64),
            ("queue_wait_s", c_double),
            ("busy_s", c_double * stages),
            ("spent_s", c_double * stages),
            ("setup_metrics", c_double * setup_metrics),
            ("batch_sizes", c_int64 * (max_batch_size + 1)),  # how many batches of each size
        )

    return WorkerTotals


class Counters:
    """The totals of all workers and HTTP processes of a server.

    Each process writes its own only, so no lock is needed; readers may see one batch that is not
    yet added to all fields.

    Attributes:
        abandoned: the requests whose clients have left.

    Args:
        workers, api_servers: how many there are of either kind.
        max_batch_size: the largest batch that can be formed.
        stages: names of the stages in a worker, in order.
        setup_metrics: names of what the API measures in setup.
    """

    def __init__(
        self,
        workers: int,
        api_servers: int,
        max_batch_size: int,
        stages: Sequence[str],
        setup_metrics: Sequence[str] = (),
    ) -> None:
        self.stages, self.setup_metrics = tuple(stages), tuple(setup_metrics)
        self.worker_count, self.max_batch_size = workers, max_batch_size
        self.abandoned = Abandoned()
        context = multiprocessing.get_context("spawn")
        self.http = context.RawArray(HttpTotals, api_servers)
        # Bytes: LitServe pickles this to its workers, and a class that is made here has no name
        # by which another process could find it. Each process lays its own structure over them.
        self.worker_bytes = context.RawArray(c_byte, workers * sizeof(self.worker_type))

    @property
    def worker_type(self) -> type[Structure]:
        return worker_totals(len(self.stages), len(self.setup_metrics), self.max_batch_size)

    @property
    def workers(self) -> Array[Structure]:
        """The shared totals of the workers."""
        return (self.worker_type * self.worker_count).from_buffer(self.worker_bytes)

    def snapshot(self) -> dict[str, Any]:
        """What /stats tells.

        Per worker: pid, requests, rejected, batches, busy_s by stage, spent_s by stage and in
        LitServe's queue, setup_metrics by name, batch_sizes. Per HTTP process: see HttpTotals.
        """
        http_fields = [name for name, _ in HttpTotals._fields_]
        return {
            "http": [{name: getattr(each, name) for name in http_fields} for each in self.http],
            "workers": [self.described(totals) for totals in self.workers],
        }

    def described(self, totals: Structure) -> dict[str, Any]:
        spent_s = dict(zip(self.stages, totals.spent_s, strict=True))
        return {
            "pid": totals.pid,
            "requests": totals.requests,
            "rejected": totals.rejected,
            "batches": totals.batches,
            "busy_s": dict(zip(self.stages, totals.busy_s, strict=True)),
            "spent_s": {QUEUE_WAIT: totals.queue_wait_s} | spent_s,
            "setup_metrics": dict(zip(self.setup_metrics, totals.setup_metrics, strict=True)),
            "batch_sizes": {size: n for size, n in enumerate(totals.batch_sizes) if n},
        }


def totals_of(counters: Sequence[Counters]) -> dict[str, Any]:
    """What /stats tells of a server with one set of counters per API: the HTTP processes, which
    serve all APIs, count in the first; workers stand in the order of their APIs.
    """
    snapshots = [each.snapshot() for each in counters]
    workers = [worker for snapshot in snapshots for worker in snapshot["workers"]]
    return {"http": snapshots[0]["http"], "workers": workers}


class HttpCounter:
    """Adds to the totals of this HTTP process, the one of that number."""

    def __init__(self, counters: Counters, process: int) -> None:
        self.totals = counters.http[process]
        self.totals.pid = os.getpid()

    def request_done(self, ingress_s: float, after_ingress_s: float) -> None:
        """Add one request: seconds from being sent to the queue, and from there to its end."""
        totals = self.totals
        totals.requests += 1
        totals.ingress_s += ingress_s
        totals.after_ingress_s += after_ingress_s


class WorkerCounter:
    """Adds to the totals of this worker, the one of that number."""

    def __init__(self, counters: Counters, worker: int) -> None:
        self.totals = counters.workers[worker]
        self.totals.pid = os.getpid()
        self.names = counters.setup_metrics
        self.part_of_batch = 0.0
        # Views: every access to a structure's array makes a new object, and batches are many.
        self.busy_s, self.spent_s = self.totals.busy_s, self.totals.spent_s
        self.batch_sizes = self.totals.batch_sizes

    def set_up(self, metrics: Mapping[str, float]) -> None:
        """Note what the API has measured in setup."""
        self.totals.setup_metrics[:] = [metrics[name] for name in self.names]

    def request_taken(self, queue_wait_s: float) -> None:
        """Add a request of which nothing more is known than its seconds in the queue."""
        self.totals.requests += 1
        self.totals.queue_wait_s += queue_wait_s

    def batch_done(
        self,
        size: int,
        rejected: int,
        busy_s: Mapping[str, float],
        queue_wait_s: float,
        spent_s: Mapping[str, float] | None = None,
    ) -> None:
        """Add one batch: its requests, how many were rejected, seconds of each stage in order, and
        seconds in the queue summed over its requests; where requests of several batches are at work
        side by side, also what they `spent_s` in each stage.
        """
        totals = self.totals
        totals.requests += size
        totals.rejected += rejected
        totals.batches += 1
        totals.queue_wait_s += queue_wait_s
        for at, (stage, seconds) in enumerate(busy_s.items()):
            self.busy_s[at] += seconds
            self.spent_s[at] += spent_s[stage] if spent_s else seconds * size
        self.batch_sizes[size] += 1

    def shared_request_done(
        self,
        rejected: int,
        queue_wait_s: float,
        spent_s: Mapping[str, float],
        busy_s: Mapping[str, float],
    ) -> None:
        """Add one of several requests that are at work side by side, each joining and leaving when
        it will: what it has spent in each stage, and its share of what the worker has.

        Requests that share their time among n are a batch of n, once there are n of them.
        """
        totals, spent, busy = self.totals, sum(spent_s.values()), sum(busy_s.values())
        totals.requests += 1
        totals.rejected += rejected
        totals.queue_wait_s += queue_wait_s
        for at, stage in enumerate(busy_s):
            self.busy_s[at] += busy_s[stage]
            self.spent_s[at] += spent_s[stage]
        self.part_of_batch += busy / spent if spent else 1.0
        if self.part_of_batch > 1 - ROUNDING:
            self.part_of_batch -= 1
            totals.batches += 1
            self.batch_sizes[round(spent / busy) if busy else 1] += 1
