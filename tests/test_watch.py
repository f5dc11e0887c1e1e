"""Servers that lose a process: each fault injected for real into a server that really runs."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests
from litserve.utils import LitAPIStatus, ResponseBufferItem

from harness.process.groups import end_group
from harness.process.launch import free_port, healthy
from harness.serving.heart import Heart, Hearts
from harness.serving.watch import Patience

ROOT = Path(__file__).parent.parent
WATCHED = "tests.numbers.server_watched"
BASELINE = "mnist_model_benchmarking.server_baseline"
LIMIT_S = 60  # what takes a second or five may take longer where others want the cores


@dataclass
class Launched:
    """A server that was launched, whatever has become of it since."""

    process: subprocess.Popen
    url: str
    log: Path

    def child(self, kind: str) -> psutil.Process:
        """Its first worker, HTTP process, or queue manager."""
        lines = {each: each.cmdline() for each in psutil.Process(self.process.pid).children()}
        own = psutil.Process(self.process.pid).cmdline()
        spawned = [each for each, line in lines.items() if "--multiprocessing-fork" in line]
        forked = [each for each, line in lines.items() if line == own]
        return {"worker": spawned, "queue manager": forked, "HTTP process": forked[1:]}[kind][0]

    def post(self, body: object) -> requests.Response:
        return requests.post(f"{self.url}/predict", json=body, timeout=LIMIT_S)

    def last_words(self) -> str:
        """What it has printed, once all of it has ended, with an error, and its port is closed."""
        tree = psutil.Process(self.process.pid).children(recursive=True)
        assert self.process.wait(LIMIT_S) == 1
        assert not psutil.wait_procs(tree, LIMIT_S)[1]
        with pytest.raises(requests.ConnectionError):
            requests.get(self.url, timeout=5)
        return self.log.read_text()


def until(holds: Callable[[], object]) -> None:
    """Wait for it; no longer than LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextlib.contextmanager
def launched(
    log: Path, *flags: str, module: str = WATCHED, loading: bool = False
) -> Iterator[Launched]:
    """A server that is ready or, if asked, still loading."""
    port = free_port()
    command = [sys.executable, "-m", module, "--port", str(port), "--accelerator", "cpu", *flags]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    server = Launched(process, f"http://127.0.0.1:{port}", log)
    try:
        until(lambda: "loading" in log.read_text() if loading else healthy(server.url))
        yield server
    finally:
        end_group(process.pid)
        process.wait()


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "log"


@contextlib.contextmanager
def inside(server: Launched) -> Iterator[Future]:
    """A request that is in the worker, and would be for longer than the test takes."""
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(server.post, {"n": 1, "sleep_s": LIMIT_S})
        time.sleep(0.5)
        yield request


def got_an_error(request: Future) -> bool:
    """Whether a request has ended with a closed connection or a 5xx."""
    try:
        return request.result(LIMIT_S).status_code >= 500
    except requests.ConnectionError:
        return True


@pytest.mark.parametrize("kind", ["worker", "HTTP process", "queue manager"])
def test_a_server_that_has_lost_a_process_under_load_ends_and_names_it(log, kind):
    with launched(log) as server, inside(server) as request:
        victim = server.child(kind)
        victim.kill()
        sentence = rf"(the )?{kind}( 0)? \(pid {victim.pid}\) was killed by signal 9 \(Killed\)"
        assert re.fullmatch(rf"loading\n{sentence}; the server ends\n", server.last_words())
        assert got_an_error(request)


@pytest.mark.parametrize("kind", ["worker", "HTTP process", "queue manager"])
def test_a_process_that_stays_stopped_is_lost(log, kind):
    with launched(log) as server, inside(server) as request:
        victim = server.child(kind)
        victim.suspend()
        sentence = server.last_words()
        assert f"{kind}" in sentence
        assert f"(pid {victim.pid}) has been stopped for 3 s; the server ends\n" in sentence
        assert got_an_error(request)


def test_health_is_503_before_a_stopped_worker_counts_as_lost(log):
    with launched(log) as server:
        server.child("worker").suspend()
        until(lambda: not healthy(server.url))
        assert server.process.poll() is None
        assert "stopped" not in log.read_text()
        assert "has been stopped for 3 s; the server ends\n" in server.last_words()


