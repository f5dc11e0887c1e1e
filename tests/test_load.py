"""The load generator: in virtual time against scripts in memory, and in short over real sockets."""

import asyncio
import json
import math
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from itertools import count, islice

import pytest
import requests

from harness.load import open_loop
from harness.load.__main__ import report, text
from harness.load.closed_loop import ClosedLoopWindow, State
from harness.load.echo_server import echo_server
from harness.load.job import Job, LoadResult
from harness.load.loop import DRAIN_S, DRAIN_STEP_S, WATCH_S, Moment, shuffled_cycle
from harness.load.runner import load_process, run_job
from harness.process.module_process import ProcessDiedError
from tests.scripted import OK_REPLY, STREAM_HEAD, chunk, following, replies, scripted_server
from tests.virtual_time import START_S, VirtualLoop

NOBODY = "http://127.0.0.1:9/"
PRECISE = 1e-4  # the seconds in which data moves through memory stay far below this


def job(url: str = "http://memory/predict", **changes) -> Job:
    """A short job with two bodies."""
    short = {"bodies": [b'{"x": 1}', b'{"x": 2}'], "duration_s": 0.6, "warmup_s": 0.1}
    return Job(url=url, **(short | changes))


def measured(handle, **changes) -> LoadResult:
    """What a job measures in virtual time; nobody listens where `handle` is None."""
    loop = VirtualLoop(handle)
    return run_job(job(**changes), clock=loop.time, loop_factory=lambda: loop)


def answered(script, **changes) -> LoadResult:
    """What a job measures of a script in virtual time."""
    return measured(following(script, []), **changes)


def now() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()


def intended(result: LoadResult) -> list[float]:
    """When each counted request was due."""
    return [end - took for end, took in zip(result.ended, result.latency_s, strict=True)]


def all_near(values: list[float], expected: float) -> bool:
    return bool(values) and all(abs(value - expected) < PRECISE for value in values)


def streams_in_turn(**changes) -> ClosedLoopWindow:
    """Of sixteen connections whose answers stream one after the other; times as in the tests'."""
    times = {"warmup_s": 1.0, "duration_s": 10.0, "timeout_s": 30.0}
    asked = {"concurrency": 16, "min_requests": 1, "carries_output": is_word}
    window = ClosedLoopWindow(job(**(times | asked | changes)), started=100.0)
    window.at_once = 1
    return window


