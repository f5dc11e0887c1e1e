"""Capacity under a promise: the highest rate of arrivals at which the 99th percentile of latency stays within a limit.

Bracketing by steps, then bisecting. One window decides nothing on a noisy machine: at every rate, two of up to three
windows have to agree. Latency counts from the moment a request was due (open loop, Poisson arrivals).
"""

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace

from harness.process.launch import ServerFailedError
from harness.load.job import OK, Job, Load
from harness.results.run import Capacity, CapacityWindow
from harness.results.rows import latency_ms, request_counts
from harness.judge.statistics import requests_needed

STEP = 1.4  # from rate to rate, until one has held and one has not
RESOLUTION = 1.05  # the lowest rate that failed over the highest that held, at the end
MARGIN = 1.15  # Poisson arrivals bring fewer requests than expected in every other window
PROMISES = 30  # a window is as many times longer than the promise: a backlog that grows by 5 % has to show in it
TIME_LIMIT_S = 240
FIRST_GUESS = 0.7  # of what is answered with so many requests in flight:
FIRST_IN_FLIGHT = 32


def capacity(job: Job, run_load: Callable[[Job], Load], promise_ms: float) -> Capacity:
    """Search with the requests of this job, whose own load does not matter.

    Raises ServerFailedError if nothing is answered rightly.
    """
    began, seeds = time.monotonic(), itertools.count(job.seed)
    patience_s = max(1.0, 4 * promise_ms / 1000)  # to wait longer would only delay the verdict on a rate

    least_s = max(job.duration_s, PROMISES * promise_ms / 1000)

    def offered(rate: float) -> Load:
        duration_s = window_s(rate, least_s)
        load = run_load(replace(job, rate=rate, duration_s=duration_s, timeout_s=patience_s, seed=next(seeds)))
        # a lone request comes through once the server is done with what the window has left behind
        lone = run_load(replace(job, rate=None, concurrency=1, duration_s=0.01, warmup_s=0.0, min_requests=1))
        if not lone.right_in_window:
            raise ServerFailedError(f"no right answer after {rate:.0f} requests/s were offered")
        return load

    saturated = run_load(replace(job, rate=None, concurrency=FIRST_IN_FLIGHT, duration_s=1.0))
    if not saturated.right_in_window:
        raise ServerFailedError("no right answer before the search for its capacity")
    first = FIRST_GUESS * saturated.requests_per_second
    return searched(offered, first, promise_ms, lambda: time.monotonic() - began, least_s)


def window_s(rate: float, least_s: float) -> float:
    """How long a window has to be so that enough requests back its 99th percentile."""
    return max(least_s, MARGIN * requests_needed(99) / rate)


def searched(
    measure: Callable[[float], Load],
    first: float,
    promise_ms: float,
    elapsed_s: Callable[[], float],
    least_s: float = 0.0,
) -> Capacity:
    """Search from the rate `first` until the bracket is narrow, or time is up.

    Args:
        measure: offers a rate, in requests per second, for one window.
        first: where to begin.
        promise_ms: what the 99th percentile may be.
        elapsed_s: how long the search has taken.
        least_s: how long a window lasts at least.
    """
    windows: list[CapacityWindow] = []

    def holds(rate: float) -> bool | None:
        """Whether two windows held it, or two did not; None if there is no time for another window."""
        found: list[bool] = []
        while found.count(True) < 2 and found.count(False) < 2:
            if elapsed_s() + window_s(rate, least_s) > TIME_LIMIT_S:
                return None
            windows.append(judged(rate, measure(rate), promise_ms))
            found.append(windows[-1].held)
        return found.count(True) == 2

    held, failed, rate = None, None, first
    while held is None or failed is None or failed / held > RESOLUTION:
        outcome = holds(rate)
        if outcome is None:
            break
        held, failed = (rate, failed) if outcome else (held, rate)
        rate = next_rate(held, failed)
    return Capacity(promise_ms, held, failed, windows)


def next_rate(held: float | None, failed: float | None) -> float:
    """A step beyond what is known, or the middle of the bracket."""
    if failed is None:
        return held * STEP
    return failed / STEP if held is None else math.sqrt(held * failed)


def judged(rate: float, load: Load, promise_ms: float) -> CapacityWindow:
    """Whether one window kept the promise: every request answered rightly, and enough of them, fast enough."""
    latency = latency_ms(load.right_latency_s)
    within = latency["p99"] is not None and latency["p99"] <= promise_ms
    return CapacityWindow(rate, request_counts(load), latency, within and set(load.outcome) == {OK})
