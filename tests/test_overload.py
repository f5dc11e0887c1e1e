"""Overload and hostile clients: nobody keeps a server from those who ask properly."""

import asyncio
import contextlib
import json
import math
import random
import socket
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import uvicorn
from litserve.loops.simple_loops import SingleLoop

from harness.load.job import Job, LoadResult
from harness.load.latency import latency_ms
from harness.load.runner import load_process
from harness.process.groups import end_group
from harness.process.launch import Server, free_port, healthy, running_server
from harness.process.limits import raise_open_files
from harness.process.module_command import module_command, module_environment
from harness.serving.abandoned import SLOTS, Abandoned, number_of
from harness.serving.admission import AdmissionControl, RequestTimes
from harness.serving.bounds import Bounds
from harness.serving.connections import HEAD_BYTES, Connections
from harness.serving.counters import Counters, HttpCounter, WorkerCounter
from harness.serving.instrumentation import InstrumentedAPI, WantedQueue
from harness.serving.served_api import served
from tests.settled import settled

ROOT = Path(__file__).parent.parent
BOUNDED = "tests.numbers.server_bounded", "--accelerator", "cpu"
STAGES = "decode", "collate", "predict", "encode"
LONGEST_S = 10.0  # a proper request beside hostile ones, on a machine that others use
MB = 1 << 20
UID = "11111111-1111-4111-8111-111111111111"


@pytest.fixture(autouse=True)
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def address(url: str) -> tuple[str, int]:
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def connected(url: str, sent: bytes = b"") -> socket.socket:
    """A connection that has sent something, and reads nothing unless it is asked to."""
    connection = socket.create_connection(address(url), timeout=LONGEST_S)
    connection.sendall(sent)
    return connection


