"""From the windows of one variant under one offered load to its row."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy

from harness.load.job import LoadResult
from harness.load.latency import latency_ms, request_counts
from harness.measure.utilisation import ROLES, Usage
from harness.measure.window import OfferedLoad, Window, WorkerWork, known, mean
from harness.results.breakdown import QUEUE_WAIT, breakdown_ms
from harness.results.doubts import doubts
from harness.results.percentiles import latency_ci95_ms
from harness.results.rows import Client, Rate, Row
from harness.results.schema import WindowRecord

RESOLUTION_PERCENT = 10.0  # of a row, if nothing else was asked for


def row_of(
    offered: OfferedLoad,
    windows: list[Window],
    rate: Rate,
    output_per_request: int,
    own: Any,
    stage_names: Mapping[str, str],
    memory_bytes: int | None = None,
    asked_percent: float = RESOLUTION_PERCENT,
) -> Row:
    """The row of one offered load.

    Args:
        offered: what was asked of the server.
        windows: what was measured.
        rate: requests/s, with the interval that all servers of the run give it.
        output_per_request: how much of its unit one correct answer holds.
        own: what the folder adds to the row.
        stage_names: a suite's own names for stages in the worker.
        memory_bytes: the most that the server's processes held.
        asked_percent: the resolution to reach.
    """
    loads = [window.load for window in windows]
    usages = [window.usage for window in windows]
    workers = [worker for window in windows for worker in window.workers]
    http = [process for window in windows for process in window.http]
    latencies = latency_ms([seconds for load in loads for seconds in load.correct_latency_s])
    batches = sum(worker.batches for worker in workers)
    of_client, achieved = client(windows), mean_concurrency(loads)
    return Row(
        concurrency=offered.concurrency,
        offered_rate=offered.rate,
        requests_per_second=rate,
        output_per_second=times(rate, output_per_request),
        latency_ms=latencies,
        latency_ci95_ms=dict.fromkeys(latencies),
        requests=request_counts(*loads),
        http_statuses=http_statuses(loads),
        cpu_percent=cpu_percent(loads, usages),
        server_memory_bytes=memory_bytes,
        gpu_percent=mean(known(usage.gpu_percent for usage in usages)),
        gpu_memory_bytes=max(known(usage.gpu_memory_bytes for usage in usages), default=None),
        gpu_power_w=mean(known(usage.gpu_power_w for usage in usages)),
        gpu_energy_j_per_request=energy_per_request(windows),
        client=of_client,
        mean_concurrency=achieved,
        mean_batch_size=sum(worker.requests for worker in workers) / batches if batches else None,
        batch_sizes=batch_sizes(workers),
        worker_shares=worker_shares(windows),
        worker_busy_percent=worker_busy_percent(windows, rate.mean),
        breakdown_ms=breakdown_ms(workers, http, latencies["mean"], stage_names),
        cpu_s_per_1000_requests=cpu_s_per_1000_requests(windows, of_client),
        own=own,
        warnings=doubts(
            offered, windows, of_client, achieved, rate.resolution_percent, asked_percent
        ),
    )


def http_statuses(loads: list[LoadResult]) -> dict[str, int]:
    """How often each HTTP error status came."""
    counts = sum((Counter(load.statuses) for load in loads), Counter())
    return {str(status): count for status, count in sorted(counts.items())}


def with_intervals(row: Row, windows: list[Window]) -> Row:
    """The row of these windows with the intervals of its latencies: bootstraps, so done once."""
    blocks = [(each.epoch, each.block, each.load.correct_latency_s) for each in windows]
    return replace(row, latency_ci95_ms=latency_ci95_ms(blocks))


def times(rate: Rate, factor: float) -> Rate:
    """The rate of something of which there is so much in each."""
    ci95 = rate.ci95 and (factor * rate.ci95[0], factor * rate.ci95[1])
    return replace(rate, mean=factor * rate.mean, ci95=ci95)


def record_of(
    server: str, variant: str, load: str, window: Window, names: Mapping[str, str]
) -> WindowRecord:
    """One window, raw."""
    result, cpu_s = window.load, window.usage.role_cpu_s
    latency_s = mean(result.correct_latency_s)
    latency = None if latency_s is None else 1000 * latency_s
    return WindowRecord(
        server=server,
        variant=variant,
        epoch=window.epoch,
        block=window.block,
        load=load,
        seconds=result.window_s,
        requests=request_counts(result),
        requests_per_second=result.requests_per_second,
        cpu_s=cpu_s and cpu_s | {"client": result.client_cpu_s},
        breakdown_ms=breakdown_ms(window.workers, window.http, latency, names),
    )


def mean_concurrency(loads: list[LoadResult]) -> float | None:
    """Little's law: correct answers per second times their mean latency; None without any."""
    products = [
        load.requests_per_second * numpy.mean(load.correct_latency_s)
        for load in loads
        if load.correct_latency_s
    ]
    return mean(map(float, products))


