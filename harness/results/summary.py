"""From the measurements of all rounds to one row of the results, and the doubts about it."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from harness.load.job import WRONG_ANSWER, Load
from harness.results.run import Capacity
from harness.results.rows import Client, Rate, latency_ms, rate, request_counts
from harness.results.breakdown import Floor, anatomy, grown_door, grown_worker, total
from harness.judge.statistics import mean, relative_spread
from harness.measure.utilisation import ROLES, Usage

STABLE_SPREAD = 0.10  # between the thirds of a window: perf_analyzer's rule
WINDOWS = 3
CLIENT_BOUND = 0.5
LEAST_IN_FLIGHT = 0.95
STOLEN_PERCENT = 5
LATE_S, LATE_SHARE = 0.005, 0.01  # perf_analyzer's rule: more than 1 % sent late is no longer the load asked for


@dataclass(frozen=True)
class Measurement:
    """One level of one turn.

    Attributes:
        load: what came back.
        usage: what the machine spent.
        before, after: /stats once the warm-up was over and at the end; None if the server has none.
        ceiling: requests per second that this client can measure at most; None if nobody asked.
    """

    load: Load
    usage: Usage
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    ceiling: float | None

    @property
    def workers(self) -> list[dict[str, Any]]:
        """What each worker did during this level (harness.results.breakdown.grown_worker)."""
        return self.grown("workers", grown_worker)

    @property
    def doors(self) -> list[dict[str, Any]]:
        """What passed each HTTP process during this level (harness.results.breakdown.grown_door)."""
        return self.grown("http", grown_door)

    def grown(self, rows: str, difference: Callable[[dict, dict], dict[str, Any]]) -> list[dict[str, Any]]:
        """The differences of all rows of that kind; none if the server has no /stats."""
        if not self.before or not self.after:
            return []
        return [difference(old, new) for old, new in zip(self.before[rows], self.after[rows], strict=True)]


@dataclass
class Record:
    """What has been measured of one variant so far.

    Attributes:
        measurements: (round, measurement) by load.
        startups_s: of each launch.
        figures: what the first worker of each launch told about itself (harness.serving.instrumentation.Counters).
        in_process: requests per second without a server, by round.
        server: what /info said.
        capacity: what it carries under a promise.
        error: why it could not be measured to the end.
    """

    measurements: dict[str, list[tuple[int, Measurement]]] = field(default_factory=lambda: defaultdict(list))
    startups_s: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    in_process: dict[int, float] = field(default_factory=dict)
    server: dict[str, Any] = field(default_factory=dict)
    capacity: Capacity | None = None
    error: str | None = None

    def rates(self, level: str) -> dict[int, float]:
        """Requests per second of right answers, by round."""
        return {round_: measurement.load.requests_per_second for round_, measurement in self.measurements[level]}

    def wrong_answers(self, level: str) -> int:
        """How many answers of all rounds were wrong."""
        return sum(measurement.load.outcome.count(WRONG_ANSWER) for _, measurement in self.measurements[level])


def known(values: Iterable[float | None]) -> list[float]:
    """The values that are there."""
    return [value for value in values if value is not None]


def summarised(
    concurrency: int | None, offered: float | None, measured: list[Measurement], floor: Floor | None = None
) -> dict[str, Any]:
    """What the row of one load says in every suite (the fields of Level), from its measurements, one per turn."""
    loads = [measurement.load for measurement in measured]
    usages = [measurement.usage for measurement in measured]
    workers = [worker for measurement in measured for worker in measurement.workers]
    requests, batches = sum(worker["requests"] for worker in workers), sum(worker["batches"] for worker in workers)
    rates = [load.requests_per_second for load in loads]
    latencies = latency_ms([seconds for load in loads for seconds in load.right_latency_s])
    doors = [door for measurement in measured for door in measurement.doors]
    found = anatomy(workers, doors, latencies["mean"], floor)
    statuses, sizes = Counter(), Counter()
    for load in loads:
        statuses.update(load.statuses)
    for worker in workers:
        sizes.update(worker["batch_sizes"])
    return {
        "concurrency": concurrency,
        "rate": offered,
        "requests_per_second": rate(rates),
        "latency_ms": latencies,
        "requests": request_counts(*loads),
        "http_statuses": dict(statuses),
        "cpu_percent": cpu_percent(loads, usages),
        "server_memory_bytes": max(known(usage.memory_bytes for usage in usages), default=None),
        "gpu_percent": mean(known(usage.gpu_percent for usage in usages)),
        "gpu_memory_bytes": max(known(usage.gpu_memory_bytes for usage in usages), default=None),
        "gpu_power_w": mean(known(usage.gpu_power_w for usage in usages)),
        "client": client(measured),
        "mean_in_flight": mean_in_flight(loads),
        "mean_batch_size": requests / batches if batches else None,
        "batch_sizes": dict(sorted(sizes.items())),
        "worker_shares": worker_shares(measured),
        "worker_busy_percent": worker_busy_percent(workers, rates, len(measured)),
        "stages_ms": found.stages_ms if found else None,
        "waiting_ms": found.waiting_ms if found else None,
        "cpu_s_per_1000_requests": cpu_s_per_1000(measured),
        "gpu_energy_j_per_request": energy_per_request(measured),
        "warnings": warnings(concurrency, measured),
    }


def quality(measured: list[Measurement]) -> float | None:
    """Mean of what the suite's check thinks of the answers."""
    return mean(known(value for measurement in measured for value in measurement.load.quality))


