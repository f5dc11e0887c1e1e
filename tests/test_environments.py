"""Odd environments: proxies, keys, terminals, limits and folders that a shell hands down."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.process.launch import running_server
from tests.scripted import replies, scripted_server

ROOT = Path(__file__).parent.parent
STEADY = "tests.numbers.server_steady", "--accelerator", "cpu"
MNIST_CLIENT = ROOT / "mnist_model_benchmarking" / "client.py"
LLM_CLIENT = ROOT / "llm_model_benchmarking" / "client.py"
PROXIES = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}
DIGIT = b'{"predictions": [{"digit": 7, "probability": 0.9}]}'
WORD = b'data: {"choices": [{"delta": {"content": "7"}}]}\n\ndata: [DONE]\n\n'


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    """An HTTP answer with this body."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


CLIENTS = [
    ([MNIST_CLIENT, "--digit", "7"], answer(DIGIT), "digit 7 with probability 0.9000\n"),
    ([LLM_CLIENT, "What is 3 + 4?"], answer(WORD), "7\n"),
]


@pytest.fixture(autouse=True)
def _in_the_projects_root(monkeypatch):
    """`python -m tests.numbers...` is found from here."""
    monkeypatch.chdir(ROOT)


def ran(*command: object, timeout_s: float = 60, **environment: str):
    """A Python command that has ended, in this environment."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


def test_proxies_of_the_environment_do_not_stand_before_a_launched_server(monkeypatch):
    for name, proxy in PROXIES.items():
        monkeypatch.setenv(name, proxy)
    with running_server(*STEADY, startup_limit_s=60) as server:
        assert server.info["variant"] == "steady"
        assert server.stats()["workers"]


@pytest.mark.parametrize(("command", "reply", "printed"), CLIENTS)
def test_proxies_of_the_environment_do_not_stand_before_a_clients_server_here(
    command, reply, printed
):
    with scripted_server(replies(reply)) as (url, _):
        asked = ran(*command, "--url", url.removesuffix("/predict"), **PROXIES)
    assert asked.stdout == printed, asked.stderr
