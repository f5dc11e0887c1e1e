"""Scripts that are not ours run unmodified, are measured with stages or refused in one sentence."""

import asyncio
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import litserve
import pytest
import requests

from harness.measure.stats import refuse_other_stats
from harness.own_server.clocks import AsyncClocks, BatchClocks, clocks_of
from harness.own_server.settings import SettingError, Settings, literal, typed
from harness.process.groups import group_members, is_alive
from harness.process.launch import Server, ServerFailedError, running_server
from harness.serving.counters import Counters, WorkerCounter
from tests.settled import settled

SCRIPTS = Path(__file__).parent / "own_scripts"
LAUNCHER = "harness.own_server.launcher"
SINGLE = {"queue_wait", "decode", "predict", "encode"}
BATCHED = SINGLE | {"collate"}
STREAMED = {"queue_wait", "decode", "first_output", "next_outputs", "encode"}

pytestmark = pytest.mark.usefixtures("scripts")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A copy of the scripts, from which they are started; it must be the same afterwards."""
    folder = tmp_path / "somebody's scripts"
    shutil.copytree(SCRIPTS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "weights.json").write_text('{"a": 1}')
    monkeypatch.chdir(folder)
    before = contents(folder)
    yield folder
    assert contents(folder) == before


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def launched(*arguments: str):
    return running_server(LAUNCHER, *arguments, startup_limit_s=60)


def answers(server: Server, bodies: list, path: str | None = None) -> list[requests.Response]:
    """The answers to requests sent all at once."""
    url = server.url + (path or server.info["paths"][0])
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: requests.post(url, json=body, timeout=30), bodies))


def totals(server: Server, count: int) -> dict:
    """The totals of all workers, summed, once so many requests are counted."""

    def summed() -> dict:
        stats = server.stats()
        refuse_other_stats(stats)
        workers = stats["workers"]
        seconds = {stage: 0.0 for worker in workers for stage in worker["spent_s"]}
        return {
            "requests": sum(worker["requests"] for worker in workers),
            "rejected": sum(worker["rejected"] for worker in workers),
            "batches": sum(worker["batches"] for worker in workers),
            "spent_s": {
                stage: sum(worker["spent_s"].get(stage, 0) for worker in workers)
                for stage in seconds
            },
            "http": sum(each["requests"] for each in stats["http"]),
            "workers": workers,
        }

    def all_counted(now: dict) -> bool:
        return now["requests"] >= count and now["http"] >= count

    return settled(summed, all_counted, still_s=0.05)


def test_a_plain_script_is_measured_per_worker_with_stages_and_its_settings_told():
    with launched("--set", "timeout=45", "--set", "devices", "plain_server.py") as server:
        replies = answers(server, [{"input": n} for n in range(6)])
        assert [reply.json() for reply in replies] == [{"output": n**2 + n**3} for n in range(6)]
        now = totals(server, 6)
        assert (now["requests"], now["batches"], now["http"]) == (6, 6, 6)
        assert len(now["workers"]) == 2
        assert now["spent_s"].keys() == SINGLE
        assert server.info["variant"] == "plain_server"
        assert server.info["settings"]["timeout"] == 45
        assert server.info["settings"]["devices"] == "auto"
        assert (server.info["workers_per_device"], server.info["streams"]) == (2, False)
        assert server.info["api"] == "SimpleLitAPI"
        assert "loading two models on cpu" in server.log.read_text()


def test_a_batch_is_counted_as_one_with_its_stages_and_its_size_can_be_set():
    with launched("--set", "max_batch_size=3", "batched_server.py") as server:
        replies = answers(server, [{"input": [0, 0, 0, n]} for n in range(6)])
        assert [reply.json() for reply in replies] == [{"output": 3.0 * n} for n in range(6)]
        now = totals(server, 6)
        sizes = {int(size): n for size, n in now["workers"][0]["batch_sizes"].items()}
        assert sum(size * n for size, n in sizes.items()) == 6
        assert max(sizes) <= 3
        assert now["spent_s"].keys() == BATCHED
        assert now["spent_s"]["predict"] >= 6 * 0.02
        assert (server.info["max_batch_size"], server.info["batch_timeout_s"]) == (3, 0.05)
        assert server.info["api_servers"] == len(server.stats()["http"]) == 1


def test_a_request_that_fails_its_batch_fails_it_as_it_would_without_the_harness():
    with launched("batched_server.py") as server:
        assert answers(server, [{"input": [1, 2]}])[0].status_code == 500
        assert answers(server, [{"input": [1, 0, 0, 0]}])[0].json() == {"output": 0.0}
        now = totals(server, 2)
        assert (now["requests"], now["rejected"], now["http"]) == (2, 1, 2)


def test_a_batch_size_that_was_put_on_the_server_is_told_and_set_there():
    flags = "--set", "batch_timeout=0.01", "--set", "max_batch_size=2"
    with launched(*flags, "batch_size_on_server.py") as server:
        replies = answers(server, [{"input": n} for n in range(4)])
        assert [reply.json() for reply in replies] == [{"output": 10 * n} for n in range(4)]
        assert server.info["max_batch_size"] == 2
        assert server.info["batch_timeout_s"] == 0.01
        now = totals(server, 4)
        assert now["spent_s"].keys() == BATCHED
        assert 2 <= now["batches"] <= 4


def test_a_stream_is_measured_to_its_first_output_and_to_its_next():
    with launched("streaming_server.py") as server:
        (reply,) = answers(server, [{"input": 2}])
        assert reply.text.split("\n")[:2] == ['{"output": 0}', '{"output": 2}']
        now = totals(server, 1)
        assert server.info["streams"]
        assert now["spent_s"].keys() == STREAMED
        assert now["spent_s"]["first_output"] >= 0.01
        assert now["spent_s"]["next_outputs"] >= 0.03


def test_openais_specification_is_measured_as_a_stream():
    body = {"model": "x", "messages": [{"role": "user", "content": "say it again"}]}
    with launched("openai_server.py") as server:
        assert server.info["paths"] == ["/v1/chat/completions"]
        (reply,) = answers(server, [body])
        assert reply.json()["choices"][0]["message"]["content"] == "say it again "
        now = totals(server, 1)
        assert (now["requests"], now["http"]) == (1, 1)
        assert now["spent_s"].keys() == STREAMED


def test_requests_side_by_side_in_an_async_api_spend_more_than_the_worker_is_busy():
    with launched("async_server.py") as server:
        replies = answers(server, [{"input": n} for n in (0, 1, 2, -1)])
        assert [reply.status_code for reply in replies] == [200, 200, 200, 500]
        assert replies[2].json() == {"output": 102}
        now = totals(server, 4)
        assert (now["requests"], now["rejected"]) == (4, 1)
        assert now["spent_s"].keys() == SINGLE
        assert now["spent_s"]["predict"] >= 0.3
        assert now["workers"][0]["busy_s"]["predict"] < now["spent_s"]["predict"]


def test_two_endpoints_are_told_apart_and_all_their_workers_counted():
    with launched("two_endpoints.py") as server:
        assert server.info["paths"] == ["/double", "/list"]
        (doubled,), (listed,) = (
            answers(server, [{"input": 4}], path) for path in ("/double", "/list")
        )
        assert (doubled.json(), listed.json()) == ({"doubled": 8}, {"listed": [4]})
        now = totals(server, 2)
        first, *others = now["workers"]
        assert first["requests"] == 1
        assert first["spent_s"].keys() == SINGLE
        assert [worker["spent_s"].keys() for worker in others] == [BATCHED, BATCHED]
        assert server.info["apis"]["/list"]["workers_per_device"] == 2


def test_a_script_gets_its_arguments_its_folder_and_the_working_directory():
    own = "--", "--model", "weights.json"
    with launched("--set", "greeting=good day", "model_path_server.py", *own) as server:
        (reply,) = answers(server, [{"input": "a"}])
        assert reply.json() == {"output": "it is 1", "greeting": "GOOD DAY"}
        assert server.info["settings"]["greeting"] == "good day"


def test_a_module_runs_by_its_name(scripts, monkeypatch):
    package = scripts.parent / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(scripts / "plain_server.py", package / "server.py")
    monkeypatch.chdir(scripts.parent)
    with launched("my_package.server") as server:
        assert answers(server, [{"input": 2}])[0].json() == {"output": 12}
        assert server.info["variant"] == "server"
    assert sorted(path.name for path in package.iterdir()) == ["__init__.py", "server.py"]


def test_a_typed_api_keeps_its_callbacks_logger_middleware_and_class_attribute():
    with launched("--set", "factor=3", "other_kinds.py", "--", "typed") as server:
        url = f"{server.url}/predict"
        headers = {"Origin": "https://example.org"}
        reply = requests.post(url, json={"x": 1}, headers=headers, timeout=30)
        assert reply.json() == {"sum": 6, "device": "cpu"}
        assert reply.headers["access-control-allow-origin"] == "https://example.org"
        assert [each.status_code for each in answers(server, [{"x": -1}, {"y": 1}])] == [418, 422]
        now = totals(server, 2)
        assert (now["requests"], now["rejected"], now["http"]) == (2, 1, 2)
        assert server.info["name"] == "kinds"
        assert server.info["settings"]["factor"] == 3

        def logged() -> str:
            return server.log.read_text()

        log = settled(logged, lambda text: "LOGGED x 1" in text, still_s=0.05)
        assert "CALLBACK: set up" in log
        assert "CALLBACK: before predict" in log


def test_an_embedding_specification_is_measured():
    with launched("other_kinds.py", "--", "embedding") as server:
        (reply,) = answers(server, [{"model": "x", "input": ["one", "three"]}])
        assert [each["embedding"] for each in reply.json()["data"]] == [[3.0, 1.0], [5.0, 1.0]]
        now = totals(server, 1)
        assert now["http"] == 1
        assert now["spent_s"].keys() == SINGLE


def test_a_script_that_authorizes_in_its_own_way_still_does_so_where_it_answers():
    with launched("other_kinds.py", "--", "secret") as server:
        url = f"{server.url}/predict"
        assert requests.post(url, json={"input": 1}, timeout=30).status_code in {401, 403}
        key = {"Authorization": "Bearer open sesame"}
        reply = requests.post(url, json={"input": 1}, headers=key, timeout=30)
        assert reply.json() == {"input": 1}
        assert totals(server, 1)["requests"] == 1


def test_sigterm_ends_all_its_processes_in_time_and_its_last_lines_run():
    script = Path("new.py")
    script.write_text(Path("plain_server.py").read_text() + '    print("closing")\n')
    with launched("new.py") as server:
        members = group_members(server.pid)
        os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while any(map(is_alive, members)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(map(is_alive, members))
        assert "closing" in server.log.read_text()
    script.unlink()


def test_a_file_is_uploaded():
    pytest.importorskip("python_multipart", reason="FastAPI takes no files without it")
    with launched("other_kinds.py", "--", "upload") as server:
        file = {"request": ("a.bin", b"12345")}
        reply = requests.post(f"{server.url}/predict", files=file, timeout=30)
        assert reply.json() == {"bytes": 5}
        assert totals(server, 1)["requests"] == 1


def test_batched_streams_and_async_streams_have_the_stages_of_streams():
    with launched("other_kinds.py", "--", "batched_stream") as server:
        replies = answers(server, [{"input": n} for n in (5, 6)])
        assert replies[1].text == '{"output": 6}\n{"output": 7}\n{"output": 8}\n'
        assert totals(server, 2)["spent_s"].keys() == STREAMED | {"collate"}
    with launched("other_kinds.py", "--", "async_stream") as server:
        (reply,) = answers(server, [{"input": 2}])
        assert reply.text == '{"output": 0}\n{"output": 1}\n'
        assert totals(server, 1)["spent_s"].keys() == STREAMED


def test_of_a_loop_of_somebodys_own_only_the_queue_is_clocked():
    with launched("other_kinds.py", "--", "own_loop") as server:
        assert answers(server, [{"input": 7}])[0].json() == {"mine": 7}
        now = totals(server, 1)
        assert now["spent_s"].keys() == {"queue_wait"}
        assert now["batches"] == 0


def test_a_key_is_asked_for_as_litserve_asks_for_it(monkeypatch):
    monkeypatch.setenv("LIT_SERVER_API_KEY", "secret")
    with launched("plain_server.py") as server:
        url = f"{server.url}/predict"
        assert requests.post(url, json={"input": 1}, timeout=30).status_code in {401, 403}
        key = {"X-API-Key": "secret"}
        assert requests.post(url, json={"input": 1}, headers=key, timeout=30).json() == {
            "output": 2
        }


NEVER_RUNS = "import litserve\nprint('nothing to do')\n"
EXITS = "import sys\nsys.exit('no licence')\n"
IMPORTS = "import a_package_that_nobody_has\n"
IN_A_THREAD = """
import threading, time
import litserve as ls
if __name__ == "__main__":
    server = ls.LitServer(ls.test_examples.SimpleLitAPI(), accelerator="cpu")
    threading.Thread(target=server.run).start()
    time.sleep(600)
