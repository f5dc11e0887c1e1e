"""Locust's master and two workers send the harness's requests, its answers checked alike."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.process.launch import free_port, running_server
from tests.scripted import scripted_server

ROOT = Path(__file__).parent.parent
OWN = ROOT / "harness" / "own_server" / "locustfile.py"
SLEEPING = "harness.own_server.launcher", str(ROOT / "tests" / "own_scripts" / "sleeping.py")
LIMIT_S = 120

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("locust") is None, reason="locust is not installed"
)


def locust(*words: str) -> subprocess.Popen:
    """A node of Locust in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "locust", *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def load(*words: str, seconds: int = 4) -> tuple[dict, list[str]]:
    """What a master and two workers measure with eight users; what the workers printed."""
    port = str(free_port())
    load_of = "--headless", "-u", "8", "-r", "8", "-t", f"{seconds}s", "--json"
    listening = "--master-bind-host", "127.0.0.1", "--master-bind-port", port
    nodes = [locust(*words, "--worker", "--master-port", port) for _ in range(2)]
    nodes.append(locust(*words, "--master", *listening, "--expect-workers", "2", *load_of))
    try:
        said = [node.communicate(timeout=LIMIT_S) for node in reversed(nodes)]
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
    (master, errors), *workers = said
    assert master, errors
    (figures,) = json.loads(master)
    return figures, [output for output, _ in workers]


def test_a_master_and_two_workers_send_own_requests_and_learn_what_is_correct(tmp_path):
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"n": 1}\n{"n": 2}\n')
    with running_server(*SLEEPING) as server:
        figures, workers = load("-f", str(OWN), "--host", server.url, "--body", str(requests))
    assert figures["name"] == "/predict"
    assert figures["num_requests"] > 20
    assert figures["num_failures"] == 0
    assert figures["min_response_time"] > 19  # 20 ms each, one at a time
    rates = list(figures["num_reqs_per_sec"].values())[1:-1]
    assert max(rates) <= 51
    assert all("the same twice for 2 of 2 requests" in said for said in workers)


def test_an_answer_that_is_not_that_without_load_is_a_failure(tmp_path):
    (tmp_path / "request.json").write_text("1")

    async def script(number: int, writer) -> None:
        document = b"1" if number <= 4 else b"2"  # two workers ask twice each
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + document)

    words = "--body", str(tmp_path / "request.json")
    with scripted_server(script) as (url, _):
        host = url.removesuffix("/predict")
        figures, _ = load("-f", str(OWN), "--host", host, *words, "--check", "same", seconds=2)
    assert figures["num_failures"] > 0.9 * figures["num_requests"] > 0


def test_requests_that_cannot_be_read_end_a_node_with_a_sentence(tmp_path):
    node = locust("-f", str(OWN), "--headless", "-t", "1s", "--body", str(tmp_path / "nowhere"))
    _, errors = node.communicate(timeout=LIMIT_S)
    assert node.returncode != 0
    assert "nowhere cannot be read" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_folders_locustfile_brings_the_benchmarks_own_requests_and_checks():
    file = ROOT / "mnist_model_benchmarking" / "locustfile.py"
    module = "mnist_model_benchmarking.server_baseline"
    with running_server(module, "--accelerator", "cpu") as server:
        figures, _ = load("-f", str(file), "--host", server.url)
    assert figures["num_requests"] > 20
    assert figures["num_failures"] == 0