def output_rate(measured: list[Measurement], per_request: int) -> Rate:
    """Right answers per second, times what one of them holds."""
    return rate([per_request * measurement.load.requests_per_second for measurement in measured])


def in_process_rate(records: list[Record], per_request: int) -> Rate | None:
    """What was measured without a server beside each turn, times what one request holds; None if it was not."""
    values = [per_request * value for record in records for value in record.in_process.values()]
    return rate(values) if values else None


def mean_in_flight(loads: list[Load]) -> float | None:
    """Little's law: right answers per second times their mean latency; None without right answers."""
    return mean([load.requests_per_second * mean(load.right_latency_s) for load in loads if load.right_latency_s])


def cpu_percent(loads: list[Load], usages: list[Usage]) -> dict[str, float | None]:
    """CPU of the machine, the server, the client and the server's roles; percent of one core, mean over the turns."""
    busy = {
        "machine": mean(known(usage.machine_percent for usage in usages)),
        "stolen": mean(known(usage.stolen_percent for usage in usages)),
        "server": mean(known(usage.server_percent for usage in usages)),
        "client": mean([100 * load.client_cpu_s / load.window_s for load in loads if load.window_s > 0]),
    }
    roles = [usage.role_percent for usage in usages if usage.role_percent]
    return busy | {role: mean([percent[role] for percent in roles]) for role in ROLES}


def client(measured: list[Measurement]) -> Client:
    """The client's own part in a row."""
    ended = sum(len(measurement.load.ended) for measurement in measured)
    cpu_s = sum(measurement.load.client_cpu_s for measurement in measured)
    late_s = [seconds for measurement in measured for seconds in measurement.load.late_s]
    ceiling = measured[0].ceiling
    measured_rate = mean([measurement.load.requests_per_second for measurement in measured])
    return Client(
        cpu_us_per_request=1e6 * cpu_s / ended if ended else None,
        ceiling_requests_per_second=ceiling,
        share_of_ceiling=measured_rate / ceiling if ceiling else None,
        mean_send_delay_ms=1000 * mean(late_s) if late_s else None,
    )