class TestClosedLoopWindow:
    """Warm-up until 101 s and three ends of requests, at the latest 171 s; ten seconds at least."""

    @pytest.fixture
    def window(self) -> ClosedLoopWindow:
        times = {"warmup_s": 1.0, "duration_s": 10.0, "timeout_s": 30.0}
        return ClosedLoopWindow(job(concurrency=2, min_requests=3, **times), started=100.0)

    @pytest.fixture
    def opened(self, window) -> ClosedLoopWindow:
        assert window.edge(101.0, 3)
        return window

    def test_opens_at_the_end_of_a_request_after_the_warm_up(self, window):
        assert not window.edge(100.9, 50)
        assert window.state is State.WARMING_UP
        assert window.edge(101.0, 51)
        assert window.state is State.OPEN

    def test_waits_for_an_answer_per_connection_before_it_opens(self, window):
        assert not window.edge(130.0, 2)
        assert window.edge(131.0, 3)
        assert window.state is State.OPEN

    def test_waits_for_as_many_answers_per_connection_as_the_job_says(self):
        window = ClosedLoopWindow(job(concurrency=2, warmup_answers=3), started=100.0)
        assert not window.edge(131.0, 6)
        assert window.edge(132.0, 7)

    def test_of_streams_opens_once_each_connection_had_an_answer_if_none_told_how_they_stream(self):
        window = ClosedLoopWindow(job(concurrency=2, carries_output=is_word), started=100.0)
        assert not window.edge(131.0, 1)
        assert window.edge(132.0, 2)
        assert window.state is State.OPEN

    def test_of_streams_opens_when_as_many_have_ended_as_stream_at_once_and_is_full_later(self):
        window = streams_in_turn()
        assert not window.edge(101.5, 1, is_end=False)
        assert window.edge(102.0, 2)
        assert window.state is State.FILLING
        assert not window.edge(130.0, 13)  # 15 in all
        assert window.edge(132.0, 14)
        assert window.state is State.OPEN

    def test_of_streams_closes_at_an_end_once_one_has_ended_since_it_was_full(self):
        window = streams_in_turn()
        assert window.edge(102.0, 1)
        assert window.edge(132.0, 15)
        assert not window.edge(132.0, 15, is_end=False)
        assert window.edge(134.0, 16)
        assert window.state is State.CLOSED

    def test_of_streams_that_is_full_early_lasts_as_long_as_asked_since_it_opened(self):
        window = streams_in_turn()
        assert window.edge(101.0, 1)
        assert window.edge(103.0, 15)
        assert not window.edge(110.9, 40)
        assert not window.edge(111.0, 40, is_end=False)
        assert window.edge(111.1, 41)

    def test_of_streams_without_latencies_closes_at_an_end_while_its_queue_still_fills(self):
        window = streams_in_turn(wants_latencies=False, min_requests=2)
        assert window.edge(102.0, 1)
        assert not window.edge(111.9, 9)  # not as long as asked
        assert not window.edge(112.0, 9, is_end=False)
        assert window.edge(112.1, 10)
        assert window.state is State.CLOSED

    def test_of_streams_without_latencies_waits_for_enough_requests_all_the_same(self):
        window = streams_in_turn(wants_latencies=False, min_requests=2)
        assert window.edge(102.0, 1)
        assert not window.edge(115.0, 1)
        assert window.edge(118.0, 2)
        assert window.state is State.CLOSED

    def test_of_streams_without_latencies_has_them_if_its_queue_is_full_in_time(self):
        window = streams_in_turn(wants_latencies=False, min_requests=2)
        assert window.edge(102.0, 1)
        assert window.edge(111.0, 15)
        assert window.state is State.OPEN

    def test_of_streams_backs_a_median_with_answers_since_it_was_full(self):
        window = streams_in_turn(min_requests=3)
        assert window.edge(102.0, 1)
        assert window.edge(132.0, 15)
        assert not window.edge(136.0, 17)
        assert window.edge(138.0, 18)

    def test_of_streams_that_fills_for_too_long_is_full_at_the_next_end(self):
        """As late as one that had not opened would have opened: 171 s."""
        window = streams_in_turn()
        assert window.edge(120.0, 1)
        assert not window.edge(171.0, 4)
        assert window.edge(171.1, 5)
        assert window.state is State.OPEN
        assert not window.time_passed(211.2, 5)  # none has ended since
        assert window.edge(211.2, 6)
        assert window.state is State.CLOSED

    def test_of_streams_that_never_fills_closes_a_timeout_after_it_should_have_been_full(self):
        window = streams_in_turn()
        assert window.edge(120.0, 1)
        assert not window.time_passed(201.0, 9)
        assert window.time_passed(201.1, 9)
        assert window.state is State.CLOSED

    def test_of_streams_opens_at_any_arrival_if_the_job_waits_for_no_answer(self):
        window = streams_in_turn(warmup_answers=0)
        assert not window.needs_at_once(101.0, 1)
        assert window.edge(101.0, 0, is_end=False)
        assert window.state is State.OPEN
        assert window.edge(111.0, 1)

    def test_of_streams_holds_whole_waves_of_as_many_answers_as_stream_at_once(self):
        window = ClosedLoopWindow(
            job(concurrency=4, duration_s=10.0, min_requests=1, carries_output=is_word), 100.0
        )
        window.at_once = 4
        assert not window.edge(101.0, 3)
        assert window.edge(101.0, 4)
        assert not window.edge(111.0, 5)  # a part of a stream, between the first wave's last ...
        assert not window.edge(112.0, 7)
        assert window.edge(112.1, 8)  # ... and the end of the second

    def test_of_streams_closes_at_an_end_where_they_stream_in_turn(self):
        window = ClosedLoopWindow(
            job(concurrency=16, duration_s=10.0, min_requests=1, carries_output=is_word), 100.0
        )
        assert window.edge(123.0, 16)
        assert not window.edge(132.9, 7)
        assert not window.edge(133.0, 7, is_end=False)
        assert window.edge(133.0, 7)

    def test_closes_at_the_end_of_a_request_once_it_is_long_enough(self, opened):
        assert not opened.edge(110.9, 50)
        assert not opened.time_passed(111.5, 50)
        assert opened.edge(111.6, 51)
        assert opened.state is State.CLOSED

    def test_stays_open_for_longer_while_too_few_requests_have_ended(self, opened):
        assert not opened.edge(120.0, 2)
        assert opened.edge(130.0, 3)
        assert opened.state is State.CLOSED

    def test_closes_during_a_stall_after_four_times_its_length(self, opened):
        assert not opened.time_passed(141.0, 3)
        assert opened.time_passed(141.1, 3)
        assert opened.state is State.CLOSED

    def test_with_few_answers_closes_at_the_next_end_after_that_or_a_timeout_later(self, opened):
        assert not opened.edge(140.9, 1)
        assert not opened.time_passed(141.1, 1)
        assert not opened.time_passed(171.0, 0)
        assert opened.edge(165.0, 2)
        assert opened.state is State.CLOSED

    def test_without_any_end_closes_a_timeout_after_four_times_its_length(self, opened):
        assert not opened.edge(141.1, 0)
        assert not opened.time_passed(171.0, 0)
        assert opened.time_passed(171.1, 0)
        assert opened.state is State.CLOSED

    def test_opens_late_with_fewer_answers_than_it_should_wait_for(self, window):
        assert not window.edge(171.0, 1)
        assert not window.edge(171.1, 0)
        assert window.edge(171.2, 2)
        assert window.state is State.OPEN
        assert not window.time_passed(211.2, 3)
        assert window.time_passed(211.3, 3)

    def test_one_that_never_opened_closes_a_timeout_after_it_should_have(self, window):
        assert not window.time_passed(201.0, 0)
        assert window.time_passed(201.1, 0)
        assert window.state is State.CLOSED

    def test_nothing_happens_after_it_has_closed(self, opened):
        assert opened.edge(111.0, 3)
        assert not opened.edge(1000.0, 1000)
        assert not opened.time_passed(1000.0, 3)
        assert opened.state is State.CLOSED


