"""The load generator against a scripted server: known delays, broken replies, closed connections, stalls."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import islice

import pytest
import requests

from harness.load.job import Job, Load, run_job
from harness.load.loops import shuffled_cycle
from harness.load.echo_server import responder

OK_REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'


@contextmanager
def scripted_server(script):
    """A server whose `script(number, writer)` answers the request of that number; yields its URL and request heads."""
    heads, started, loop = [], threading.Event(), asyncio.new_event_loop()

    async def serve(reader, writer):
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                heads.append(head)
                await script(len(heads), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def listen():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        heads.append(server.sockets[0].getsockname()[1])
        started.set()

    def run():
        loop.create_task(listen())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(5)
    port = heads.pop()
    try:
        yield f"http://127.0.0.1:{port}/predict", heads
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)


def replies(reply=OK_REPLY, delay_s=0.0):
    async def script(_, writer):
        await asyncio.sleep(delay_s)
        writer.write(reply)

    return script


def loaded(url: str, **changes) -> Load:
    """A short job against the URL."""
    return run_job(Job(url, [b'{"x": 1}', b'{"x": 2}'], **({"duration_s": 0.6, "warmup_s": 0.1} | changes)))


def test_latency_is_the_servers_delay():
    with scripted_server(replies(delay_s=0.05)) as (url, _):
        load = loaded(url, concurrency=4)
    assert min(load.latency_s) >= 0.05
    assert sorted(load.latency_s)[len(load.latency_s) // 2] < 0.08
    assert load.requests_per_second == pytest.approx(4 / 0.05, rel=0.3)


def test_closed_loop_keeps_the_asked_number_in_flight():
    in_flight, most = 0, 0

    async def script(_, writer):
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.02)
        in_flight -= 1
        writer.write(OK_REPLY)

    with scripted_server(script) as (url, _):
        load = loaded(url, concurrency=7)
    assert most == 7
    mean_latency = sum(load.latency_s) / len(load.latency_s)
    assert load.requests_per_second * mean_latency == pytest.approx(7, rel=0.1)  # Little's law


def test_throughput_of_batches_has_no_error_of_edges():
    """Answers come in clusters of 16; a window of fixed length would miss up to a whole cluster of about six."""
    waiting, released = [], []

    async def script(_, writer):
        waiting.append(writer)
        if len(waiting) == 16:
            batch = waiting[:]
            waiting.clear()
            await asyncio.sleep(0.1)
            released.append(time.monotonic())
            for each in batch:
                each.write(OK_REPLY)

    with scripted_server(script) as (url, _):
        load = loaded(url, concurrency=16, duration_s=0.55)
    inside = [moment for moment in released if load.opened - 0.05 < moment < load.closed + 0.05]
    true_rate = 16 * (len(inside) - 1) / (inside[-1] - inside[0])
    assert len(inside) > 3
    assert load.requests_per_second == pytest.approx(true_rate, rel=0.05)


def test_wrong_answers_are_no_throughput():
    with scripted_server(replies(delay_s=0.005)) as (url, _):
        load = loaded(url, check=lambda body, index: (json.loads(body)["a"] == index, 0.5))
    assert load.right_in_window == load.outcome.count("ok")
    assert load.outcome.count("ok") == pytest.approx(load.outcome.count("wrong_answer"), abs=2)
    assert set(load.quality) == {0.5}


def test_a_defect_in_the_check_is_not_taken_for_a_server_error():
    with scripted_server(replies()) as (url, _), pytest.raises(KeyError):
        loaded(url, check=lambda body, index: {}["no such key"])


def test_http_errors_are_counted_by_status():
    with scripted_server(replies(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 0.005)) as (url, _):
        load = loaded(url)
    assert set(load.outcome) == {"http_error"}
    assert load.statuses == {503: len(load.outcome)}
    assert load.requests_per_second == 0


@pytest.mark.parametrize("reply", [
    b"SMTP ready\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: zehn\r\n\r\n", OK_REPLY[:-3], b"",
], ids=["other protocol", "bad length", "cut short", "nothing"])  # fmt: skip
def test_broken_replies_are_connection_errors(reply):
    async def script(_, writer):
        await asyncio.sleep(0.005)
        writer.write(reply)
        writer.close()

    with scripted_server(script) as (url, _):
        load = loaded(url)
    assert set(load.outcome) == {"connection_error"}


def test_a_server_that_closes_each_connection_is_still_measured():
    async def script(_, writer):
        writer.write(OK_REPLY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        writer.close()

    with scripted_server(script) as (url, _):
        load = loaded(url, concurrency=2)
    assert set(load.outcome) == {"ok"}
    assert len(load.outcome) > 20


def test_chunked_answers_are_put_together():
    chunked = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n'
    with scripted_server(replies(chunked)) as (url, _):
        load = loaded(url, check=lambda body, index: (body == b'{"a": 1}', 1.0))
    assert set(load.outcome) == {"ok"}


def test_a_silent_server_times_out_and_the_run_ends():
    async def script(_, writer):
        pass

    with scripted_server(script) as (url, _):
        began = time.monotonic()
        load = loaded(url, concurrency=3, timeout_s=0.3, min_requests=5)
    assert set(load.outcome) == {"timeout"}
    assert time.monotonic() - began < 5


def test_nobody_listening_is_a_connection_error():
    load = loaded("http://127.0.0.1:9/")
    assert set(load.outcome) == {"connection_error"}


def test_a_stall_at_the_end_is_not_cut_off():
    """The server answers for a moment, then never again: the silence belongs to the window."""

    async def script(number, writer):
        if number <= 20:
            await asyncio.sleep(0.01)
            writer.write(OK_REPLY)

    with scripted_server(script) as (url, _):
        load = loaded(url, duration_s=0.5, timeout_s=10)
    assert load.window_s > 1.5
    assert load.requests_per_second < 15


def test_open_loop_latency_counts_from_the_intended_send():
    """A stall of half a second delays all that is due meanwhile; a closed loop would see one slow request."""

    async def script(number, writer):
        if number == 40:
            time.sleep(0.5)
        writer.write(OK_REPLY)

    with scripted_server(script) as (url, _):
        load = loaded(url, rate=200, duration_s=1.0)
    slow = [seconds for seconds in load.latency_s if seconds > 0.1]
    assert len(slow) > 50  # 0.4 s of 200/s are due during the stall and more than 0.1 s before its end
    assert max(load.latency_s) < 0.8


def test_open_loop_offers_the_asked_rate_whatever_the_server_does():
    with scripted_server(replies(delay_s=0.2)) as (url, heads):
        load = loaded(url, rate=150, duration_s=2.0)
        sent = len(heads)
    assert len(load.outcome) == pytest.approx(300, rel=0.2)
    assert sent >= len(load.outcome)
    assert set(load.outcome) == {"ok"}
    assert len(load.late_s) == len(load.outcome)


def test_open_loop_counts_what_it_could_not_get_through():
    load = loaded("http://127.0.0.1:9/", rate=50)
    assert set(load.outcome) == {"connection_error"}
    assert len(load.outcome) > 10


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def streaming(end: bytes = b"data: [DONE]\n\n"):
    """A comment at once, the first output after 60 ms, in two halves, two more every 30 ms, the rest together."""

    async def script(_, writer):
        writer.write(STREAM_HEAD + chunk(b": hello\n\ndata: start\n\n"))
        await asyncio.sleep(0.06)
        writer.write(chunk(b"data: to"))
        for part in (b"ken\n\n", b"data: token\n\n", b"data: token\n\n"):
            writer.write(chunk(part))
            await writer.drain()
            await asyncio.sleep(0.03)
        writer.write(chunk(b"data: token\n\ndata: token\n\n" + end) + b"0\r\n\r\n")

    return script


def test_outputs_of_a_stream_are_timed_when_their_last_byte_arrives():
    with scripted_server(streaming()) as (url, _):
        load = loaded(url, concurrency=2, carries_output=lambda event: event == b"token")
    assert set(load.outcome) == {"ok"}
    assert 0.06 <= min(load.first_s) <= sorted(load.first_s)[len(load.first_s) // 2] < 0.08
    for first, gaps, latency in zip(load.first_s, load.gaps_s, load.latency_s, strict=True):
        assert len(gaps) == 4
        assert sum(gaps) + first <= latency
    middle = [sorted(column)[len(column) // 2] for column in zip(*load.gaps_s, strict=True)]
    assert [round(gap, 2) for gap in middle] == [0.03, 0.03, 0.03, 0.0]


def test_a_stream_that_breaks_off_is_no_right_answer_even_with_a_200():
    with scripted_server(streaming(end=b"")) as (url, _):
        load = loaded(
            url, carries_output=lambda event: event == b"token", check=lambda body, _: (b"DONE" in body, None)
        )
    assert set(load.outcome) == {"wrong_answer"}
    assert load.requests_per_second == 0
    assert set(load.quality) == {None}


def test_inputs_rotate_in_an_order_fixed_by_the_seed():
    with scripted_server(replies()) as (url, _):
        seen = []
        for _ in range(2):
            order = []
            loaded(url, check=lambda body, index, order=order: (order.append(index) or True, 1.0))
            seen.append(order[:50])
    assert set(seen[0]) == {0, 1}
    assert seen[0][0:2] == seen[0][2:4]
    orders = [list(islice(shuffled_cycle(50, seed), 100)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0][:50]) == list(range(50))


def test_the_client_costs_a_fraction_of_a_general_one():
    with responder(b'{"a": 1}') as url:
        load = loaded(url, concurrency=64, duration_s=1.0)
        ours = load.client_cpu_s / len(load.ended)
        with requests.Session() as session:
            began = time.process_time()
            for _ in range(300):
                session.post(url, data=b'{"x": 1}', timeout=5)
            general = (time.process_time() - began) / 300
    assert ours < general / 4


def test_the_command_line_prints_one_json_object(tmp_path):
    (tmp_path / "body.json").write_text('{"x": 1}')
    with scripted_server(replies(delay_s=0.001)) as (url, heads):
        command = [sys.executable, "-m", "harness.load.job", url, "--body", tmp_path / "body.json", "--duration", "0.5",
                   "--concurrency", "2", "--json"]  # fmt: skip
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    summary = json.loads(printed)
    assert set(summary) == {"requests_per_second", "latency_ms", "requests", "client"}
    assert summary["requests"]["ok"] == summary["requests"]["sent"] > 50
    assert b"POST /predict HTTP/1.1" in heads[0]


def test_the_command_line_fails_when_requests_fail(tmp_path):
    (tmp_path / "body.json").write_text("{}")
    command = [sys.executable, "-m", "harness.load.job", "http://127.0.0.1:9/", "--body", tmp_path / "body.json",
               "--duration", "0.2"]  # fmt: skip
    assert subprocess.run(command, capture_output=True).returncode == 1