def head(length: int, more: str = "") -> bytes:
    return (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{more}"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


def request(**fields) -> bytes:
    """A whole request for the number 1."""
    body = json.dumps({"n": 1} | fields).encode()
    return head(len(body)) + body


def asked(url: str, **fields) -> requests.Response:
    return requests.post(f"{url}/predict", json={"n": 1} | fields, timeout=LONGEST_S)


def answer(connection: socket.socket) -> bytes:
    """All that the server sends until it closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(MB):
            received += piece
    return received


# --- one HTTP process around an application of the test's own, with short patience


class Application:
    """Answers what it is POSTed with the length of the body, then `filling`, once `hold` is set."""

    def __init__(self) -> None:
        self.hold, self.filling = threading.Event(), b""
        self.hold.set()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            return
        size = len((await receive()).get("body", b""))
        while not self.hold.is_set():
            await asyncio.sleep(0.01)
        body = json.dumps({"size": size}).encode() + self.filling
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for begin in range(0, len(body), MB):
            piece, more = body[begin : begin + MB], begin + MB < len(body)
            await send({"type": "http.response.body", "body": piece, "more_body": more})


@contextlib.contextmanager
def http_process(monkeypatch, patience_s: float = 1.0, most: int | None = None, **bounds):
    """(url, its middleware, its application) of a uvicorn with our connections and admission."""
    monkeypatch.setenv("LITSERVE_WORKER_ID", "0")
    counters, application = Counters(1, 1, 1, STAGES), Application()
    refusal = served(None).refusal
    middleware = AdmissionControl(application, counters, refusal, Bounds(counters, **bounds))
    middleware.counter = HttpCounter(counters, 0)
    config = uvicorn.Config(
        middleware,
        port=0,
        log_level="error",
        lifespan="off",
        http=Connections(refusal, patience_s, most),
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", middleware, application
    finally:
        application.hold.set()
        server.should_exit = server.force_exit = True
        thread.join()


def sized(url: str, size: int) -> requests.Response:
    return requests.post(f"{url}/predict", b"x" * size, timeout=LONGEST_S)


@pytest.mark.parametrize(
    ("begun", "first_line"),
    [
        (b"", b""),
        (b"POST /pred", b"HTTP/1.1 408 "),
        (head(100) + b"{", b"HTTP/1.1 408 "),
        (request() + b"POST /pred", b"HTTP/1.1 200 "),
    ],
    ids=["nothing", "half a head", "half a body", "half of a second request"],
)
def test_a_request_that_does_not_come_is_ended_with_408(monkeypatch, begun, first_line):
    with http_process(monkeypatch) as (url, middleware, _):
        with connected(url, begun) as connection:
            received = answer(connection)
        assert received.startswith(first_line)
        assert bool(received) is bool(first_line)
        if b"408" in first_line:
            assert received.endswith(b'{"detail":"the request did not arrive in time"}')
        inside = settled(lambda: middleware.bytes_inside, lambda now: now == 0, still_s=0.02)
        assert inside == middleware.concurrency == 0


def test_headers_without_an_end_are_refused_with_431(monkeypatch):
    with http_process(monkeypatch, patience_s=60) as (url, *_):
        endless = b"POST / HTTP/1.1\r\n" + b"a: b\r\n" * (HEAD_BYTES // 6 + 10)
        assert answer(connected(url, endless)).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("offer", ["Upgrade: h2c", "upgrade:h2c", "Upgrade: TLS/1.0"])
def test_an_offer_of_another_protocol_is_ignored_and_the_body_read(monkeypatch, offer):
    """Java's HTTP client makes one with every request: Connection, Upgrade, HTTP2-Settings."""
    more = f"Connection: Upgrade, HTTP2-Settings\r\n{offer}\r\nHTTP2-Settings: AAMAAABk\r\n"
    with http_process(monkeypatch) as (url, *_):
        body = b"\r\nupgrade: x"
        wire = head(len(body), more) + body
        with connected(url, wire) as connection:
            for _ in range(2):  # and with the next one on the same connection
                received = connection.recv(MB)
                while not received.endswith(b"}"):
                    received += connection.recv(MB)
                assert received.endswith(b'{"size": %d}' % len(body))
                connection.sendall(wire)


def test_a_long_body_that_arrives_at_a_fair_pace_is_waited_for(monkeypatch):
    body = b"x" * 600_000  # at 100 kB/s it may take six seconds more
    with http_process(monkeypatch) as (url, *_), connected(url, head(len(body))) as connection:
        for begin in range(0, len(body), 100_000):
            connection.sendall(body[begin : begin + 100_000])
            time.sleep(0.6)
        assert b'{"size": 600000}' in connection.recv(1000)


def test_a_client_that_does_not_read_loses_its_connection_one_that_reads_slowly_does_not(
    monkeypatch,
):
    with http_process(monkeypatch) as (url, middleware, application):
        application.filling = b" " * (20 * MB)  # more than the sockets hold
        unread, slow = (connected(url, request()) for _ in range(2))
        assert settled(lambda: middleware.concurrency, lambda now: now == 2, 0.02) == 2
        received = 0
        while received < 20 * MB:
            received += len(slow.recv(MB))
            time.sleep(0.1)
        assert settled(lambda: middleware.concurrency, lambda now: now == 0, 0.1) == 0
        assert len(answer(unread)) < 20 * MB


def test_an_idle_connection_is_closed_for_one_more_than_may_be_open(monkeypatch):
    with http_process(monkeypatch, patience_s=60, most=20) as (url, *_):
        idle = [connected(url) for _ in range(60)]
        assert sized(url, 10).json() == {"size": 10}
        assert idle[0].recv(1) == b""


def test_a_body_beyond_the_bytes_inside_is_refused_but_never_one_that_is_alone(monkeypatch):
    limits = {"max_bytes": MB, "max_body_bytes": 3 * MB}
    with http_process(monkeypatch, **limits) as (url, middleware, application):
        assert sized(url, 2 * MB).json() == {"size": 2 * MB}
        application.hold.clear()
        with ThreadPoolExecutor(2) as pool:
            inside = pool.submit(sized, url, MB)
            settled(lambda: middleware.concurrency, lambda now: now == 1, still_s=0.02)
            refused = sized(url, MB)
            application.hold.set()
            assert inside.result().json() == {"size": MB}
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert sized(url, MB).json() == {"size": MB}
        assert settled(lambda: middleware.bytes_inside, lambda now: now == 0, 0.02) == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_long_is_refused_with_413_and_the_connection_lives_on(monkeypatch, chunked):
    with (
        http_process(monkeypatch, max_body_bytes=MB) as (url, middleware, _),
        requests.Session() as session,
    ):
        body = b"x" * (2 * MB)
        data = iter([body[:MB], body[MB:]]) if chunked else body
        refused = session.post(url, data=data, timeout=LONGEST_S)
        assert (refused.status_code, refused.json()["detail"]) == (
            413,
            "the body is longer than 1048576 bytes",
        )
        assert session.post(url, data=b"x", timeout=LONGEST_S).json() == {"size": 1}
        assert middleware.bytes_inside == 0


def test_a_client_that_leaves_is_noted_even_before_its_request_has_a_name():
    abandoned = Abandoned()
    early, late = (RequestTimes(0.0, time.monotonic, abandoned) for _ in range(2))
    early.leave()
    early.take(UID)
    late.take(UID.replace("1", "2"))
    assert UID in abandoned
    assert UID.replace("1", "2") not in abandoned
    late.leave()
    assert UID.replace("1", "2") in abandoned


# --- the parts alone


def test_abandoned_requests_are_known_and_no_others():
    uids = [f"{n:08x}-0000-4000-8000-{n * 7919:012x}" for n in range(2 * SLOTS)]
    abandoned = Abandoned()
    assert uids[0] not in abandoned
    abandoned.add(uids[5])
    assert [n for n, uid in enumerate(uids) if uid in abandoned] == [5]


def test_random_uuids_and_their_texts_are_the_same_requests_and_reach_all_slots():
    uids = [uuid.UUID(int=random.Random(n).getrandbits(128), version=4) for n in range(10_000)]
    assert [number_of(uid) for uid in uids] == [number_of(str(uid)) for uid in uids]
    reached = {number_of(uid) % SLOTS for uid in uids}
    assert len(reached) / SLOTS == pytest.approx(1 - math.exp(-10_000 / SLOTS), abs=0.02)


@pytest.mark.parametrize(
    ("batch_s", "batch_size", "limit"),
    [(None, 1, 1024), (0.0001, 1, 1024), (0.1, 1, 300), (2.0, 1, 64), (2.0, 64, 960)],
)
def test_as_many_are_let_in_as_can_be_answered_in_time(batch_s, batch_size, limit):
    """One worker, 30 s; what its batches held while little was asked of it does not matter."""
    counters = Counters(1, 1, batch_size, STAGES)
    if batch_s:
        worker = WorkerCounter(counters, 0)
        for _ in range(5):
            worker.batch_done(1, 0, dict.fromkeys(STAGES, batch_s / 4), 0.0)
    bounds = Bounds(counters)
    assert [bounds.is_full(n) for n in (limit - 1, limit)] == [False, True]


def test_the_bound_follows_the_pace_and_its_parts_follow_the_http_processes():
    now = [100.0]
    counters = Counters(2, 2, 1, STAGES)
    bounds = Bounds(counters, clock=lambda: now[0])
    workers = [WorkerCounter(counters, n) for n in range(2)]
    for seconds, limit in ((0.1, 300), (0.4, 75), (0.1, 300)):
        for worker in workers:
            worker.batch_done(1, 0, dict.fromkeys(STAGES, seconds / 4), 0.0)
        now[0] += 1
        assert bounds.current_limit() == limit


class Queue(list):
    """LitServe's request queue."""

    def get(self, timeout: float) -> tuple:
        return self.pop(0)

    get_nowait = None


def test_what_waited_for_too_long_or_was_left_is_answered_at_once_and_in_no_batchs_wait(
    monkeypatch,
):
    monkeypatch.setenv("LITSERVE_WORKER_ID", "0")

    class Repeating:
        max_batch_size, batch_timeout, spec, stream, loop = 1, 0.0, None, False, SingleLoop()

        def setup(self, device):
            pass

        def decode_request(self, body):
            return body

        predict = encode_response = decode_request

    now, counters, responded = 1000.0, Counters(1, 1, 1, STAGES), []
    api = InstrumentedAPI(Repeating(), counters, lambda: now)
    api.request_timeout = 60
    api.setup("cpu")
    uids = [f"00000000-0000-4000-8000-{n:012x}" for n in range(5)]
    ages = dict(zip(uids, (61, 3, 200, 2, 1), strict=True))
    counters.abandoned.add(uids[3])
    queue = Queue((7, uid, now - age, uid) for uid, age in ages.items())
    arrivals = WantedQueue(queue, api, lambda *told: responded.append(told))
    for expected in (uids[1], uids[4]):
        process, uid, arrival, body = arrivals.get(timeout=1)
        assert (process, uid, arrival, body) == (7, expected, now - ages[expected], expected)
        api.encode_response(api.predict(api.decode_request(body)))
    api.count_batch()
    assert [(p, uid, e.status_code) for p, uid, e in responded] == [
        (7, uids[0], 504),
        (7, uids[2], 504),
        (7, uids[3], 499),
    ]
    (worker,) = counters.snapshot()["workers"]
    assert (worker["requests"], worker["spent_s"]["queue_wait"]) == (2, 3.0 + 1.0)


# --- servers, really launched


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        with running_server(*BOUNDED) as running:
            yield running


def requests_done(server: Server) -> tuple[int, int]:
    """(by the HTTP process, by the worker)."""
    stats = server.stats()
    return stats["http"][0]["requests"], stats["workers"][0]["requests"]


def test_1100_senders_of_one_byte_keep_nobody_out(server):
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            stack.enter_context(connected(server.url, head(100) + b"{"))
        assert asked(server.url).json()["n"] == 1


def test_requests_whose_clients_left_cost_their_successors_nothing(server):
    """Forty of half a second each, but for those that the worker has begun."""
    before = requests_done(server)
    for left in [connected(server.url, request(sleep_s=0.5)) for _ in range(40)]:
        left.close()
    began = time.monotonic()
    assert asked(server.url).json()["n"] == 1
    assert time.monotonic() - began < 5
    after = settled(lambda: requests_done(server), still_s=0.7)
    assert after[0] - before[0] == after[1] - before[1] < 10


def test_clients_that_do_not_read_keep_nobody_out(server):
    pipelined = request(answer_bytes=4 * MB)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connected(server.url, pipelined))
        assert asked(server.url).json()["n"] == 1