def test_latency_is_the_servers_delay():
    result = answered(replies(delay_s=0.05), concurrency=4)
    assert all_near(result.latency_s, 0.05)
    assert result.service_s == result.latency_s
    assert result.requests_per_second == pytest.approx(4 / 0.05, rel=1e-3)


def test_closed_loop_keeps_the_asked_concurrency():
    waiting, most = 0, 0

    async def script(_, writer):
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.02)
        waiting -= 1
        writer.write(OK_REPLY)

    result = answered(script, concurrency=7)
    mean_latency = sum(result.latency_s) / len(result.latency_s)
    assert most == 7
    assert result.requests_per_second * mean_latency == pytest.approx(7, rel=1e-3)  # Little's law


def test_throughput_of_batches_has_no_error_of_edges():
    """16 answers come every 0.1 s: a window of 0.55 s would hold five or six times as many."""
    waiting = []

    async def script(_, writer):
        waiting.append(writer)
        if len(waiting) == 16:
            batch = waiting[:]
            waiting.clear()
            await asyncio.sleep(0.1)
            for each in batch:
                each.write(OK_REPLY)

    result = answered(script, concurrency=16, duration_s=0.55)
    assert result.window_s == pytest.approx(0.6, rel=1e-3)
    assert result.correct_in_window == 6 * 16


def test_it_is_told_when_the_window_opens_and_when_it_is_over():
    for offered in ({"concurrency": 3}, {"rate": 100.0}):
        loop, told = VirtualLoop(following(replies(), [])), []
        result = run_job(
            job(**offered),
            on_moment=lambda moment, at=told, clock=loop.time: at.append((moment, clock())),
            clock=loop.time,
            loop_factory=lambda made=loop: made,
        )
        assert [moment for moment, _ in told] == [Moment.OPENED, Moment.CLOSED]
        assert told[0][1] == pytest.approx(result.opened, abs=0.05)
        assert told[1][1] == pytest.approx(result.closed, abs=WATCH_S)
        assert START_S + 0.1 <= result.opened < START_S + 0.11
        assert min(result.ended) > result.opened


def test_the_window_opens_after_as_many_answers_per_connection_as_asked():
    for answers in (1, 2, 5):
        asked = {"concurrency": 4, "warmup_s": 0.0, "warmup_answers": answers}
        result = answered(replies(delay_s=0.05), **asked)
        assert result.opened - START_S == pytest.approx(0.05 * (answers + 1), abs=PRECISE)


@pytest.mark.parametrize("offered", [{"concurrency": 3}, {"rate": 100.0}], ids=str)
def test_after_the_window_nothing_more_is_sent_and_what_is_due_still_comes(offered):
    """A server that is frozen next has nothing left to do."""
    heads, answers = [], []

    async def script(number, writer):
        await asyncio.sleep(0.2)
        answers.append(number)
        writer.write(OK_REPLY)

    loop = VirtualLoop(following(script, heads))
    result = run_job(job(**offered), clock=loop.time, loop_factory=lambda: loop)
    assert len(answers) == len(heads) > len(result.ended)
    assert loop.now < result.closed + 0.2 + 0.2 + WATCH_S + 2 * DRAIN_STEP_S


def test_a_server_that_owes_an_answer_is_not_waited_for_long():
    async def script(number, writer):
        await asyncio.sleep(1000 if number == 1 else 0.01)
        writer.write(OK_REPLY)

    loop = VirtualLoop(following(script, []))
    result = run_job(job(concurrency=2), clock=loop.time, loop_factory=lambda: loop)
    assert set(result.outcome) == {"ok"}
    assert DRAIN_S <= loop.now - result.closed <= DRAIN_S + 2 * DRAIN_STEP_S


def test_requests_say_when_they_were_due_in_unix_time():
    heads, before = [], time.time()
    result = measured(following(replies(), heads), warmup_s=0.0)
    after = time.time()
    sent = [float(head.split(b"X-Request-Start: t=")[1].split(b"\r\n")[0]) for head in heads]
    offsets = [unix - due for unix, due in zip(sent[2:], intended(result), strict=False)]
    assert len(offsets) > 100
    assert before - 1e-3 <= START_S + offsets[0] <= after + 1e-3
    assert max(offsets) - min(offsets) < 1e-5


