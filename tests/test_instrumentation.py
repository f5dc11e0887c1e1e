"""The clocks inside a server: each names the right part of a request, and none invents time."""

import asyncio
import json
import multiprocessing
from pathlib import Path

import litserve
import pytest
import requests
from fastapi import HTTPException

from harness.measure.no_op import shape_of
from harness.process.launch import running_server
from harness.serving.admission import AdmissionControl, QueueClock
from harness.serving.bounds import Bounds
from harness.serving.counters import Counters, HttpCounter, WorkerCounter
from harness.serving.instrumentation import (
    ArrivalQueue,
    InstrumentedBatchAPI,
    InstrumentedStreamAPI,
    instrumented,
)
from harness.serving.served_api import ServedAPI, served
from tests.settled import settled

ROOT = Path(__file__).parent.parent
STAGES = ("decode", "collate", "predict", "encode")
STAGE_S, SLOWER_S = 0.002, 0.02


class FakeClock:
    """Seconds that pass only where a test says so; a power of two, so that sums are exact."""

    def __init__(self) -> None:
        self.now = 1024.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    monkeypatch.setenv("LITSERVE_WORKER_ID", "0")
    return FakeClock()


class StagedAPI(litserve.LitAPI):
    """Each stage takes 2 ms of the fake clock, the slow one 20 ms longer; "bad" is refused."""

    def __init__(self, clock: FakeClock, slow: str = "none", **options) -> None:
        super().__init__(**options)
        self.clock, self.slow = clock, slow

    def take(self, stage: str) -> None:
        self.clock.now += STAGE_S + SLOWER_S * (stage == self.slow)

    def decode_request(self, request: dict) -> int:
        self.take("decode")
        if request["n"] == "bad":
            raise HTTPException(400, "no number")
        return request["n"]

    def batch(self, numbers: list[int]) -> list[int]:
        self.take("collate")
        return numbers

    def predict(self, numbers: list[int]) -> list[int]:
        self.take("predict")
        return numbers

    def unbatch(self, numbers: list[int]) -> list[int]:
        return numbers

    def encode_response(self, number: int) -> dict:
        self.take("encode")
        return {"n": number}


class CountingAPI(litserve.LitAPI):
    """Streams 0 up to n: 5 s to the first output, 2 s to each further one, 1 s to encode each."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(stream=True)
        self.clock = clock

    def decode_request(self, request: dict) -> int:
        self.clock.now += 1
        return request["n"]

    def predict(self, end: int):
        for number in range(end):
            self.clock.now += 5 if number == 0 else 2
            yield number

    def encode_response(self, numbers):
        for number in numbers:
            self.clock.now += 1
            yield {"n": number}


class Requests:
    """LitServe's request queue: what is in it has waited for `wait_s`."""

    def __init__(self, bodies: list[dict], clock: FakeClock, wait_s: float) -> None:
        self.items = [
            ("queue", index, clock.now - wait_s, body) for index, body in enumerate(bodies)
        ]

    def get(self, timeout: float) -> tuple:
        return self.items.pop(0)

    get_nowait = get


def batch_served(api: InstrumentedBatchAPI, bodies: list[dict], wait_s: float = 0.0) -> list:
    """Take the bodies from a queue and answer them in one batch, as LitServe's loop does."""
    queue = ArrivalQueue(Requests(bodies, api.clock, wait_s), api)
    taken = [queue.get(timeout=1.0)[3] for _ in bodies]
    outputs = api.unbatch(api.predict(api.batch([api.decode_request(body) for body in taken])))
    answers = [api.encode_response(output) for output in outputs]
    api.count_batch()
    return answers


def instrumented_batch_api(clock: FakeClock, slow: str = "none"):
    staged = StagedAPI(clock, slow, max_batch_size=4, batch_timeout=0.01)
    counters = Counters(1, 1, 4, InstrumentedBatchAPI.stages)
    api = InstrumentedBatchAPI(staged, counters, clock)
    api.setup("cpu")
    return api, counters


@pytest.mark.parametrize("slow", STAGES)
def test_a_stage_that_gets_20_ms_slower_shows_in_that_stage_and_in_no_other(clock, slow):
    api, counters = instrumented_batch_api(clock, slow)
    batch_served(api, [{"n": 1}, {"n": 2}, {"n": 3}], wait_s=0.5)
    (worker,) = counters.snapshot()["workers"]
    calls = {"decode": 3, "collate": 1, "predict": 1, "encode": 3}
    busy_s = {stage: n * (STAGE_S + SLOWER_S * (stage == slow)) for stage, n in calls.items()}
    assert worker["busy_s"] == pytest.approx(busy_s, abs=1e-9)
    spent_s = {"queue_wait": 1.5} | {stage: 3 * seconds for stage, seconds in busy_s.items()}
    assert worker["spent_s"] == pytest.approx(spent_s, abs=1e-9)  # all three wait for their batch
    assert (worker["requests"], worker["batches"], worker["batch_sizes"]) == (3, 1, {3: 1})


