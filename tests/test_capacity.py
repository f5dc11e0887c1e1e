"""Capacity: the search and what follows from its windows, against queues of known capacity."""

import asyncio
import math
import time
from collections.abc import Callable
from functools import cache
from itertools import count

import numpy
import pytest
from scipy.stats import beta

from harness.judge.capacity import (
    FAILS,
    HOLDS,
    UNCLEAR,
    capacities,
    capacity_fits,
    certain_bounds,
    certainty,
    crossing,
    is_capacity,
    tallies,
)
from harness.judge.judgement import judged
from harness.judge.verdicts import LoadFit, verdicts
from harness.load.job import CONNECTION_ERROR, OK, TIMEOUT, WRONG_ANSWER, Job, LoadResult
from harness.load.latency import latency_ms, request_counts
from harness.load.runner import run_job
from harness.measure.capacity import (
    RESOLUTION,
    STEP,
    TRIES,
    CapacityWindow,
    Search,
    Tally,
    Trial,
    late_answers,
    late_shares,
    lone_job,
    offered_job,
    pooled,
    window_s,
)
from harness.results.file import save
from harness.show.columns import capacity_text
from harness.suite import read_results
from tests.builders import capacity_window, results, variant
from tests.scripted import OK_REPLY, scripted_server

SERVICE_S, SLO_MS = 0.003, 60.0
WINDOW_S, WARMUP_S = 1.8, 0.3  # 30 SLOs, after five
SERVERS = {"steady": "steady", "control": "steady", "a": "a", "b": "b", "c": "c", "d": "d"}
JOB = Job(url="http://127.0.0.1:1/", bodies=[b"{}"])


def latencies(
    rate: float, requests: int, chance: numpy.random.Generator, service_s: float = SERVICE_S
) -> numpy.ndarray:
    """Seconds, of a queue with one server that takes as long for all; Poisson arrivals (Lindley's
    recursion: a wait is the walk's height above its lowest point so far).
    """
    walk = numpy.cumsum(service_s - chance.exponential(1 / rate, requests))
    return walk - numpy.minimum(0, numpy.minimum.accumulate(walk)) + service_s


@cache
def true_capacity() -> float:
    """Where the p99 of very many requests meets the SLO, by bisection."""
    low, high = 0.5 / SERVICE_S, 1 / SERVICE_S
    while high - low > 0.5:
        middle = (low + high) / 2
        seconds = latencies(middle, 1_000_000, numpy.random.default_rng(7))
        within = numpy.percentile(seconds, 99) <= SLO_MS / 1000
        low, high = (middle, high) if within else (low, middle)
    return low


def queue_trial(rate: float, chance: numpy.random.Generator, speed: float) -> Trial:
    """A window of the queue at a rate, when its server is so many times as fast."""
    before, inside = int(WARMUP_S * rate), int(chance.poisson(WINDOW_S * rate))
    seconds = latencies(rate, before + inside, chance, SERVICE_S / speed)[before:]
    return Trial(rate, int((seconds > SLO_MS / 1000).sum()), inside)


def simulated(
    seed: int,
    slower: dict[str, float] | None = None,
    epochs: int = 3,
    blocks: int = 10,
    launches: float = 0.03,
) -> list[CapacityWindow]:
    """The capacity windows of a run of six servers, each launch of which has a luck of its own."""
    chance = numpy.random.default_rng(seed)
    searches = {server: Search(120.0) for server in SERVERS}
    made = []
    for epoch in range(epochs):
        for server, search in searches.items():
            search.begin_epoch()
            speed = math.exp(chance.normal(0, launches)) * (slower or {}).get(server, 1.0)
            for block in range(blocks):
                trial = queue_trial(search.next_rate, chance, speed)
                search.add(trial)
                where = {"epoch": epoch, "block": blocks * epoch + block}
                made.append(capacity_window(server, *trial, variant=SERVERS[server], **where))
    return made