def test_wrong_answers_are_no_throughput():
    result = answered(replies(), check=lambda body, index: (json.loads(body)["a"] == index, 0.5))
    assert result.correct_in_window == result.outcome.count("ok") == len(result.correct_latency_s)
    assert abs(result.outcome.count("ok") - result.outcome.count("wrong_answer")) <= 1
    assert result.requests_per_second == pytest.approx(0.5 / 0.005, rel=0.01)
    assert set(result.quality) == {0.5}


def test_a_defect_in_the_check_is_not_taken_for_a_server_error():
    with pytest.raises(KeyError):
        answered(replies(), check=lambda body, index: {}["no such key"])


def test_a_defect_in_a_loop_ends_the_run(monkeypatch):
    monkeypatch.setattr(open_loop.OpenLoop, "dispatch", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        answered(replies(), rate=100)


def test_http_errors_are_counted_by_status():
    result = answered(replies(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"))
    assert set(result.outcome) == {"http_error"}
    assert result.statuses == {503: len(result.outcome)}
    assert result.requests_per_second == 0
    assert set(result.quality) == {None}


def broken(reply: bytes):
    """A script that answers so, and hangs up."""

    async def script(_, writer):
        await asyncio.sleep(0.005)
        writer.write(reply)
        writer.close()

    return script


BROKEN_REPLIES = {
    "other protocol": b"SMTP ready\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: zehn\r\n\r\n",
    "cut short": OK_REPLY[:-3],
    "nothing": b"",
}
CLOSING_REPLY = OK_REPLY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("reply", BROKEN_REPLIES.values(), ids=BROKEN_REPLIES)
def test_broken_replies_are_connection_errors(reply):
    result = answered(broken(reply))
    assert set(result.outcome) == {"connection_error"}
    assert all_near(result.latency_s, 0.005)


def test_a_server_that_closes_each_connection_is_still_measured():
    result = answered(broken(CLOSING_REPLY), concurrency=2)
    assert set(result.outcome) == {"ok"}
    assert result.requests_per_second == pytest.approx(2 / 0.005, rel=1e-3)


@pytest.mark.parametrize("offered", [{"concurrency": 2}, {"rate": 50.0}], ids=str)
def test_a_server_that_hangs_up_before_it_was_asked_is_a_connection_error(offered):
    async def hang_up(_, writer):
        writer.close()

    result = measured(hang_up, **offered)
    assert set(result.outcome) == {"connection_error"}
    assert len(result.outcome) > 10


def test_what_nobody_asked_for_is_not_taken_for_the_next_answer():
    async def script(_, writer):
        writer.write(OK_REPLY)
        await asyncio.sleep(0.001)
        writer.write(OK_REPLY.replace(b"1}", b"2}"))

    result = answered(
        script, rate=20, duration_s=2.0, check=lambda body, _: (body == b'{"a": 1}', 1)
    )
    assert set(result.outcome) == {"ok"}
    assert len(result.outcome) > 20


def test_chunked_answers_are_put_together():
    parts = chunk(b'{"a"') + chunk(b": 1}") + chunk(b"")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + parts
    result = answered(replies(chunked), check=lambda body, index: (body == b'{"a": 1}', 1.0))
    assert set(result.outcome) == {"ok"}


async def silent(*_):
    """A script that never answers."""


def test_a_silent_server_times_out_and_the_run_ends():
    asked = {"concurrency": 3, "timeout_s": 0.3, "min_requests": 5}
    result = answered(silent, **asked)
    assert set(result.outcome) == {"timeout"}
    assert all(0.3 < latency <= 0.3 + 0.3 / 4 + PRECISE for latency in result.latency_s)
    assert result.closed < START_S + job(**asked).limit_s


def test_a_server_that_hangs_from_the_start_is_given_one_timeout_and_that_is_its_outcome():
    result = answered(silent, concurrency=64, timeout_s=30.0)
    assert result.outcome == ["timeout"] * 64
    assert result.requests_per_second == 0
    assert (result.opened, result.closed) == (START_S, pytest.approx(START_S + 30, abs=0.2))


def test_a_server_that_hangs_in_its_window_has_timeouts_in_it():
    async def script(number, writer):
        if number <= 30:
            await asyncio.sleep(0.02)
            writer.write(OK_REPLY)

    asked = {"concurrency": 4, "duration_s": 0.5, "timeout_s": 10.0, "min_requests": 90}
    result = answered(script, **asked)
    assert result.outcome.count("timeout") >= 1
    assert result.closed < START_S + job(**asked).limit_s


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_slower_than_the_window_is_measured_over_whole_answers(concurrency):
    turn = asyncio.Lock()

    async def script(_, writer):
        async with turn:  # one at a time
            await asyncio.sleep(6.0)
        writer.write(OK_REPLY)

    result = answered(script, concurrency=concurrency, duration_s=0.5, timeout_s=30.0)
    assert set(result.outcome) == {"ok"}
    assert result.requests_per_second == pytest.approx(1 / 6, rel=0.01)


@pytest.mark.parametrize("offered", [{"concurrency": 2}, {"rate": 50.0}], ids=str)
def test_refused_connections_are_connection_errors(offered):
    result = measured(None, **offered)
    assert set(result.outcome) == {"connection_error"}
    assert len(result.outcome) > 10
    assert max(result.latency_s) < 0.06


def test_a_stall_at_the_end_is_not_cut_off():
    """The server answers for a moment, then never again: the silence belongs to the window."""

    async def script(number, writer):
        if number <= 20:
            await asyncio.sleep(0.01)
            writer.write(OK_REPLY)

    result = answered(script, duration_s=0.5, timeout_s=10, min_requests=10)
    assert result.correct_in_window == 10  # half of them had come when the window opened
    assert 4 * 0.5 <= result.window_s <= 4 * 0.5 + WATCH_S + PRECISE
    assert result.requests_per_second == 10 / result.window_s


def test_open_loop_latency_counts_from_the_intended_send():
    """A stall delays all that is due meanwhile; a closed loop sees one slow request."""

    def stalling():
        until = 0.0

        async def script(number, writer):
            nonlocal until
            if number == 40:
                until = now() + 0.5
                stalls.append(now())
            await asyncio.sleep(max(0.005, until - now()))
            writer.write(OK_REPLY)

        return script

    stalls: list[float] = []
    result = answered(stalling(), rate=200, duration_s=1.0)
    ends = stalls[0] + 0.5
    for due, latency in zip(intended(result), result.latency_s, strict=True):
        expected = max(0.005, ends - due) if due > stalls[0] - PRECISE else 0.005
        assert latency == pytest.approx(expected, abs=1e-3)
    assert sum(latency > 0.1 for latency in result.latency_s) > 50
    closed_loop = answered(stalling(), duration_s=1.0)
    assert sum(latency > 0.1 for latency in closed_loop.latency_s) == 1


def test_open_loop_offers_the_asked_rate_whatever_the_server_does():
    heads = []
    asked = {"rate": 150, "duration_s": 2.0}
    slow = measured(following(replies(delay_s=0.2), heads), **asked)
    fast = answered(replies(), **asked)
    assert intended(slow) == pytest.approx(intended(fast), abs=1e-9)
    assert abs(len(slow.outcome) - 300) < 4 * math.sqrt(300)  # Poisson
    assert len(heads) >= len(slow.outcome) == len(slow.late_s)
    assert set(slow.outcome) == {"ok"}
    assert all_near(slow.latency_s, 0.2)
    assert (slow.opened, slow.closed) == (START_S + 0.1, START_S + 2.1)


@pytest.mark.parametrize("rate", [30, 150])
def test_open_loop_throughput_is_all_that_ended_in_the_window_whenever_it_was_due(rate):
    """Windows are short: what was due before them must not be missing."""
    answers = []

    async def script(_, writer):
        await asyncio.sleep(0.2)
        answers.append(now())
        writer.write(OK_REPLY)

    result = answered(script, rate=rate, warmup_s=1.0, duration_s=0.4)
    ended = sum(result.opened <= moment <= result.closed for moment in answers)
    assert result.correct_in_window == ended
    assert result.requests_per_second == pytest.approx(ended / 0.4)
    due = intended(result)
    assert result.opened <= min(due) <= max(due) < result.closed


def test_open_loop_latency_is_service_time_and_the_lateness_of_sending(monkeypatch):
    monkeypatch.setattr(open_loop, "MOST_CONNECTIONS", 2)
    result = answered(replies(delay_s=0.1), rate=30, duration_s=2.0)
    assert all_near(result.service_s, 0.1)
    assert max(result.late_s) > 0.2
    expected = sum(result.service_s) + sum(result.late_s)
    assert sum(result.latency_s) == pytest.approx(expected)


def test_open_loop_counts_what_it_could_not_send_in_time(monkeypatch):
    monkeypatch.setattr(open_loop, "MOST_CONNECTIONS", 1)
    asked = {"rate": 50, "duration_s": 1.0, "timeout_s": 2.0}
    offered = len(answered(replies(), **asked).outcome)
    result = answered(replies(delay_s=0.5), **asked)
    assert len(result.outcome) == offered
    assert set(result.outcome) == {"ok", "timeout"}
    assert result.outcome.count("ok") <= job(**asked).limit_s / 0.5


def streaming(end: bytes = b"data: [DONE]\n\n"):
    """The first output after 60 ms, in two parts; two more every 30 ms, two more with the end."""

    async def script(_, writer):
        writer.write(STREAM_HEAD + chunk(b": hello\n\ndata: start\n\n"))
        await asyncio.sleep(0.05)
        writer.write(chunk(b"data: wo"))
        await asyncio.sleep(0.01)
        for part in (b"rd\n\n", b"data: word\n\n", b"data: word\n\n"):
            writer.write(chunk(part))
            await writer.drain()
            await asyncio.sleep(0.03)
        writer.write(chunk(b"data: word\n\ndata: word\n\n" + end) + chunk(b""))

    return script


def is_word(event: bytes) -> bool:
    return event == b"word"


def test_outputs_of_a_stream_are_timed_when_their_last_byte_arrives():
    result = answered(streaming(), concurrency=2, carries_output=is_word)
    assert set(result.outcome) == {"ok"}
    assert all_near(result.first_output_s, 0.06)
    assert all_near(result.latency_s, 0.15)
    for gaps in result.output_gaps_s:
        assert gaps == pytest.approx([0.03, 0.03, 0.03, 0.0], abs=PRECISE)


def test_windows_of_streams_open_and_close_at_an_end_and_hold_whole_answers():
    """Answers of 0.15 s and five outputs; a second is over during the eighth."""
    result = answered(streaming(), carries_output=is_word, duration_s=1.0, min_requests=1)
    assert result.opened - START_S == pytest.approx(0.15, abs=PRECISE)
    assert result.closed - START_S == pytest.approx(8 * 0.15, abs=PRECISE)
    assert result.outcome == ["ok"] * result.correct_in_window
    assert (result.correct_in_window, result.outputs_in_window) == (7, 7 * 5)
    assert result.outputs_per_answer == 5
    assert result.requests_per_second == pytest.approx(7 / 1.05, rel=1e-3)


def test_a_stream_that_takes_longer_than_four_windows_is_measured_to_its_end():
    async def script(_, writer):
        writer.write(STREAM_HEAD)
        for _ in range(20):
            await asyncio.sleep(1.0)
            writer.write(chunk(b"data: word\n\n"))
        writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))

    result = answered(
        script, carries_output=is_word, duration_s=0.5, min_requests=1, timeout_s=60.0
    )
    assert result.outcome == ["ok"]
    assert result.requests_per_second == pytest.approx(1 / 20, rel=0.01)


def in_turn(script):
    """The same answers, one after the other."""
    one_at_a_time = asyncio.Lock()

    async def queueing(number, writer):
        async with one_at_a_time:
            await script(number, writer)

    return queueing


def test_the_last_answer_counts_although_it_is_complete_a_moment_after_its_last_output():
    """It ends with what closes the window, of a server of one at a time."""
    loop = VirtualLoop(following(in_turn(streaming()), []))
    ticks = count(1)
    result = run_job(
        job(concurrency=8, carries_output=is_word, duration_s=0.9, min_requests=1),
        clock=lambda: loop.time() + 1e-9 * next(ticks),
        loop_factory=lambda: loop,
    )
    assert result.closed - START_S == pytest.approx((8 + 1) * 0.15, abs=PRECISE)
    assert (result.correct_in_window, result.outputs_in_window) == (8, 8 * 5)


def test_streams_in_turn_count_from_the_first_answers_end_and_their_latency_once_all_had_one():
    loop, told = VirtualLoop(following(in_turn(streaming()), [])), []
    result = run_job(
        job(concurrency=8, carries_output=is_word, duration_s=0.6, min_requests=3),
        on_moment=lambda moment: told.append((moment, loop.time())),
        clock=loop.time,
        loop_factory=lambda: loop,
    )
    ends = [moment - START_S for moment in (result.opened, result.full_since, result.closed)]
    assert ends == pytest.approx([0.15, 8 * 0.15, 11 * 0.15], abs=PRECISE)
    assert [moment for moment, _ in told] == list(Moment)
    moments = [result.opened, result.full_since, result.closed]
    assert [at for _, at in told] == pytest.approx(moments, abs=PRECISE)
    assert result.requests_per_second == pytest.approx(1 / 0.15, rel=1e-3)
    assert len(result.outcome) == len(result.latency_s) == 10
    assert len(result.correct_latency_s) == 3
    assert all_near(result.correct_latency_s, 8 * 0.15)
    assert all_near(result.of_full_queue(result.first_output_s), 7 * 0.15 + 0.06)
    assert len(result.output_gaps_s) == 10


def test_streams_side_by_side_open_when_the_queue_is_full_and_hold_whole_waves():
    """Two at a time of six, 0.15 s each: a window of half a second ends in the fourth wave."""
    two_at_a_time = asyncio.Semaphore(2)

    async def script(number, writer):
        async with two_at_a_time:
            await streaming()(number, writer)

    asked = {"concurrency": 6, "carries_output": is_word, "duration_s": 0.5, "min_requests": 1}
    result = answered(script, **asked)
    assert result.opened - START_S == pytest.approx(0.15, abs=PRECISE)
    assert result.full_since - START_S == pytest.approx(3 * 0.15, abs=PRECISE)
    assert (result.correct_in_window, result.outputs_in_window) == (8, 8 * 5)
    assert result.requests_per_second == pytest.approx(2 / 0.15, rel=1e-3)
    assert all_near(result.correct_latency_s, 3 * 0.15)
    all_at_once = measured(following(streaming(), []), **(asked | {"concurrency": 2}))
    assert all_at_once.full_since == -math.inf
    assert all_at_once.correct_in_window == 8


def test_streams_that_stop_while_the_queue_fills_are_not_waited_for_longer_than_a_full_one():
    async def script(number, writer):
        await (streaming() if number == 1 else silent)(number, writer)

    asked = {"concurrency": 4, "timeout_s": 2.0, "min_requests": 1, "carries_output": is_word}
    result = answered(in_turn(script), **asked)
    assert result.opened - START_S == pytest.approx(0.15, abs=PRECISE)
    assert result.outcome.count("timeout") >= 4
    assert result.correct_latency_s == []
    assert result.closed < START_S + 2 * 2.2


def test_streams_that_hang_in_their_first_answers_are_given_one_timeout():
    async def script(_, writer):
        writer.write(STREAM_HEAD + chunk(b"data: word\n\n"))
        await asyncio.sleep(1000)

    asked = {"concurrency": 4, "timeout_s": 2.0, "min_requests": 1, "carries_output": is_word}
    result = answered(script, **asked)
    assert result.outcome == ["timeout"] * 4
    assert (result.opened, result.closed) == (START_S, pytest.approx(START_S + 2, abs=0.2))


def test_outputs_of_wrong_answers_are_no_throughput():
    result = answered(streaming(), carries_output=is_word, check=lambda *_: (False, None))
    assert result.outputs_per_answer is None
    assert result.outputs_in_window <= 4  # of the one that could not be judged
    assert result.requests_per_second == 0


def test_answers_that_do_not_stream_have_no_outputs():
    result = answered(replies())
    assert (result.outputs_in_window, result.outputs_per_answer) == (None, None)


def test_streams_of_an_open_loop_are_counted_by_what_arrives_in_the_window():
    moments = []

    async def script(_, writer):
        writer.write(STREAM_HEAD)
        for _ in range(5):
            await asyncio.sleep(0.03)
            moments.append(now())
            writer.write(chunk(b"data: word\n\n"))
        writer.write(chunk(b""))

    asked = {"rate": 40, "warmup_s": 1.0, "duration_s": 0.4}
    result = answered(script, carries_output=is_word, **asked)
    arrived = sum(result.opened < moment <= result.closed for moment in moments)
    assert result.outputs_in_window == arrived > 20
    assert result.requests_per_second == pytest.approx(arrived / 5 / 0.4)


def test_a_stream_that_breaks_off_is_no_correct_answer_even_with_a_200():
    result = answered(
        streaming(end=b""), carries_output=is_word, check=lambda body, _: (b"DONE" in body, None)
    )
    assert set(result.outcome) == {"wrong_answer"}
    assert result.requests_per_second == 0
    assert set(result.quality) == {None}


def test_a_stream_without_output_has_no_first_output():
    result = answered(streaming(), carries_output=lambda event: False)
    assert set(result.first_output_s) == {None}
    assert result.output_gaps_s == [[]] * len(result.outcome)


def test_inputs_rotate_in_an_order_fixed_by_the_seed():
    orders = []
    for _ in range(2):
        order = []
        answered(replies(), check=lambda _, index, order=order: (order.append(index) or True, 1.0))
        orders.append(order)
    assert orders[0] == orders[1]
    assert set(orders[0]) == {0, 1}
    assert orders[0][0:2] == orders[0][2:4]
    cycles = [list(islice(shuffled_cycle(50, seed), 100)) for seed in (1, 1, 2)]
    assert cycles[0] == cycles[1] != cycles[2]
    assert sorted(cycles[0][:50]) == list(range(50))
    assert cycles[0][:50] == cycles[0][50:]


def test_the_report_says_what_was_measured():
    summary = report(answered(replies(), duration_s=4.0))
    assert summary["latency_ms"] == pytest.approx(
        dict.fromkeys(["mean", "p50", "p90", "p95", "p99"], 5.0), abs=0.1
    )
    assert summary["requests"]["ok"] == summary["requests"]["sent"]
    assert summary["client"]["mean_send_delay_ms"] is None
    assert text(summary).startswith("200.0 requests/s\nlatency in ms: mean 5.00, p50 5.00")
    assert report(answered(replies(), rate=50))["client"]["mean_send_delay_ms"] < 0.1


# Over real sockets: what virtual time cannot show.


@pytest.mark.parametrize("offered", [{"concurrency": 3}, {"rate": 100.0}], ids=str)
def test_answers_over_a_real_socket_are_counted_and_timed(offered):
    with scripted_server(replies(delay_s=0.02)) as (url, _):
        result = run_job(job(url, **offered))
    assert set(result.outcome) == {"ok"}
    assert min(result.service_s) >= 0.02


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(OK_REPLY[:-3], "connection_error"), (CLOSING_REPLY, "ok")],
    ids=["cut short", "whole"],
)
def test_a_real_socket_that_closes_after_each_answer(reply, outcome):
    with scripted_server(broken(reply)) as (url, _):
        result = run_job(job(url))
    assert set(result.outcome) == {outcome}