def tree(server: Server) -> list[psutil.Process]:
    parent = psutil.Process(server.pid)
    return [parent, *parent.children(recursive=True)]


def memory(server: Server) -> int:
    """Bytes of all its processes, what they share counted once."""
    return sum(process.memory_full_info().pss for process in tree(server))


def load(url: str, **options) -> LoadResult:
    with load_process() as run:
        return run(Job(url=f"{url}/predict", **options))


def holds_in_one_try_of_three(trial: Callable[[], bool]) -> bool:
    """For what a neighbour on the machine may disturb, and a defect would every time."""
    return any(trial() for _ in range(3))


@pytest.mark.slow
def test_ten_times_the_capacity_leaves_throughput_and_p99_as_they_can_be_and_no_scars():
    """5 ms of the worker each, which may wait for a second."""
    body = [b'{"n": 1, "sleep_s": 0.005}']

    def trial() -> bool:
        before = load(server.url, bodies=body, concurrency=32, duration_s=4).requests_per_second
        flood = load(server.url, bodies=body, rate=10 * before, duration_s=8, warmup_s=3)
        after = load(server.url, bodies=body, concurrency=32, duration_s=4).requests_per_second
        latency = latency_ms(flood.of_correct(flood.service_s))  # beside the client's own queue
        print(before, flood.requests_per_second, latency, flood.statuses, after)
        assert set(flood.statuses) == {503}
        kept = min(flood.requests_per_second, after) > 0.9 * before
        return kept and latency["p99"] < 2500

    with running_server(*BOUNDED, "--max-wait", "1") as server:
        assert holds_in_one_try_of_three(trial)


