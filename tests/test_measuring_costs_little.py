"""What the clocks in workers and HTTP process cost: the MNIST baseline with and without them, in turn.

python -m pytest -m slow -s tests/test_measuring_costs_little.py       # about six minutes
"""

import random
from pathlib import Path
from statistics import median

import pytest

from harness.launch import Server, running_server
from harness.load import Job, load_process
from harness.stats import compared
from mnist_model_benchmarking.benchmark import request_body
from mnist_model_benchmarking.digits import sample_files

ROOT = Path(__file__).parent.parent
PAIRS, WINDOWS, WINDOW_S = 8, 12, 0.5
CLOCKED, UNCLOCKED = "mnist_model_benchmarking.server_baseline", "tests.variants.server_unclocked"


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 64])
def test_the_clocks_are_not_seen_to_cost_two_percent_of_the_throughput(monkeypatch, concurrency):
    """A pair is a launch of both; their windows take turns, in an order drawn anew each time.

    With the clocked one always first, it came out 5 % slower at concurrency 1 for no other reason.
    """
    monkeypatch.chdir(ROOT)
    bodies = [request_body([content]) for content, _ in sample_files(size=28)]
    ratios, order = [], random.Random(0)
    with load_process() as run_load:

        def rates(*servers: Server) -> list[float]:
            found = {}
            for index in order.sample(range(len(servers)), len(servers)):
                job = Job(f"{servers[index].url}/predict", bodies, concurrency, WINDOW_S, 0.1)
                found[index] = run_load(job).requests_per_second
            return [found[index] for index in range(len(servers))]

        for pair in range(PAIRS):
            with (
                running_server(CLOCKED, "--accelerator", "cpu") as clocked,
                running_server(UNCLOCKED, "--accelerator", "cpu") as unclocked,
            ):
                windows = [rates(clocked, unclocked) for _ in range(WINDOWS)]
            ratios.append(median(first / second for first, second in windows))
            first, second = map(median, zip(*windows, strict=True))
            print(f"pair {pair + 1}: {first:.0f}/s with, {second:.0f}/s without, {100 * ratios[-1] - 100:+.1f} %")
    cost = compared(ratios, [1.0] * PAIRS, 0.0)
    print(f"at {concurrency}: {cost.percent:+.2f} % [{cost.ci95[0]:.2f}, {cost.ci95[1]:.2f}]")
    assert cost.ci95[1] > -2