def test_a_refused_request_is_counted_as_rejected_and_its_neighbours_are_answered(clock):
    api, counters = instrumented_batch_api(clock)
    first, refused, last = batch_served(api, [{"n": 1}, {"n": "bad"}, {"n": 3}])
    assert (first, refused.status_code, last) == ({"n": 1}, 400, {"n": 3})
    batch_served(api, [{"n": "bad"}])
    (worker,) = counters.snapshot()["workers"]
    assert (worker["requests"], worker["rejected"]) == (4, 2)
    assert worker["batch_sizes"] == {1: 1, 3: 1}


def test_a_stream_is_told_apart_into_first_output_next_outputs_and_encoding(clock):
    counters = Counters(1, 1, 1, InstrumentedStreamAPI.stages)
    api = InstrumentedStreamAPI(CountingAPI(clock), counters, clock)
    api.setup("cpu")
    answers = list(api.encode_response(api.predict(api.decode_request({"n": 4}))))
    assert answers == [{"n": number} for number in range(4)]
    (worker,) = counters.snapshot()["workers"]
    expected = {"decode": 1.0, "first_output": 5.0, "next_outputs": 6.0, "encode": 4.0}
    assert worker["busy_s"] == expected
    assert (worker["requests"], worker["rejected"]) == (1, 0)