@pytest.mark.parametrize("kind", ["worker", "queue manager"])
def test_a_process_that_is_killed_while_the_model_loads_ends_the_server(log, kind):
    with launched(log, "--load-s", str(LIMIT_S), loading=True) as server:
        victim = server.child(kind)
        victim.kill()
        sentence = server.last_words()
        assert f"(pid {victim.pid}) was killed by signal 9 (Killed); the server ends\n" in sentence
        assert kind in sentence


def test_a_worker_that_ends_by_itself_is_named_with_its_exit_code(log):
    with launched(log) as server:
        victim = server.child("worker")
        victim.terminate()
        assert f"worker 0 (pid {victim.pid}) was killed by signal 15" in server.last_words()


def test_a_hanging_event_loop_is_lost(log):
    with launched(log) as server, ThreadPoolExecutor(1) as pool:
        request = pool.submit(server.post, ["no object"])
        sentence = server.last_words()
        assert re.search(r"HTTP process 0 \(pid \d+\) has been hanging for 4 s", sentence)
        assert got_an_error(request)


@pytest.mark.parametrize(
    "windows",
    [
        pytest.param([(5, 1)], id="once"),
        pytest.param([*[(2.5, 0.1)] * 4, (5, 0.5), (5, 5)], id="often", marks=pytest.mark.slow),
    ],
)
def test_a_frozen_server_goes_on_when_it_is_thawed(log, windows):
    """Longer than any process may stand still alone; and again and again, as in a benchmark."""
    with launched(log) as server:
        for frozen_s, thawed_s in windows:
            os.killpg(server.process.pid, signal.SIGSTOP)
            time.sleep(frozen_s)
            os.killpg(server.process.pid, signal.SIGCONT)
            time.sleep(thawed_s)
        assert server.post({"n": 3}).json() == {"n": 3}
        assert server.process.poll() is None


def test_one_of_several_http_processes_that_is_lost_is_named(log):
    flags = "--workers-per-device", "2", "--api-servers", "2"
    with launched(log, *flags, module="harness.serving.no_op_server") as server:
        victim = psutil.Process(server.process.pid).children()[-1]
        victim.kill()
        assert f"HTTP process 1 (pid {victim.pid}) was killed by" in server.last_words()


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_is_started_again_on_demand(log, stop):
    """What it had inside gets an error, what waits is answered by its successor."""
    with launched(log, "--restart-workers", "--load-s", "1") as server:
        with inside(server) as request, ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.post, {"n": 4})
            time.sleep(0.5)
            victim = server.child("worker")
            victim.send_signal(stop)
            assert request.result(LIMIT_S).status_code == 500
            assert "has died" in request.result().json()["detail"]
            assert requests.get(f"{server.url}/health", timeout=5).status_code == 503
            until(lambda: healthy(server.url))
            assert waiting.result(LIMIT_S).json() == {"n": 4}
        assert server.post({"n": 5}).json() == {"n": 5}
        how = "was killed by signal 9" if stop == signal.SIGKILL else "has been stopped"
        sentence = f"worker 0 (pid {victim.pid}) {how}"
        assert re.search(rf"{re.escape(sentence)}.*; it is started again\n", log.read_text())


def test_a_worker_that_dies_while_it_loads_is_not_started_for_ever(log):
    with launched(log, "--restart-workers", "--load-s", "60", loading=True) as server:
        server.child("worker").kill()
        assert "the server ends" in server.last_words()


def test_a_request_that_nobody_answers_gets_a_504(log):
    with launched(log, "--response-timeout", "1", module="tests.numbers.server_steady") as server:
        late = server.post({"n": 1, "sleep_s": 8})
        assert (late.status_code, late.json()["detail"]) == (504, "no answer within 1 s")
        until(lambda: server.post({"n": 2}).status_code == 200)


def test_a_lost_worker_ends_a_server_of_the_benchmarks(log):
    with launched(log, module=BASELINE) as server:
        victim = server.child("worker")
        victim.kill()
        assert f"worker 0 (pid {victim.pid}) was killed by signal 9" in server.last_words()


