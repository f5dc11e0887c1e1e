"""The search for capacity: against queues whose capacity is known, simulated and real."""

import asyncio
import time
from dataclasses import replace

import numpy
import pytest

from harness.load.job import CONNECTION_ERROR, OK, TIMEOUT, Job, LoadResult
from harness.load.runner import run_job
from harness.measure.capacity import TIME_LIMIT_S, Capacity, capacity, searched, window_s
from harness.process.launch import ServerFailedError
from tests.scripted import OK_REPLY, scripted_server

SERVICE_S, SLO_MS = 0.003, 60.0


def latencies(rate: float, count: int, seed: int) -> numpy.ndarray:
    """Seconds, of a queue with one server that takes as long for all; Poisson arrivals."""
    gaps = numpy.random.default_rng(seed).exponential(1 / rate, count)
    waits = numpy.zeros(count)
    for index in range(1, count):
        waits[index] = max(0.0, waits[index - 1] + SERVICE_S - gaps[index])
    return waits + SERVICE_S


def true_capacity() -> float:
    """Where the p99 of very many requests meets the SLO, by bisection."""
    low, high = 0.5 / SERVICE_S, 1 / SERVICE_S
    while high - low > 0.5:
        middle = (low + high) / 2
        within = numpy.percentile(latencies(middle, 150_000, 7), 99) <= SLO_MS / 1000
        low, high = (middle, high) if within else (low, middle)
    return low


def load_of(seconds: list[float], outcome: list[str] | None = None) -> LoadResult:
    return LoadResult(
        opened=0,
        closed=1,
        ended=[1.0] * len(seconds),
        latency_s=seconds,
        service_s=seconds,
        outcome=outcome or [OK] * len(seconds),
    )


def stepwise(limit: float, calls: list[float], slow_s: float = 1.0):
    """A server that is fast up to a rate and slow beyond it."""

    def measure(rate: float) -> LoadResult:
        calls.append(rate)
        return load_of([0.01 if rate <= limit else slow_s] * 700)

    return measure


@pytest.mark.parametrize("first", [30.0, 100.0, 5000.0])
def test_a_sharp_limit_is_found_within_five_percent_from_wherever_the_search_begins(first):
    result = searched(stepwise(200.0, []), first, SLO_MS, lambda: 0.0)
    assert 200 / 1.05 <= result.requests_per_second <= 200 < result.fails_at


@pytest.mark.parametrize("seed", range(5))
def test_the_capacity_of_a_simulated_queue_is_found_within_ten_percent(seed):
    windows = iter(range(1000))

    def measure(rate: float) -> LoadResult:
        warm_up, counted = int(0.5 * rate), int(rate * window_s(rate, 3.0))
        return load_of(
            list(latencies(rate, warm_up + counted, 1000 * seed + next(windows))[warm_up:])
        )

    result = searched(measure, 120.0, SLO_MS, lambda: 0.0)
    assert result.requests_per_second == pytest.approx(true_capacity(), rel=0.1)


@pytest.mark.slow
def test_the_capacity_of_a_server_over_http_is_found_within_ten_percent():
    """One request at a time, each 3 ms: on its schedule, however late the machine wakes it up."""
    free_at = 0.0

    async def script(_, writer):
        nonlocal free_at
        free_at = max(free_at, time.monotonic()) + SERVICE_S
        await asyncio.sleep(free_at - time.monotonic())
        writer.write(OK_REPLY)

    with scripted_server(script) as (url, _):
        result = capacity(
            Job(url=url, bodies=[b"{}"], duration_s=2.0, warmup_s=0.5), run_job, SLO_MS
        )
    assert result.requests_per_second == pytest.approx(true_capacity(), rel=0.1), result


def test_one_unlucky_window_does_not_decide():
    spoilt = iter([True, False, False, True])

    def measure(rate: float) -> LoadResult:
        return load_of([1.0 if rate > 200 or next(spoilt, False) else 0.01] * 700)

    assert searched(measure, 100.0, SLO_MS, lambda: 0.0).requests_per_second == pytest.approx(
        200, rel=0.05
    )


def test_a_rate_with_a_failed_request_does_not_hold_however_fast_the_others_were():
    def measure(rate: float) -> LoadResult:
        return load_of([0.01] * 700, [OK] * 699 + [OK if rate <= 50 else TIMEOUT])

    assert searched(measure, 100.0, SLO_MS, lambda: 0.0).requests_per_second == pytest.approx(
        50, rel=0.05
    )


def test_the_search_ends_in_time_and_keeps_what_it_knows():
    calls: list[float] = []
    result = searched(stepwise(200.0, calls), 190.0, SLO_MS, lambda: 60.0 * len(calls))
    assert len(calls) <= TIME_LIMIT_S / 60
    assert (result.requests_per_second, result.fails_at) == (190.0, pytest.approx(266))
    assert result.text == "at least 190 requests/s, below 266"


def test_windows_too_long_for_the_search_are_not_begun():
    calls: list[float] = []
    assert (
        searched(stepwise(200.0, calls), 100.0, 10_000.0, lambda: 0.0, least_s=300.0).windows
        == calls
        == []
    )


def test_a_server_that_dies_in_the_search_has_failed_and_has_no_capacity():
    def run_load(job: Job) -> LoadResult:
        alive = (
            job.rate is None and job.concurrency > 1
        )  # the first look, before anything was offered
        result = load_of([0.01] * 100, [OK if alive else CONNECTION_ERROR] * 100)
        return replace(result, correct_in_window=100 if alive else 0)

    with pytest.raises(ServerFailedError, match="no correct answer after"):
        capacity(Job(url="http://127.0.0.1:1/", bodies=[b"{}"]), run_load, SLO_MS)


def test_a_server_too_slow_for_a_percentile_in_time_has_no_capacity_and_says_so():
    calls: list[float] = []
    result = searched(stepwise(0.1, calls), 0.5, SLO_MS, lambda: 0.0)
    assert result == Capacity(SLO_MS, None, None, [])
    assert result.text == "no rate found in time"
    assert calls == []