def worker_shares(measured: list[Measurement]) -> list[float]:
    """Each worker's share of the requests of its turn, largest first, mean over turns."""
    turns = [sorted((worker["requests"] for worker in measurement.workers), reverse=True) for measurement in measured]
    shares = [[count / sum(counts) for count in counts] for counts in turns if sum(counts)]
    return [mean(rank) for rank in zip(*shares, strict=False)]


def worker_busy_percent(workers: list[dict[str, Any]], rates: list[float], turns: int) -> float | None:
    """Share of the time in which a worker was at work: seconds per request, times requests per second and worker."""
    requests = total(workers, "requests")
    if not requests:
        return None
    return 100 * total(workers, "busy_s") / requests * mean(rates) / (len(workers) / turns)


def cpu_s_per_1000(measured: list[Measurement]) -> dict[str, float | None]:
    """CPU seconds of 1,000 requests, by role of the server, and of the client; over all turns that know the role."""

    def spent(role: str) -> float | None:
        told = [one for one in measured if one.usage.role_percent and one.load.ended]
        cpu_s = sum(one.usage.role_percent[role] / 100 * one.load.window_s for one in told)
        return 1000 * cpu_s / sum(len(one.load.ended) for one in told) if told else None

    of_client = client(measured).cpu_us_per_request
    return {role: spent(role) for role in ROLES} | {"client": None if of_client is None else of_client / 1000}


def energy_per_request(measured: list[Measurement]) -> float | None:
    """Joules that the GPU drew, over the requests that ended meanwhile; None if it does not tell."""
    told = [one for one in measured if one.usage.gpu_energy_j is not None and one.load.ended]
    return sum(one.usage.gpu_energy_j for one in told) / sum(len(one.load.ended) for one in told) if told else None


def warnings(concurrency: int | None, measured: list[Measurement]) -> list[str]:
    """The doubts about a row: symptom, likely cause, what to try."""
    loads, found = [measurement.load for measurement in measured], []
    failed = {outcome: count for outcome, count in request_counts(*loads).items() if outcome not in ("sent", "ok")}
    if any(failed.values()):
        found.append("not all right: " + ", ".join(f"{count} {name}" for name, count in failed.items() if count))
    unstable = [spread for load in loads if (spread := window_spread(load)) is not None and spread > STABLE_SPREAD]
    if unstable:
        found.append(
            f"unstable: up to {100 * max(unstable):.0f} % between the thirds of a window in {len(unstable)} of "
            f"{len(loads)} turns; other work on the machine? try a longer --duration"
        )
    share = client(measured).share_of_ceiling
    if share is not None and share > CLIENT_BOUND:
        found.append(f"client-bound: {100 * share:.0f} % of what the client can measure; put it on another machine")
    in_flight = mean_in_flight(loads)
    if concurrency and in_flight and not any(failed.values()) and in_flight < LEAST_IN_FLIGHT * concurrency:
        found.append(
            f"only {in_flight:.1f} of {concurrency} requests in flight (Little's law): was the client held up?"
        )
    late_s = [seconds for load in loads for seconds in load.late_s]
    late = sum(seconds > LATE_S for seconds in late_s) / max(1, len(late_s))
    if late > LATE_SHARE:
        found.append(
            f"{100 * late:.0f} % of the requests were sent over {1000 * LATE_S:.0f} ms late: the client had no CPU "
            "or no connection; try a lower --rate, or another machine for the client"
        )
    stolen = mean(known(measurement.usage.stolen_percent for measurement in measured))
    if stolen is not None and stolen > STOLEN_PERCENT:
        found.append(f"the hypervisor gave {stolen:.0f} % of a core to others: expect noise")
    return found


def window_spread(load: Load) -> float | None:
    """By how much the throughput of the thirds of the window differs; None if it is too short to tell."""
    counts = [0] * WINDOWS
    for moment in load.ended:
        counts[min(WINDOWS - 1, int(WINDOWS * (moment - load.opened) / load.window_s))] += 1
    return relative_spread(counts) if min(counts) >= 30 else None