def test_what_an_api_raises_becomes_an_error_that_can_be_pickled(clock):
    class Unpicklable(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    api, _ = instrumented_batch_api(clock)
    api.api.predict = lambda numbers: (_ for _ in ()).throw(Unpicklable(1, 2))
    with pytest.raises(RuntimeError, match="Unpicklable in predict: 1 and 2"):
        batch_served(api, [{"n": 1}])


HTTP = {"type": "http", "method": "POST"}


async def receive() -> dict:
    """A small body, whole."""
    return {"type": "http.request", "body": b"{}", "more_body": False}


UNIX_S = 1_700_000_000.0


def admission_control(clock: FakeClock, app, limit: int = 4) -> tuple[AdmissionControl, Counters]:
    """The middleware around `app`, in an HTTP process that has started."""
    counters = Counters(1, 1, 1, STAGES)
    middleware = AdmissionControl(
        app,
        counters,
        served(None).refusal,
        Bounds(counters, max_concurrency=limit, clock=clock),
        clock=clock,
        unix_clock=lambda: UNIX_S,
    )
    middleware.counter = HttpCounter(counters, 0)
    return middleware, counters


@pytest.mark.parametrize(
    ("header", "ingress_s"),
    [
        (f"t={UNIX_S - 0.25:.6f}", 0.25 + 0.125),
        (f"t={UNIX_S + 500}", 0.125),  # another machine's clock
        (f"t={UNIX_S - 4000}", 0.125),
        ("yesterday", 0.125),
        ("t=nan", 0.125),
        (None, 0.125),
    ],
)
def test_ingress_begins_when_the_client_sends_if_it_says_so_and_else_on_arrival(
    clock, header, ingress_s
):
    async def app(*_):
        clock.now += 0.125
        QueueClock().on_request()
        clock.now += 2.0

    middleware, counters = admission_control(clock, app)
    headers = [] if header is None else [(b"x-request-start", header.encode())]
    asyncio.run(middleware(HTTP | {"headers": headers}, receive, None))
    (process,) = counters.snapshot()["http"]
    assert process["requests"] == 1
    assert process["ingress_s"] == ingress_s
    assert process["after_ingress_s"] == 2.0


@pytest.mark.parametrize(
    ("status", "bodies", "requests"),
    [
        (504, [{}], 0),
        (499, [{}], 0),
        (200, [{}], 1),
        (200, [{"more_body": True}, {"more_body": False}], 1),
        (200, [{"more_body": True}], 0),
        (200, [], 0),
    ],
    ids=["too late", "passed over", "answered", "streamed", "cut off", "cut off in the queue"],
)
def test_only_a_request_that_a_worker_has_answered_to_the_end_is_counted(
    clock, status, bodies, requests
):
    async def app(_, __, send):
        clock.now += 1.0
        QueueClock().on_request()
        await send({"type": "http.response.start", "status": status, "headers": []})
        for body in bodies:
            await send({"type": "http.response.body", "body": b"1"} | body)

    async def send(_):
        pass

    middleware, counters = admission_control(clock, app)
    asyncio.run(middleware(HTTP | {"headers": []}, receive, send))
    assert counters.snapshot()["http"][0]["requests"] == requests


def test_what_is_above_the_limit_is_refused_with_503_and_retry_after(clock):
    sent = []

    async def send(message):
        sent.append(message)

    async def app(*_):
        await asyncio.sleep(0)

    async def all_at_once():
        middleware, _ = admission_control(clock, app, limit=2)
        request = HTTP | {"headers": []}
        await asyncio.gather(*(middleware(request.copy(), receive, send) for _ in range(3)))
        await middleware(request.copy(), receive, send)
        assert middleware.concurrency == 0

    asyncio.run(all_at_once())
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in start["headers"]
    assert json.loads(body["body"]) == {"detail": "the server is at its limit; try again"}


@pytest.mark.parametrize(("encoding", "refused"), [("br", True), ("Identity", False)])
def test_a_body_in_an_encoding_is_refused_unread_with_415(clock, encoding, refused):
    sent, entered = [], []

    async def send(message):
        sent.append(message)

    async def app(*_):
        entered.append(True)

    middleware, _ = admission_control(clock, app)
    request = HTTP | {"headers": [(b"content-encoding", encoding.encode())]}
    asyncio.run(middleware(request.copy(), receive, send))
    assert bool(entered) is not refused
    assert [message["status"] for message in sent[:1]] == [415] * refused


def count_elsewhere(counters: Counters) -> None:
    """What a worker and an HTTP process do, in a process that has got pickled counters."""
    worker = WorkerCounter(counters, 1)
    worker.set_up({"load_s": 1.5, "bytes": 3e9})
    worker.batch_done(2, 1, {"decode": 0.25, "predict": 0.5}, 4.0)
    worker.batch_done(3, 0, {"decode": 0.25, "predict": 1.0}, 0.0)
    HttpCounter(counters, 0).request_done(0.5, 2.0)


def test_the_counters_are_shared_with_a_spawned_process(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    counters = Counters(2, 1, 3, ("decode", "predict"), ("load_s", "bytes"))
    process = multiprocessing.get_context("spawn").Process(target=count_elsewhere, args=(counters,))
    process.start()
    process.join()
    idle, busy = counters.snapshot()["workers"]
    assert (idle["pid"], idle["requests"], idle["batch_sizes"]) == (0, 0, {})
    assert busy == {
        "pid": process.pid,
        "requests": 5,
        "rejected": 1,
        "batches": 2,
        "busy_s": {"decode": 0.5, "predict": 1.5},
        "spent_s": {"queue_wait": 4.0, "decode": 1.25, "predict": 4.0},
        "setup_metrics": {"load_s": 1.5, "bytes": 3e9},
        "batch_sizes": {2: 1, 3: 1},
    }
    totals = {"pid": process.pid, "requests": 1, "ingress_s": 0.5, "after_ingress_s": 2.0}
    assert counters.snapshot()["http"] == [totals]


class TellingAPI(litserve.LitAPI, ServedAPI):
    """Tells what it measures in setup, and leaves the rest at its defaults."""

    setup_metrics = ("load_s",)

    def setup(self, device: str) -> None:
        self.load_s = 2.5

    def predict(self, request: dict) -> dict:
        return request


def test_what_an_api_measures_in_setup_is_told_and_what_it_does_not_tell_has_defaults(clock):
    api, counters = instrumented(TellingAPI(), workers=1, api_servers=1)
    api.setup("cpu")
    assert counters.snapshot()["workers"][0]["setup_metrics"] == {"load_s": 2.5}
    silent = StagedAPI(clock, max_batch_size=4)
    assert not isinstance(silent, ServedAPI)
    assert (served(silent).setup_metrics, served(silent).configure(None)) == ((), {})
    assert served(silent).refusal(400, "no").body == b'{"detail":"no"}'


@pytest.mark.alone
def test_a_servers_stages_arrive_in_its_stats(monkeypatch):
    """The least disturbed of a few requests, for a machine may stall."""
    monkeypatch.chdir(ROOT)
    flags = "--accelerator", "cpu"

    def counted(server, kind: str, count: int) -> dict:
        def read():
            return server.stats()[kind][0]

        return settled(read, lambda now: now["requests"] >= count, still_s=0.05)

    def predict_s(server, **request) -> float:
        before = server.stats()["workers"][0]
        reply = requests.post(f"{server.url}/predict", json={"n": 1} | request, timeout=5)
        assert reply.json() == {"n": 1}
        after = counted(server, "workers", before["requests"] + 1)
        assert set(after["spent_s"]) == {"queue_wait", *STAGES}
        return after["busy_s"]["predict"] - before["busy_s"]["predict"]

    with running_server("tests.numbers.server_staged", *flags) as server:
        slow_s = min(predict_s(server, slow="predict") for _ in range(5))
        usual_s = min(predict_s(server) for _ in range(5))
        process = counted(server, "http", 10)
    assert slow_s - usual_s == pytest.approx(0.02, abs=0.005)
    assert process["requests"] == 10
    assert process["after_ingress_s"] > 10 * usual_s
    assert process["ingress_s"] > 0


def test_the_no_op_server_answers_what_it_is_told_and_is_set_up_as_the_variant_is():
    shape = "--max-batch-size", "8", "--batch-timeout", "0.01", "--workers-per-device", "2"
    flags = *shape, "--answer", '{"a": [1]}', "--accelerator", "cpu"
    with running_server("harness.serving.no_op_server", *flags) as server:
        reply = requests.post(f"{server.url}/predict", json={"x": 1}, timeout=5)
        assert reply.json() == {"a": [1]}
        assert shape_of(server.info) == (8, 0.01, 2, "auto")
        assert server.info["variant"] == "no_op_server"