def test_an_interrupt_of_the_whole_group_is_no_loss(log):
    """What Ctrl-C in a terminal sends."""
    with launched(log) as server:
        os.killpg(server.process.pid, signal.SIGINT)
        assert server.process.wait(LIMIT_S) == 0
        assert "the server ends" not in log.read_text()


def test_a_key_guards_what_a_server_tells_of_itself(log, monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", "secret")
    with launched(log) as server:
        for path in ("stats", "info", "health", "docs", "redoc", "openapi.json"):
            statuses = [
                requests.get(f"{server.url}/{path}", headers=headers, timeout=5).status_code
                for headers in ({}, {"X-API-Key": "other"}, {"X-API-Key": "secret"})
            ]
            assert statuses == [401, 401, 200], path


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_let_in_with_a_key_or_knowingly_only(host):
    command = [sys.executable, "-m", WATCHED, "--host", host, "--port", "80"]
    environment = {"PYTHONPATH": str(ROOT)}
    ended = [
        subprocess.run(
            [*command, *flags],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=os.environ | environment | key,
            timeout=LIMIT_S,
        )
        for flags, key in [
            ((), {"LIT_SERVER_API_KEY": ""}),
            ((), {"LIT_SERVER_API_KEY": "secret"}),
            (("--insecure",), {}),
        ]
    ]
    refused, *let_in = [each.stderr for each in ended]
    assert [each.returncode for each in ended] == [1, 1, 1]
    assert "LIT_SERVER_API_KEY" in refused
    assert "--insecure" in refused
    assert refused.count("\n") == 1
    assert let_in == ["--port must be 1024 to 65535, not 80\n"] * 2


def test_patience_counts_from_the_first_sight_without_a_break():
    patience = Patience()
    seen = [patience.lasted_s("worker", shows, now) for now, shows in enumerate([1, 1, 0, 1, 1])]
    assert seen == [0, 1, 0, 0, 1]


class Beating:
    """A heart in an HTTP process that exists in memory only; it beats when it is told to."""

    def __init__(self, response_timeout_s: float) -> None:
        self.now = 100.0
        self.buffer: dict[str, ResponseBufferItem] = {}
        app = SimpleNamespace(router=SimpleNamespace(lifespan_context=None))
        server = SimpleNamespace(app=app, response_buffer=self.buffer)
        self.hearts = Hearts(api_servers=1, workers=2)
        self.heart = Heart(server, self.hearts, response_timeout_s, lambda: self.now)

    def beat(self, after_s: float = 1.0) -> None:
        self.now += after_s
        asyncio.run(self.heart.beat(self.now))

    def request(self, uid: str, worker: int | None = None) -> ResponseBufferItem:
        self.buffer[uid] = ResponseBufferItem(asyncio.Event(), worker_id=worker)
        return self.buffer[uid]


def test_time_spent_frozen_brings_no_answer_nearer_to_its_deadline():
    beating = Beating(response_timeout_s=5)
    request = beating.request("a")
    beating.beat()
    beating.beat(after_s=3600)
    beating.beat()
    assert request.response is None
    for _ in range(4):
        beating.beat()
    error, status = request.response
    assert (error.status_code, status) == (504, LitAPIStatus.ERROR)
    assert request.event.is_set()


@pytest.mark.parametrize("of_api", [True, False])
def test_an_api_is_asked_for_its_health_unless_a_worker_is_stopped(of_api):
    beating = Beating(response_timeout_s=60)
    assert beating.heart.health(lambda: of_api) == of_api
    beating.hearts.stopped[1] = True
    assert not beating.heart.health(lambda: of_api)
    beating.hearts.stopped[1] = False
    assert beating.heart.health(lambda: of_api) == of_api


def test_only_what_the_dead_worker_had_inside_is_answered_for_it():
    beating = Beating(response_timeout_s=60)
    requests = [beating.request(f"{worker}", worker) for worker in (0, 1, None)]
    beating.beat()
    beating.hearts.deaths[1] += 1
    beating.beat()
    assert [each.response is None for each in requests] == [True, False, True]
    after = beating.request("new", 1)
    beating.beat()
    assert after.response is None