@pytest.mark.slow
def test_refusing_does_not_take_the_time_in_which_others_are_answered():
    """Where a request costs no more than LitServe itself: refused at once, nearly all are."""
    body = [b'{"n": 1}']

    def trial() -> bool:
        usual = load(server.url, bodies=body, concurrency=64, duration_s=4).requests_per_second
        flood = load(server.url, bodies=body, rate=5 * usual, duration_s=4, warmup_s=2)
        print(usual, flood.requests_per_second, flood.statuses)
        assert set(flood.statuses) == {503}
        return flood.requests_per_second > 0.5 * usual

    with running_server(*BOUNDED, "--max-concurrency", "128") as server:
        assert holds_in_one_try_of_three(trial)


@pytest.mark.slow
def test_200_bodies_of_20_mb_150_at_a_time_stay_within_a_gigabyte_and_a_half():
    body = json.dumps({"n": 1, "filling": "x" * (20 * 1000 * 1000)}).encode()
    with running_server(*BOUNDED) as server, ThreadPoolExecutor(150) as pool:

        def post(_: int) -> int:
            headers = {"Content-Type": "application/json"}
            reply = requests.post(f"{server.url}/predict", body, headers=headers, timeout=120)
            return reply.status_code

        replies = [pool.submit(post, n) for n in range(200)]
        most = 0
        while not all(reply.done() for reply in replies):
            most = max(most, memory(server))
            time.sleep(0.05)
        statuses = Counter(reply.result() for reply in replies)
        print(statuses, most / 1e9)
        assert set(statuses) == {200, 503}
        assert most < 1.5e9
        assert post(0) == 200