def fit_of(windows: list[CapacityWindow]) -> LoadFit:
    (fit,) = capacity_fits(windows).values()
    return fit


def load_of(seconds: list[float], outcome: list[str] | None = None) -> LoadResult:
    return LoadResult(latency_s=seconds, outcome=outcome or [OK] * len(seconds))


def searched(late: Callable[[float], int], first: float, windows: int) -> Search:
    """A search in which so many of 150 answers at a rate are late."""
    search = Search(first)
    for _ in range(windows):
        search.add(Trial(search.next_rate, late(search.next_rate), 150))
    return search


@pytest.mark.parametrize("first", [30.0, 101.2345, 5000.0])
def test_a_sharp_limit_is_found_within_the_resolution_from_wherever_the_search_begins(first):
    search = searched(lambda rate: 0 if rate <= 200 else 100, first, 25)
    held, failed = search.bracket
    assert held <= 200 < failed <= RESOLUTION * held
    assert search.settled


def test_the_search_steps_then_bisects_then_tries_both_ends_in_turn():
    search = searched(lambda rate: 0 if rate <= 200 else 100, 100.0, 12)
    assert [each.rate for each in search.trials] == [
        *(100.0, 140.0, 196.0, 274.4),  # one rate has held and one has not
        *(231.9, 213.2, 204.4),  # the middle between them
        *(196.0, 204.4, 196.0, 204.4, 196.0),
    ]
    assert search.settled
    del search.trials[-2:]
    assert not search.settled, f"an end was tried fewer than {TRIES} times"


def test_one_unlucky_window_is_mended_once_the_evidence_at_that_end_has_turned():
    def after(windows: int) -> Search:
        spoilt = iter([0, 5])  # the second window, at a rate that is easily carried
        return searched(lambda rate: 100 if rate > 200 else next(spoilt, 0), 100.0, windows)

    assert after(2).bracket == (100.0, 140.0)
    held, failed = after(30).bracket
    assert held <= 200 < failed <= RESOLUTION * held


def test_a_new_epoch_begins_with_both_ends_of_the_last_bracket_and_judges_them_anew():
    search = searched(lambda rate: 0 if rate <= 200 else 100, 196.0, 12)
    held, failed = search.bracket
    search.begin_epoch()
    assert search.bracket == (None, None)
    assert search.next_rate == held
    search.add(Trial(held, 100, 150))  # this launch carries less
    assert search.next_rate == failed
    search.add(Trial(failed, 100, 150))
    steps = []
    for _ in range(3):
        steps.append(min(each.rate for each in search.trials) / search.next_rate)
        search.add(Trial(search.next_rate, 100, 150))
    assert RESOLUTION * 0.98 < steps[0] < steps[1] < steps[2] <= STEP * 1.01


def test_an_epoch_that_ended_too_soon_begins_the_next_where_it_stood():
    for late, expected in ((0, 140.0), (100, 51.02)):
        search = searched(lambda _, late=late: late, 100.0, 2)
        search.begin_epoch()
        assert search.next_rate == expected


def test_windows_without_requests_say_nothing():
    search = Search(2.0)
    search.add(Trial(2.0, 0, 0))
    assert search.bracket == (None, None)
    assert search.next_rate == 2.0
    assert crossing({}) is None
    assert capacity_fits([]) == {} == capacities([], {})


def test_a_window_backs_its_own_p99_where_there_is_time_and_overload_always_shows_in_it():
    assert window_s(100, 1.5, 60) == pytest.approx(1.15 * 6.62)
    assert window_s(100, 1.5, 3.3) == 3.3
    assert window_s(0.7, 150.0, 3.3) == 150.0
    made = offered_job(JOB, 100.0, 100.0, 5.0)
    assert (made.rate, made.duration_s, made.warmup_s, made.timeout_s) == (100.0, 5.0, 0.5, 1.0)
    slow = offered_job(JOB, 1.0, 5000.0, 5.0)
    assert (slow.duration_s, slow.timeout_s) == (150.0, 20.0)
    assert lone_job(JOB, slow).timeout_s == 150.0  # what is left behind may take as long


