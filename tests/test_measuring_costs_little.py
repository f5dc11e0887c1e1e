"""What the clocks in worker and HTTP process cost: the MNIST baseline with and without them, in turn, in one launch.

python -m pytest -m slow -s tests/test_measuring_costs_little.py       # about six minutes
"""

import random
import time
from pathlib import Path
from statistics import median

import pytest

from harness.launch import running_server
from harness.load import Job, load_process
from harness.stats import compared
from mnist_model_benchmarking.benchmark import request_body
from mnist_model_benchmarking.digits import sample_files
from tests.variants.server_switched import switch

ROOT = Path(__file__).parent.parent
LAUNCHES, PAIRS, WINDOW_S = 6, 20, 0.5
DRAINED_S = 0.2  # what a window has left in the server is done: no request may meet the switch half-way


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 64])
def test_the_clocks_cost_less_than_two_percent_of_the_throughput(tmp_path, monkeypatch, concurrency):
    """Two launches of one server differ by more than that, so each server is compared with itself.

    The order within a pair is drawn: with the clocked window always first, it came out 5 % slower at concurrency 1.
    """
    monkeypatch.chdir(ROOT)
    (tmp_path / "switch").write_bytes(b"\1")
    monkeypatch.setenv("SWITCH", str(tmp_path / "switch"))
    clocks, order = switch(), random.Random(concurrency)
    bodies = [request_body([content]) for content, _ in sample_files(size=28)]
    launches: list[tuple[float, float, float]] = []
    with load_process() as run_load:
        for _ in range(LAUNCHES):
            with running_server("tests.variants.server_switched", "--accelerator", "cpu") as server:
                job, pairs = Job(f"{server.url}/predict", bodies, concurrency, WINDOW_S, 0.1), []
                for _ in range(PAIRS):
                    rates = {}
                    for on in order.sample((0, 1), 2):
                        time.sleep(DRAINED_S)
                        clocks[0] = on
                        rates[on] = run_load(job).requests_per_second
                    if all(rates.values()):  # a machine that stalls for a whole window compares nothing
                        pairs.append((rates[1], rates[0]))
            ratio = median(on / off for on, off in pairs)
            launches.append((*map(median, zip(*pairs, strict=True)), ratio))
            print("{:.0f}/s with, {:.0f}/s without, ratio {:.3f}".format(*launches[-1]))
    cost = compared([ratio for *_, ratio in launches], [1.0] * LAUNCHES, 0.0)
    print(f"at {concurrency}: {cost.percent:+.2f} % [{cost.ci95[0]:.2f}, {cost.ci95[1]:.2f}]")
    assert cost.percent > -2