@contextlib.contextmanager
def server_allowed(open_files: int) -> Iterator[str]:
    """The URL of a server that may have so many files open; running_server inherits our limits."""
    port = free_port()
    command = f"ulimit -n {open_files}; exec {' '.join(module_command(BOUNDED[0]))} --port {port}"
    process = subprocess.Popen(
        ["bash", "-c", command], env=module_environment(), start_new_session=True
    )
    try:
        while not healthy(f"http://127.0.0.1:{port}"):
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        end_group(process.pid)
        process.wait()


@pytest.mark.alone
def test_2000_idle_connections_slow_senders_and_slow_readers_stop_nobody():
    """Where 1,000 files may be open."""
    kinds = b"", b"POST /pred", head(100) + b"{", request(answer_bytes=100_000)
    raise_open_files()
    with server_allowed(open_files=1000) as url, contextlib.ExitStack() as stack:
        for n in range(2000):
            stack.enter_context(connected(url, kinds[n % len(kinds)]))
            if n % 250 == 249:
                assert asked(url).json()["n"] == 1


@pytest.mark.slow
def test_memory_is_flat_over_100_000_requests():
    with running_server(*BOUNDED) as server:

        def after(count: int) -> dict[int, int]:
            while requests_done(server)[0] < count:
                load(server.url, bodies=[b'{"n": 1}'], concurrency=64, duration_s=5)
            return {process.pid: process.memory_info().rss for process in tree(server)}

        early, late = after(20_000), after(100_000)
    print({pid: (rss / MB, late[pid] / MB) for pid, rss in early.items()})
    assert set(early) == set(late)
    for pid, rss in early.items():
        assert late[pid] - rss < 4 * MB