@pytest.mark.parametrize("offered", [{"concurrency": 1}, {"rate": 50.0}], ids=str)
def test_nobody_listening_is_a_connection_error(offered):
    assert set(run_job(job(NOBODY, **offered)).outcome) == {"connection_error"}


def test_the_client_costs_a_fraction_of_a_general_one():
    with echo_server(b'{"a": 1}') as url:
        result = run_job(job(url, concurrency=64, duration_s=1.0))
        ours = result.client_cpu_s / len(result.ended)
        with requests.Session() as session:
            began = time.process_time()
            for _ in range(300):
                session.post(url, data=b'{"x": 1}', timeout=5)
            general = (time.process_time() - began) / 300
    assert ours < general / 4


def end_process(*_: object) -> None:
    """A check that no process survives."""
    os._exit(7)


def test_a_load_process_runs_job_after_job_and_tells_when_each_is_warm():
    with echo_server(b'{"a": 1}') as url, load_process() as run:
        for _ in range(2):
            told = []
            result = run(job(url), lambda moment, at=told: at.append((moment, time.monotonic())))
            assert set(result.outcome) == {"ok"}
            assert [moment for moment, _ in told] == [Moment.OPENED, Moment.CLOSED]
            assert told[0][1] >= result.opened  # one clock for all processes
            assert told[1][1] >= result.closed


