"""One variant under one offered load, as data: the documented rows of benchmark_results.json.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from dataclasses import field
from typing import Generic, TypeVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from harness.measure.window import OfferedLoad

FINITE = ConfigDict(allow_inf_nan=False, extra="forbid")
OwnRow = TypeVar("OwnRow")


@dataclass(frozen=True, config=FINITE)
class Rate:
    """A rate over all windows.

    Attributes:
        mean: geometric mean over epochs of that over an epoch's windows. A window without any
            correct answer is not in it: it ends its server, and the variant has an error.
        ci95: its 95 % interval in comparison with the run's other servers: what the machine did to
            all of them alike is not in it. None without a second block.
        resolution_percent: half-width of that interval, percent of the mean.
        within_percent, between_percent: standard deviation from window to window of a launch, and
            from launch to launch; None where there was only one.
    """

    mean: float
    ci95: tuple[float, float] | None = None
    resolution_percent: float | None = None
    within_percent: float | None = None
    between_percent: float | None = None


@dataclass(frozen=True, config=FINITE)
class Client:
    """Whether the client can be trusted with this row.

    Attributes:
        cpu_us_per_request: CPU of the load generator's process per request.
        ceiling_requests_per_second: what it measures against the echo server, which answers at
            once.
        share_of_ceiling: measured rate over that ceiling; near 1 the client set the number.
        mean_send_delay_ms: open loop: how late requests were sent.
    """

    cpu_us_per_request: float | None
    ceiling_requests_per_second: float | None
    share_of_ceiling: float | None
    mean_send_delay_ms: float | None = None


@dataclass(frozen=True, config=FINITE, kw_only=True)
class Row(Generic[OwnRow]):
    """One variant under one offered load, all windows together.

    Attributes:
        concurrency: requests kept waiting for their answers (closed loop); None in an open loop.
        offered_rate: requests/s that arrive (open loop); None in a closed loop.
        requests_per_second: correct answers per second.
        output_per_second: that, times what one answer holds of the unit that results name.
        latency_ms: mean and percentiles over the correct answers of all windows that ended once the
            queue was full (LoadResult.full_since); a percentile is None if too few back it.
        latency_ci95_ms: their 95 % intervals, approximate (bootstrap over epochs, then blocks:
            harness.results.percentiles); None where the value is, without a second block, and as
            long as the run goes on.
        requests: sent, and how they ended.
        http_statuses: how often each HTTP error status came.
        cpu_percent: machine, stolen, server, client, and the server's http, queue, workers;
            percent of one core.
        server_memory_bytes: largest proportional set size of the server's process tree.
        worker_memory_bytes: that of a worker process, mean over them; None if not known.
        gpu_percent, gpu_memory_bytes, gpu_power_w: share of time with any kernel running, memory
            in use, power.
        gpu_energy_j_per_request: joules that the GPU drew, over the requests that ended meanwhile.
        client: the client's own part.
        mean_concurrency: requests/s times mean latency (Little's law); close to the concurrency
            asked for, or doubt.
        mean_batch_size: requests per batch that the workers formed, over requests; this and the
            next three are, as breakdown_ms, of the time since the queue was full.
        batch_sizes: how many batches of each size were formed.
        worker_shares: share of the requests that each worker served, largest first.
        worker_busy_percent: share of the time in which a worker was at work, mean over workers.
        breakdown_ms: mean time of a request in each of its parts, in order, once the queue was
            full; adds up to latency_ms.mean (harness.results.breakdown); None if the server has no
            /stats.
        cpu_s_per_1000_requests: CPU seconds of the server's http, queue, workers, and the client.
        own: what the folder adds.
        warnings: symptom, likely cause, what to try.
    """

    concurrency: int | None
    offered_rate: float | None
    requests_per_second: Rate
    output_per_second: Rate
    latency_ms: dict[str, float | None]
    latency_ci95_ms: dict[str, tuple[float, float] | None]
    requests: dict[str, int]
    http_statuses: dict[str, int]
    cpu_percent: dict[str, float | None]
    server_memory_bytes: int | None
    gpu_percent: float | None
    gpu_memory_bytes: int | None
    gpu_power_w: float | None
    gpu_energy_j_per_request: float | None
    client: Client
    mean_concurrency: float | None
    mean_batch_size: float | None
    batch_sizes: dict[int, int]
    worker_shares: list[float]
    worker_busy_percent: float | None
    breakdown_ms: dict[str, float] | None
    cpu_s_per_1000_requests: dict[str, float | None]
    own: OwnRow
    worker_memory_bytes: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def load(self) -> OfferedLoad:
        """What was asked of the server."""
        return OfferedLoad(self.concurrency, self.offered_rate)
