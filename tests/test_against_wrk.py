"""The load generator beside wrk on the same server, in turn.

    python -m pytest -m slow -s tests/test_against_wrk.py

wrk (Debian package) is the cheapest client there is; what it measures is what the server can do.
"""

import re
import resource
import shutil
import statistics
import subprocess

import pytest

from harness.load.job import Job
from harness.load.runner import load_process
from harness.process.launch import running_server
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.suite import request_body

PAIRS, SECONDS, CONCURRENCY = 9, 5, 64
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
"""


def wrk(url: str, script: str) -> tuple[float, float]:
    """Requests per second, and wrk's own CPU microseconds per request."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["wrk", "-t1", f"-c{CONCURRENCY}", f"-d{SECONDS}", "-s", script, url]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    requests = int(re.search(r"(\d+) requests in", printed)[1])
    return float(re.search(r"Requests/sec:\s+([\d.]+)", printed)[1]), 1e6 * cpu_s / requests


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk")
def test_throughput_is_at_least_95_percent_of_what_wrk_measures(tmp_path):
    body = request_body([sample_files(1)[0][0]])
    (tmp_path / "body.json").write_bytes(body)
    (tmp_path / "post.lua").write_text(SCRIPT.format(body=tmp_path / "body.json"))
    ratios = []
    with (
        running_server("mnist_model_benchmarking.server_baseline") as server,
        load_process() as run_load,
    ):
        job = Job(
            url=f"{server.url}/predict",
            bodies=[body],
            concurrency=CONCURRENCY,
            duration_s=SECONDS,
        )
        print("\n| pair | ours req/s | ours µs CPU | wrk req/s | wrk µs CPU | ours / wrk |")
        print("|--:|--:|--:|--:|--:|--:|")
        for pair in range(PAIRS):
            measured = {}
            for client in ("ours", "wrk") if pair % 2 else ("wrk", "ours"):
                if client == "wrk":
                    measured[client] = wrk(job.url, str(tmp_path / "post.lua"))
                else:
                    result = run_load(job)
                    cpu_us = 1e6 * result.client_cpu_s / len(result.ended)
                    measured[client] = result.requests_per_second, cpu_us
            rates_and_cpu = [*measured["ours"], *measured["wrk"]]
            ratios.append(measured["ours"][0] / measured["wrk"][0])
            columns = " | ".join(f"{value:.0f}" for value in rates_and_cpu)
            print(f"| {pair + 1} | {columns} | {ratios[-1]:.3f} |")
    print(f"median ratio {statistics.median(ratios):.3f}")
    assert statistics.median(ratios) >= 0.95