def test_streams_are_not_cut_off_before_what_is_done_at_their_windows_end_is_done():
    """A server that sees its clients leave counts what it did for them: totals come first."""
    left, reading = threading.Event(), []

    async def script(number, writer):
        if number > 1:
            await streaming()(number, writer)
            return
        writer.write(STREAM_HEAD)
        try:
            while True:
                writer.write(chunk(b"data: word\n\n"))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            left.set()

    def read(moment: Moment) -> None:
        if moment is Moment.CLOSED:
            reading.append(left.wait(0.5))

    asked = {"concurrency": 2, "carries_output": is_word, "min_requests": 1}
    with scripted_server(script) as (url, _), load_process() as run:
        run(job(url, **asked), read)
        assert left.wait(5)
    assert reading == [False]


def test_what_fails_once_warm_is_raised_and_the_next_job_gets_its_own_result():
    with echo_server(b'{"a": 1}') as url, load_process() as run:
        with pytest.raises(ZeroDivisionError):
            run(job(url), lambda _: 1 / 0)
        began = time.monotonic()
        assert run(job(url)).opened > began


def test_a_load_process_that_always_dies_is_noticed():
    with echo_server(b'{"a": 1}') as url, load_process() as run, pytest.raises(ProcessDiedError):
        run(job(url, check=end_process))


