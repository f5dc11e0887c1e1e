"""Whole runs: rounds and order, failures that stay visible, Ctrl-C, and never the wrong server."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import requests
from rich.console import Console

from harness.measure import epochs, launch
from harness.measure.epochs import AGAIN, Campaign, run
from harness.measure.capacity import judged
from harness.load.connection import wire_format
from harness.process.launch import ServerFailedError, attached_server, running_server
from harness.results.summary import Measurement, output_rate, quality
from harness.results.file import read
from harness.results.run import Capacity, ImageVariant
from harness.results.rows import ImageLevel
from harness.suite import Suite, Variant

ROOT = Path(__file__).parent.parent
NAMES = ("steady", "dying", "stillborn")


def answered(body: bytes, index: int) -> tuple[bool, float]:
    return json.loads(body)["n"] == index, 1.0


class Numbers(Suite):
    """Requests that hold a number, which the answers repeat."""

    def prepare(self, variants: list[str]) -> None:
        self.prepared = variants

    def close(self) -> None:
        pass

    def in_process(self, variant: str) -> float:
        return 1000.0

    def level(self, common: dict, measured: list[Measurement]) -> ImageLevel:
        return ImageLevel(**common, images_per_second=output_rate(measured, 1), accuracy=quality(measured))

    def variant(self, name: str, common: dict, levels: list[ImageLevel], records: dict) -> ImageVariant:
        return ImageVariant(
            **common, baseline_throughput=None, decode_and_model_images_per_second=None, api_benchmarks=levels
        )


def suite(*names: str) -> Suite:
    variants = [Variant(name, None if index == 0 else names[0]) for index, name in enumerate(names)]
    bodies = [json.dumps({"n": number}).encode() for number in range(100)]
    return Numbers("mnist", "tests.variants", variants, "/predict", bodies, "a number", answered, b'{"n": 1}')


def options(tmp_path: Path, **changes) -> Namespace:
    values = {
        "variants": ["steady"], "concurrency": [1, 4], "rounds": 1, "duration": 0.5, "warmup": 0.1, "rate": None,
        "accelerator": "cpu", "api_servers": 1, "output_dir": tmp_path, "seed": 0, "timeout": 3.0, "url": None,
        "slo_p99_ms": None,
    }  # fmt: skip
    return Namespace(**(values | changes))


@pytest.fixture(autouse=True)
def in_the_projects_root(monkeypatch):
    """`python -m tests.variants...` is found from here."""
    monkeypatch.chdir(ROOT)


def measured(tmp_path: Path, names: tuple[str, ...], **changes):
    log = io.StringIO()
    found = run(suite(*names), options(tmp_path, variants=list(names), **changes), Console(file=log, width=200))
    return found, log.getvalue()


def test_order_is_shuffled_per_round_fixed_by_the_seed_with_the_baseline_twice(tmp_path):
    def turns(seed):
        wanted = options(tmp_path, variants=list(NAMES), rounds=6, seed=seed)
        return Campaign(suite(*NAMES), wanted, Console(file=io.StringIO())).turns()

    assert turns(1) == turns(1) != turns(2)
    rounds = [[name for number, name in turns(1) if number == round_] for round_ in range(6)]
    assert all(sorted(names) == sorted([*NAMES, AGAIN]) for names in rounds)
    assert len({tuple(names) for names in rounds}) > 1


def test_a_variant_that_fails_is_reported_and_the_others_are_measured_and_saved(tmp_path):
    results, log = measured(tmp_path, NAMES)
    steady, dying, stillborn = (results.variants[name] for name in NAMES)
    assert results.complete
    assert steady.error is None
    assert [level.requests["ok"] > 10 for level in steady.levels] == [True, True]
    assert "no model for cpu" in stillborn.error
    assert stillborn.levels == []
    assert "about to die" in dying.error
    assert "no model for cpu" in log
    assert read(tmp_path / "benchmark_results.json").variants == results.variants


def test_two_launches_of_the_baseline_give_the_noise_floor_and_verdicts(tmp_path):
    results, _ = measured(tmp_path, ("steady",), rounds=2)
    assert set(results.noise_floor_percent) == {"1", "4"}
    assert all(floor >= 0 for floor in results.noise_floor_percent.values())
    assert len(results.variants["steady"].levels[0].requests_per_second.rounds) == 4
    assert AGAIN not in results.variants


def test_stages_floor_and_waiting_explain_the_latency_and_cpu_has_roles(tmp_path):
    results, _ = measured(tmp_path, ("steady",), duration=1.5)
    for level in results.variants["steady"].levels:
        assert sum(level.stages_ms.values()) == pytest.approx(level.latency_ms["mean"])
        assert abs(level.stages_ms["unexplained"]) < 0.1 * level.latency_ms["mean"]
        assert level.stages_ms["floor"] > 0
        assert level.cpu_percent["http"] > 0
        assert level.cpu_s_per_1000_requests["workers"] > 0
        assert level.mean_batch_size == 1
    assert results.variants["steady"].null_server.requests_per_second.mean > 0


def test_what_the_workers_did_during_the_warm_up_is_not_counted(tmp_path):
    results, _ = measured(tmp_path, ("steady",), concurrency=[4], warmup=1.5)
    level = results.variants["steady"].levels[0]
    served_in_batches = sum(size * count for size, count in level.batch_sizes.items())
    assert served_in_batches < 2 * level.requests["sent"]  # with the warm-up it would be four times as many


def test_open_loop_levels_are_rates(tmp_path):
    results, _ = measured(tmp_path, ("steady",), rate=[50.0])
    level = results.variants["steady"].levels[0]
    assert (level.rate, level.concurrency) == (50.0, None)
    assert level.requests_per_second.mean == pytest.approx(50, rel=0.6)
    assert level.client.mean_send_delay_ms is not None


def test_a_server_that_already_runs_is_measured_and_left_running(tmp_path):
    with running_server("tests.variants.server_steady", "--accelerator", "cpu") as server:
        results, _ = measured(tmp_path, ("steady",), url=server.url)
        assert launch.healthy(server.url)
    assert results.variants["steady"].startup_s is None
    assert results.variants["steady"].levels[0].cpu_percent["workers"] > 0
    assert results.variants["steady"].levels[0].requests["ok"] > 10


def test_another_server_on_the_chosen_port_is_never_measured(monkeypatch):
    """The port is taken between choosing and binding, by a server that looks healthy."""
    with running_server("tests.variants.server_steady", "--accelerator", "cpu") as orphan:
        monkeypatch.setattr(launch, "free_port", lambda: int(orphan.url.rpartition(":")[2]))
        with (
            pytest.raises(ServerFailedError, match=r"another server answers|cannot listen on"),
            running_server("tests.variants.server_steady", "--accelerator", "cpu"),
        ):
            pytest.fail("the orphan was taken for the server that was launched")


def test_a_server_that_is_replaced_during_the_run_is_noticed():
    with running_server("tests.variants.server_steady", "--accelerator", "cpu") as server:
        impostor = launch.Server(server.url, "another run", None, None, {}, None)
        with pytest.raises(ServerFailedError, match="another server answers"):
            impostor.stats()


def test_a_url_where_nobody_answers_is_one_sentence():
    with pytest.raises(ServerFailedError, match="is the server up"):
        attached_server("http://127.0.0.1:9")


def test_too_many_requests_at_once_get_503_and_when_to_come_back():
    with running_server("tests.variants.server_steady", "--accelerator", "cpu") as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        body = b'{"n": 1, "sleep_s": 1}'
        request = b"\r\n".join(wire_format(f"{server.url}/predict", body))
        held = [socket.create_connection(address) for _ in range(4)]  # the server's limit
        for connection in held:
            connection.sendall(request)
        time.sleep(0.3)
        refused = requests.post(f"{server.url}/predict", json={"n": 2}, timeout=5)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert launch.healthy(server.url)
        for connection in held:
            connection.close()


def descendants() -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"])
            if any("server_steady" in part for part in process.info["cmdline"] or [])]  # fmt: skip


RUN = """
import signal
import sys
from pathlib import Path
from rich.console import Console
from tests.test_campaign import options, suite
from harness.measure.epochs import run
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background, where it is ignored
    found = run(suite("steady"), options(Path(sys.argv[1]), rounds=50), Console())
    print("kept", len(found.variants["steady"].levels[0].requests_per_second.rounds))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_leaves_no_process(tmp_path, number):
    (tmp_path / "run.py").write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path], stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.PIPE, env=environment, start_new_session=True)  # fmt: skip
    deadline = time.monotonic() + 90
    while not (tmp_path / "benchmark_results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.5)  # into the next turn
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert "kept" in output, errors
    assert "Traceback" not in errors
    assert not descendants()
    kept = read(tmp_path / "benchmark_results.json")
    assert kept.variants["steady"].error is None
    assert not kept.complete


def test_capacity_is_searched_once_per_variant_on_a_server_of_its_own_and_kept(tmp_path, monkeypatch):
    searched = []

    def one_window(job, run_load, promise_ms):
        searched.append(job.url)
        load = run_load(replace(job, rate=40.0, duration_s=0.5))
        return Capacity(promise_ms, 40.0, 42.0, [judged(40.0, load, promise_ms)])

    monkeypatch.setattr(campaign, "capacity", one_window)
    measured(tmp_path, ("steady", "stillborn"), concurrency=[1], rounds=2, slo_p99_ms=400.0)
    steady, stillborn = read(tmp_path / "benchmark_results.json").variants.values()
    assert len(searched) == 1
    assert steady.capacity.text == "40 requests/s, not 42"
    assert steady.capacity.windows[0].requests["ok"] > 5
    assert (steady.error, stillborn.capacity) == (None, None)