"""


@pytest.mark.parametrize(
    ("arguments", "text", "code", "sentence"),
    [
        (["no_guard.py"], None, 2, "no_guard.py calls run() whenever it is imported"),
        (["dies_in_setup.py"], None, 1, "dies_in_setup.py: setup failed in a worker"),
        (["nowhere.py"], None, 2, "nowhere.py does not exist"),
        (["no.such.module"], None, 2, "there is neither a file nor a module no.such.module"),
        (["model_path_server.py"], None, 2, "ended with 2 before it called LitServer.run()"),
        (["new.py"], NEVER_RUNS, 1, "new.py ended without calling LitServer.run()"),
        (["new.py"], EXITS, 1, "before it called LitServer.run(): no licence"),
        (["new.py"], IMPORTS, 1, "new.py failed: ModuleNotFoundError: No module named"),
        (["new.py"], IN_A_THREAD, 2, "new.py calls run() in a thread of its own"),
        (["--set", "colour=1", "plain_server.py"], None, 2, "--set colour: neither LitServer"),
        (
            ["--set", "max_batch_size=0", "plain_server.py"],
            None,
            2,
            "--set max_batch_size=0: max_batch_size is a number of at least 1",
        ),
    ],
)
def test_what_cannot_be_measured_ends_at_once_with_one_sentence(
    scripts, arguments, text, code, sentence
):
    if text:
        (scripts / "new.py").write_text(text)
    began = time.monotonic()
    with pytest.raises(ServerFailedError) as failed, launched(*arguments):
        pass
    if text:
        (scripts / "new.py").unlink()
    assert time.monotonic() - began < 50
    assert f"ended with {code} before it was ready" in str(failed.value)
    assert sentence in str(failed.value).splitlines()[-1]


class FakeClock:
    now = 1024.0

    def __call__(self) -> float:
        return self.now


class WaitingAPI(litserve.LitAPI):
    """What it decodes takes that many seconds of the fake clock."""

    def __init__(self, clock: FakeClock, **options) -> None:
        super().__init__(**options)
        self.clock = clock

    def decode_request(self, request: float) -> float:
        self.clock.now += request
        return request

    def predict(self, inputs):
        raise OSError("out of order")


def clocked(kind: type, api: litserve.LitAPI, clock: FakeClock):
    counters = Counters(1, 1, 8, kind.stages)
    clocks = kind(api, WorkerCounter(counters, 0), clock)
    clocks.install()
    return clocks, lambda: counters.snapshot()["workers"][0]


def test_a_batch_that_fails_is_counted_with_what_it_took_and_what_it_raised_is_untouched():
    clock = FakeClock()
    api = WaitingAPI(clock, max_batch_size=4, batch_timeout=0.1)
    assert clocks_of(api) is BatchClocks
    clocks, totals_now = clocked(BatchClocks, api, clock)
    for ago_s in (2.0, 1.0):
        clocks.arrived(clock.now - ago_s)
    batch = api.batch([api.decode_request(0.5), api.decode_request(0.25)])
    with pytest.raises(OSError, match="out of order"):
        api.predict(batch)
    assert totals_now()["requests"] == 0
    clocks.count_batch()
    clocks.count_batch()
    now = totals_now()
    assert (now["requests"], now["rejected"], now["batch_sizes"]) == (2, 2, {2: 1})
    assert now["busy_s"]["decode"] == 0.75
    assert now["spent_s"] | {"decode": 1.5, "queue_wait": 3.0} == now["spent_s"]


def test_a_request_that_waited_beyond_the_timeout_is_no_part_of_a_batch():
    clock = FakeClock()
    api = WaitingAPI(clock)
    clocks, _ = clocked(BatchClocks, api, clock)
    api.request_timeout = 30
    assert clocks.drops(clock.now - 31)
    assert not clocks.drops(clock.now - 29)
    api.request_timeout = False
    assert not clocks.drops(clock.now - 31)


class SideBySideAPI(litserve.LitAPI):
    """Answers once it is told to."""

    def __init__(self) -> None:
        super().__init__(enable_async=True)
        self.may_answer = asyncio.Event()

    async def predict(self, request):
        await self.may_answer.wait()
        return request

    async def decode_request(self, request):
        return request

    async def encode_response(self, output):
        return output


def test_the_busy_seconds_of_requests_side_by_side_are_divided_among_them():
    clock, api = FakeClock(), SideBySideAPI()
    clocks, totals_now = clocked(AsyncClocks, api, clock)

    async def served(request: int) -> int:
        return await api.encode_response(await api.predict(await api.decode_request(request)))

    async def both() -> None:
        clocks.arrived(clock.now - 1.0)
        first = asyncio.create_task(served(1))
        await asyncio.sleep(0)
        clock.now += 2.0  # the first alone
        second = asyncio.create_task(served(2))
        await asyncio.sleep(0)
        clock.now += 4.0  # both
        api.may_answer.set()
        assert await asyncio.gather(first, second) == [1, 2]

    asyncio.run(both())
    now = totals_now()
    assert now["spent_s"] == {"queue_wait": 1.0, "decode": 0.0, "predict": 10.0, "encode": 0.0}
    assert now["busy_s"] == {"decode": 0.0, "predict": 6.0, "encode": 0.0}
    assert (now["requests"], now["batches"]) == (2, 2)


def test_a_setting_gets_the_type_of_what_it_replaces():
    assert [literal(text) for text in ("3", "0.5", "False", "none", "cuda")] == [
        3,
        0.5,
        False,
        None,
        "cuda",
    ]
    assert typed("size", "3", 1.5) == 3.0
    assert isinstance(typed("size", "3", 1.5), float)
    assert typed("name", "3", "a") == "3"
    for text, present in (("x", 1), ("1", True), ("true", 1)):
        with pytest.raises(SettingError, match=f"--set size={text}"):
            typed("size", text, present)


def test_a_constructors_keyword_is_set_there_and_what_follows_from_it_is_left_alone():
    class Derived(litserve.LitAPI):
        def __init__(self, size=2, **options) -> None:
            super().__init__(**options)
            self.size = size * 2

    settings = Settings({"size": "5", "batch_timeout": None})
    arguments, options = settings.constructing(Derived, (), {"batch_timeout": 0.5})
    api = Derived(*arguments, **options)
    settings.to_api(api)
    assert api.size == 10
    assert settings.in_effect == {"size": 5, "batch_timeout": 0.5}
    settings.refuse_unknown([api])