def test_a_load_process_that_is_killed_is_replaced_and_the_job_done_once_more():
    with echo_server(b'{"a": 1}') as url:
        others, begun = multiprocessing.active_children(), []

        def kill_the_first(moment: Moment) -> None:
            if moment is not Moment.OPENED:
                return
            begun.append(time.monotonic())
            if len(begun) == 1:
                (process,) = set(multiprocessing.active_children()) - set(others)
                process.kill()

        with load_process() as run:
            result = run(job(url), kill_the_first)
            assert set(result.outcome) == {"ok"}
            assert len(begun) == 2
            assert result.opened > begun[0]
        assert multiprocessing.active_children() == others


def command(url: str, body, *options: str) -> list:
    return [sys.executable, "-m", "harness.load", url, "--body", body, *options]


def test_the_command_line_prints_one_json_object(tmp_path):
    (tmp_path / "body.json").write_text('{"x": 1}')
    with scripted_server(replies(delay_s=0.001)) as (url, heads):
        options = "--duration", "0.5", "--concurrency", "2", "--json"
        asked = command(url, tmp_path / "body.json", *options)
        printed = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    summary = json.loads(printed)
    assert set(summary) == {"requests_per_second", "latency_ms", "requests", "client"}
    assert summary["requests"]["ok"] == summary["requests"]["sent"] > 10
    assert b"POST /predict HTTP/1.1" in heads[0]


def test_the_command_line_fails_when_requests_fail(tmp_path):
    (tmp_path / "body.json").write_text("{}")
    asked = command(NOBODY, tmp_path / "body.json", "--duration", "0.2")
    assert subprocess.run(asked, capture_output=True).returncode == 1