def test_late_is_what_is_not_answered_correctly_within_the_slo():
    ends = [(0.01, OK), (0.07, OK), (0.01, WRONG_ANSWER), (0.01, TIMEOUT), (0.01, CONNECTION_ERROR)]
    assert late_answers(load_of(*map(list, zip(*ends, strict=True))), SLO_MS) == 4


def test_windows_at_one_rate_count_together_and_the_late_share_rises_with_the_rate():
    counts = pooled([Trial(100, 2, 100), Trial(50, 3, 100), Trial(100, 0, 100), Trial(200, 9, 10)])
    assert list(counts.items()) == [
        *((50, Tally(3, 100, 1)), (100, Tally(2, 200, 2)), (200, Tally(9, 10, 1)))
    ]
    # the first two violate the order: together they are 5 late of 300
    assert late_shares(counts) == pytest.approx({50: 5 / 300, 100: 5 / 300, 200: 0.9})


def test_capacity_is_where_the_fitted_share_crosses_one_percent_over_the_log_of_the_rate():
    crossed = crossing({100.0: Tally(0, 100, 1), 200.0: Tally(2, 100, 1)})
    assert crossed == pytest.approx(math.sqrt(100 * 200))
    assert crossing({100.0: Tally(0, 100, 1)}) is None
    assert crossing({100.0: Tally(9, 100, 1)}) is None


@pytest.mark.parametrize("sent", [40, 300, 662, 5000])
def test_a_rate_holds_or_fails_where_clopper_and_pearson_say_so(sent):
    words = [certainty(Tally(late, sent, 1)) for late in range(sent + 1)]
    for late, word in enumerate(words):
        high = beta.ppf(0.95, late + 1, sent - late) if late < sent else 1.0
        low = beta.ppf(0.05, late, sent - late + 1) if late else 0.0
        assert word == (HOLDS if high < 0.01 else FAILS if low > 0.01 else UNCLEAR)
    assert (HOLDS in words) == (sent >= 299)  # with none late, 0.99 ** 299 < 5 %


def test_a_rate_that_holds_above_one_that_fails_is_no_bound():
    counts = {10.0: Tally(0, 400, 1), 20.0: Tally(20, 400, 1), 30.0: Tally(0, 400, 1)}
    assert certain_bounds(counts) == (10.0, 20.0)
    assert certain_bounds({10.0: Tally(0, 40, 1)}) == (None, None)


def test_the_capacity_of_equal_queues_is_known_within_ten_percent():
    windows = simulated(1)
    known = capacities(windows, capacity_fits(windows))
    assert set(known) == {"steady", "a", "b", "c", "d"}
    for each in known.values():
        rate = each.requests_per_second
        assert rate.mean == pytest.approx(true_capacity(), rel=0.1)
        assert rate.ci95[0] < rate.mean < rate.ci95[1]
        assert each.holds_at < each.fails_at


def test_the_intervals_of_equal_queues_cover_their_equality_in_nine_of_ten_runs():
    covered = [
        low <= 0 <= high
        for seed in range(40)
        for fit in capacity_fits(simulated(100 + seed)).values()
        for low, high in [fit.variants(name, "steady").interval() for name in "abcd"]
    ]
    assert len(covered) == 160
    assert 0.9 <= sum(covered) / len(covered) < 1


def test_a_capacity_that_is_thirty_percent_smaller_is_called_slower_and_its_twins_are_not():
    builds_on = {name: None if name == "steady" else "steady" for name in SERVERS.values()}
    made = verdicts(capacity_fits(simulated(2, {"d": 0.7})), builds_on, "steady", 8)
    words = {each.variant: each.comparison.verdict for each in made}
    assert words.pop("d") == "slower"
    assert set(words.values()) <= {"same", "undecided"}
    assert {each.load for each in made} == {"capacity (p99 60 ms)"}
    assert is_capacity(made[0].load)


