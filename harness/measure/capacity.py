"""Capacity under an SLO: the highest offered rate at which p99 of the latency stays within it.

Bracketing by steps, then bisecting. One window decides nothing on a noisy machine: at every rate,
two of up to three windows have to agree. Latency counts from the moment a request was due (open
loop, Poisson arrivals).
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from harness.load.job import OK, Job, LoadResult
from harness.load.latency import latency_ms, request_counts, requests_needed
from harness.process.launch import ServerFailedError

STEP = 1.4  # from rate to rate, until one has held and one has not
RESOLUTION = 1.05  # the lowest rate that failed over the highest that held, at the end
MARGIN = 1.15  # Poisson arrivals bring fewer requests than expected in every other window
SLOS = 30  # a window is as many SLOs long: a backlog that grows by 5 % has to show in it
TIME_LIMIT_S = 240
FIRST_GUESS = 0.7  # of what is answered at this concurrency:
FIRST_CONCURRENCY = 32


@dataclass(frozen=True)
class CapacityWindow:
    """One window of a search for capacity.

    Attributes:
        offered_rate: requests/s.
        requests: sent, and how they ended.
        latency_ms: mean and percentiles, from the intended send.
        held: whether it kept the SLO.
    """

    offered_rate: float
    requests: dict[str, int]
    latency_ms: dict[str, float | None]
    held: bool


@dataclass(frozen=True)
class Capacity:
    """The highest offered rate at which p99 keeps an SLO and nothing fails.

    Attributes:
        slo_p99_ms: the SLO, latency from the intended send.
        requests_per_second: the highest rate that held; None if none did in the time there was.
        fails_at: the lowest rate that did not, requests/s; None if none was reached in time.
        windows: every window, in order.
    """

    slo_p99_ms: float
    requests_per_second: float | None
    fails_at: float | None
    windows: list[CapacityWindow]

    @property
    def text(self) -> str:
        """The capacity for people, and how well it is known."""
        held, failed = self.requests_per_second, self.fails_at
        if held is None:
            return "no rate found in time" if failed is None else f"below {failed:.0f} requests/s"
        return f"at least {held:.0f} requests/s" + (f", below {failed:.0f}" if failed else "")


def capacity(job: Job, run_load: Callable[[Job], LoadResult], slo_p99_ms: float) -> Capacity:
    """Search with the requests of this job, whose own load does not matter.

    Raises ServerFailedError if nothing is answered correctly.
    """
    began, seeds = time.monotonic(), itertools.count(job.seed)
    patience_s = max(
        1.0, 4 * slo_p99_ms / 1000
    )  # to wait longer would only delay the verdict on a rate

    least_s = max(job.duration_s, SLOS * slo_p99_ms / 1000)

    def offered(rate: float) -> LoadResult:
        duration_s = window_s(rate, least_s)
        load = run_load(
            replace(job, rate=rate, duration_s=duration_s, timeout_s=patience_s, seed=next(seeds))
        )
        # a lone request comes through once the server is done with what the window has left behind
        lone = run_load(
            replace(job, rate=None, concurrency=1, duration_s=0.01, warmup_s=0.0, min_requests=1)
        )
        if not lone.correct_in_window:
            raise ServerFailedError(f"no correct answer after {rate:.0f} requests/s were offered")
        return load

    saturated = run_load(replace(job, rate=None, concurrency=FIRST_CONCURRENCY, duration_s=1.0))
    if not saturated.correct_in_window:
        raise ServerFailedError("no correct answer before the search for its capacity")
    first = FIRST_GUESS * saturated.requests_per_second
    return searched(offered, first, slo_p99_ms, lambda: time.monotonic() - began, least_s)


def window_s(rate: float, least_s: float) -> float:
    """How long a window has to be so that enough requests back its 99th percentile."""
    return max(least_s, MARGIN * requests_needed(99) / rate)


def searched(
    measure: Callable[[float], LoadResult],
    first: float,
    slo_p99_ms: float,
    elapsed_s: Callable[[], float],
    least_s: float = 0.0,
) -> Capacity:
    """Search from the rate `first` until the bracket is narrow, or time is up.

    Args:
        measure: offers a rate, in requests per second, for one window.
        first: where to begin.
        slo_p99_ms: the SLO: what the 99th percentile may be.
        elapsed_s: how long the search has taken.
        least_s: how long a window lasts at least.
    """
    windows: list[CapacityWindow] = []

    def holds(rate: float) -> bool | None:
        """Whether two windows held it, or two did not; None if there is no time for one more."""
        outcomes: list[bool] = []
        while outcomes.count(True) < 2 and outcomes.count(False) < 2:
            if elapsed_s() + window_s(rate, least_s) > TIME_LIMIT_S:
                return None
            windows.append(judged(rate, measure(rate), slo_p99_ms))
            outcomes.append(windows[-1].held)
        return outcomes.count(True) == 2

    held, failed, rate = None, None, first
    while held is None or failed is None or failed / held > RESOLUTION:
        outcome = holds(rate)
        if outcome is None:
            break
        held, failed = (rate, failed) if outcome else (held, rate)
        rate = next_rate(held, failed)
    return Capacity(slo_p99_ms, held, failed, windows)


def next_rate(held: float | None, failed: float | None) -> float:
    """A step beyond what is known, or the middle of the bracket."""
    if failed is None:
        return held * STEP
    return failed / STEP if held is None else math.sqrt(held * failed)


def judged(rate: float, load: LoadResult, slo_p99_ms: float) -> CapacityWindow:
    """Whether one window kept the SLO: every request answered correctly, and enough of them, fast
    enough.
    """
    latency = latency_ms(load.correct_latency_s)
    within = latency["p99"] is not None and latency["p99"] <= slo_p99_ms
    return CapacityWindow(rate, request_counts(load), latency, within and set(load.outcome) == {OK})
