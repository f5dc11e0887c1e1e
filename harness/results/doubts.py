"""The doubts about a row: symptom, likely cause, what to try; and about the machine of a run."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy

from harness.load.job import LoadResult
from harness.load.latency import request_counts
from harness.measure.window import OfferedLoad, Window, known, mean
from harness.results.rows import Client
from harness.results.schema import WindowRecord

CLIENT_BOUND = 0.5
LEAST_CONCURRENCY = 0.95
STOLEN_PERCENT = 5
UNSTEADY_PERCENT = 10
LEAST_DEGREES = 10  # of freedom: fewer say little about a spread
LATE_S, LATE_SHARE = 0.005, 0.01  # perf_analyzer's rule: then it is no longer the load asked for


def doubts(
    offered: OfferedLoad,
    windows: list[Window],
    client: Client,
    achieved: float | None,
    resolution_percent: float | None,
    asked_percent: float,
) -> list[str]:
    """All doubts about the row of these windows; `achieved` is its mean concurrency."""
    results = [window.load for window in windows]
    counts = request_counts(*results)
    failed = {name: count for name, count in counts.items() if name not in ("sent", "ok") and count}
    stolen = mean(known(window.usage.stolen_percent for window in windows))
    return [
        *failures(failed),
        *coarse(resolution_percent, asked_percent),
        *client_bound(client),
        *(() if failed else low_concurrency(offered, achieved)),
        *late_sends(results),
        *stolen_cpu(stolen),
    ]


def failures(failed: dict[str, int]) -> Iterator[str]:
    if failed:
        yield "failed requests: " + ", ".join(f"{count} {name}" for name, count in failed.items())


def coarse(resolution_percent: float | None, asked_percent: float) -> Iterator[str]:
    if resolution_percent is not None and resolution_percent > asked_percent:
        shown = math.ceil(10 * resolution_percent) / 10  # never rounded to what was asked
        yield (
            f"known to ± {shown:g} % only, not to {asked_percent:g} %: measure "
            f"longer, --minutes or --precision {asked_percent:g}"
        )


def client_bound(client: Client) -> Iterator[str]:
    share = client.share_of_ceiling
    if share is not None and share > CLIENT_BOUND:
        yield (
            f"client-bound: {100 * share:.0f} % of what the client can measure; run it on another "
            "machine with --url"
        )


def low_concurrency(offered: OfferedLoad, achieved: float | None) -> Iterator[str]:
    asked = offered.concurrency
    if asked and achieved and achieved < LEAST_CONCURRENCY * asked:
        yield (f"mean concurrency only {achieved:.1f} of {asked} (Little's law): client held up?")


def late_sends(results: list[LoadResult]) -> Iterator[str]:
    late_s = [seconds for result in results for seconds in result.late_s]
    share = sum(seconds > LATE_S for seconds in late_s) / max(1, len(late_s))
    if share > LATE_SHARE:
        yield (
            f"{100 * share:.0f} % of the requests were sent over {1000 * LATE_S:.0f} ms late: the "
            "client had no CPU or no connection; try a lower --rate, or another machine for it"
        )


def stolen_cpu(percent: float | None) -> Iterator[str]:
    if percent is not None and percent > STOLEN_PERCENT:
        yield f"the hypervisor gave {percent:.0f} % of a core to others: expect noise"


def unsteady_machine(windows: Iterable[WindowRecord]) -> list[str]:
    """That the machine's own speed may have changed: within a launch and a load, rates vary from
    window to window, and with them the CPU time that a request takes.
    """
    rates: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    costs: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for each in windows:
        if each.cpu_s and each.requests_per_second > 0:
            launch = each.server, each.load, each.epoch
            rates[launch].append(each.requests_per_second)
            costs[launch].append(sum(each.cpu_s.values()) / rates[launch][-1] / each.seconds)
    spreads = spread_percent(rates.values()), spread_percent(costs.values())
    if None in spreads or min(spreads) <= UNSTEADY_PERCENT:
        return []
    return [
        f"unsteady machine? CPU time per request varied by {spreads[1]:.0f} % between windows of "
        "one launch: measure longer"
    ]


def spread_percent(groups: Iterable[list[float]]) -> float | None:
    """Standard deviation of the values' logarithms within their groups, pooled, in percent; None if
    they are few.
    """
    logs = [numpy.log(values) for values in groups]
    degrees = sum(len(each) - 1 for each in logs)
    if degrees < LEAST_DEGREES:
        return None
    return 100 * math.sqrt(sum(len(each) * each.var() for each in logs) / degrees)