def test_one_epoch_gives_a_capacity_between_tested_bounds_and_no_verdict():
    windows = simulated(3, epochs=1)
    fits = capacity_fits(windows)
    steady = capacities(windows, fits)["steady"]
    assert steady.requests_per_second.ci95 is None
    assert capacity_text(steady) == (
        f"about {steady.requests_per_second.mean:.0f} requests/s "
        f"({steady.holds_at:.4g} holds, {steady.fails_at:.4g} fails)"
    )
    (verdict,) = verdicts(fits, {"steady": None, "d": "steady"}, "steady", 8)
    assert verdict.comparison.text == "undecided: no capacity of both in two epochs"


def test_a_server_that_was_offered_too_little_in_time_says_so():
    windows = [capacity_window("steady", 0.5, 0, 40), capacity_window("steady", 0.7, 0, 50)]
    assert capacity_fits(windows) == {}
    (known,) = capacities(windows, {}).values()
    assert known.requests_per_second is None
    assert capacity_text(known) == "not known in the time there was"


def test_an_epoch_without_a_capacity_is_left_out_and_the_others_count():
    windows = simulated(4)
    lacking = [w for w in windows if (w.server, w.epoch) != ("d", 0)]
    few = fit_of(lacking)
    assert numpy.isnan(few.fit.effects).sum() == 1
    assert few.variance.freedom == 2 * 4
    whole, part = (fit.variants("d", "steady") for fit in (fit_of(windows), few))
    assert part.error / math.sqrt(few.variance.value) > whole.error / math.sqrt(
        fit_of(windows).variance.value
    )


def test_wrong_answers_carry_no_verdict_on_capacity():
    windows = simulated(5)
    wrong = capacity_window("d", 100.0, 2, 100, wrong=2)
    made = verdicts(capacity_fits([*windows, wrong]), {"steady": None, "d": "steady"}, "steady", 8)
    assert made[0].comparison.text == "not counted: 2 wrong answers"


def test_the_file_gives_back_capacities_and_verdicts(tmp_path):
    names = dict.fromkeys(SERVERS.values())
    variants = {name: variant(builds_on=None if name == "steady" else "steady") for name in names}
    made = judged(results(variants, capacity_windows=simulated(6, {"d": 0.7})))
    save(made, tmp_path / "r.json")
    read = read_results(tmp_path / "r.json")
    assert judged(read) == made
    assert made.variants["d"].capacity.requests_per_second.mean < 250
    assert made.aa_control["capacity (p99 60 ms)"].ci95
    assert any(line.startswith("best for capacity (p99 60 ms): ") for line in made.advice)


@pytest.mark.slow
def test_the_capacity_of_a_server_over_http_is_found_within_ten_percent():
    """One request at a time, each 3 ms: on its schedule, however late the machine wakes it up."""
    free_at, seeds = 0.0, count()

    async def script(_, writer):
        nonlocal free_at
        free_at = max(free_at, time.monotonic()) + SERVICE_S
        await asyncio.sleep(free_at - time.monotonic())
        writer.write(OK_REPLY)

    made, search = [], Search(120.0)
    with scripted_server(script) as (url, _):
        while not search.settled and len(made) < 25:
            job = Job(url=url, bodies=[b"{}"], seed=next(seeds))
            load = run_job(offered_job(job, search.next_rate, SLO_MS, 3.0))
            late, sent = late_answers(load, SLO_MS), request_counts(load)["sent"]
            search.add(Trial(search.next_rate, late, sent))
            made.append(capacity_window("steady", *search.trials[-1]))
    assert crossing(tallies(made)) == pytest.approx(true_capacity(), rel=0.1), made
    assert latency_ms(load.correct_latency_s)["mean"] > 3