def cpu_percent(loads: list[LoadResult], usages: list[Usage]) -> dict[str, float | None]:
    """CPU of machine, server, client and the server's roles; percent of one core, mean."""
    clients = [100 * load.client_cpu_s / load.window_s for load in loads if load.window_s > 0]
    clocked = [usage for usage in usages if usage.role_cpu_s]
    roles = {
        role: mean(100 * usage.role_cpu_s[role] / usage.seconds for usage in clocked)
        for role in ROLES
    }
    return {
        "machine": mean(known(usage.machine_percent for usage in usages)),
        "stolen": mean(known(usage.stolen_percent for usage in usages)),
        "server": sum(roles.values()) if clocked else None,
        "client": mean(clients),
    } | roles


def client(windows: list[Window]) -> Client:
    """The client's own part in a row."""
    ended = sum(len(window.load.ended) for window in windows)
    cpu_s = sum(window.load.client_cpu_s for window in windows)
    late_s = [seconds for window in windows for seconds in window.load.late_s]
    ceiling = windows[0].client_ceiling
    measured = mean(window.load.requests_per_second for window in windows)
    return Client(
        cpu_us_per_request=1e6 * cpu_s / ended if ended else None,
        ceiling_requests_per_second=ceiling,
        share_of_ceiling=measured / ceiling if ceiling else None,
        mean_send_delay_ms=1000 * mean(late_s) if late_s else None,
    )


def batch_sizes(workers: list[WorkerWork]) -> dict[int, int]:
    """How many batches of each size all workers formed."""
    sizes = sum((Counter(worker.batch_sizes) for worker in workers), Counter())
    return dict(sorted(sizes.items()))


def worker_shares(windows: list[Window]) -> list[float]:
    """Each worker's share of the requests of its window, largest first, mean over windows."""
    counts = [
        sorted((worker.requests for worker in window.workers), reverse=True) for window in windows
    ]
    shares = [[count / sum(each) for count in each] for each in counts if sum(each)]
    return [mean(rank) for rank in zip(*shares, strict=False)]


def worker_busy_percent(windows: list[Window], requests_per_second: float) -> float | None:
    """Share of the time in which a worker was at work; None if nothing is known.

    Seconds of work per request, times requests per second and worker: the totals are read a moment
    before and after a window, so that its length would be the wrong thing to divide by. Workers
    without a stage that can be clocked do not tell.
    """
    workers = [worker for window in windows for worker in window.workers]
    requests = sum(worker.requests for worker in workers)
    if not requests or not any(worker.spent_s.keys() - {QUEUE_WAIT} for worker in workers):
        return None
    busy_s = sum(worker.busy_s for worker in workers)
    return 100 * busy_s / requests * requests_per_second / (len(workers) / len(windows))


def cpu_s_per_1000_requests(windows: list[Window], of_client: Client) -> dict[str, float | None]:
    """CPU seconds of 1,000 requests, by role of the server, and of the client.

    Both the seconds and the requests are those between two readings around a window.
    """
    clocked = [window for window in windows if window.usage.role_cpu_s]
    served = sum(
        sum(worker.requests for worker in window.workers) + window.served_filling
        or len(window.load.ended)
        for window in clocked
    )
    of_client_us = of_client.cpu_us_per_request
    return {
        role: 1000 * sum(window.usage.role_cpu_s[role] for window in clocked) / served
        if served
        else None
        for role in ROLES
    } | {"client": None if of_client_us is None else of_client_us / 1000}


def energy_per_request(windows: list[Window]) -> float | None:
    """Joules that the GPU drew, over the requests that ended meanwhile; None without a counter."""
    metered = [w for w in windows if w.usage.gpu_energy_j is not None and w.load.ended]
    ended = sum(len(window.load.ended) for window in metered)
    return sum(window.usage.gpu_energy_j for window in metered) / ended if ended else None
