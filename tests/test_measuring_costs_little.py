"""What the clocks in worker and HTTP process cost: the MNIST baseline with and without them.

They are taken out and put back in turn, in one launch.

python -m pytest -m slow -s tests/test_measuring_costs_little.py  # about fourteen minutes
"""

import random
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from statistics import median

import numpy
import pytest
from scipy.stats import ttest_1samp

from harness.load.job import OK, Job
from harness.load.runner import load_process
from harness.process.launch import running_server
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.suite import request_body
from tests.numbers.server_switched import switch

ROOT = Path(__file__).parent.parent
LAUNCHES, DURATION_S = 6, 60.0
BLOCK_S = 0.2  # short, so that what drifts on the machine falls on both sides of a pair alike
SETTLED_S = 0.08  # what was inside the server at the switch has left it


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 64])
def test_the_clocks_cost_less_than_two_percent_of_throughput(tmp_path, monkeypatch, concurrency):
    """Two launches of one server differ by more than that, so each server is compared with itself,
    under one load.
    """
    monkeypatch.chdir(ROOT)
    (tmp_path / "switch").write_bytes(b"\1")
    monkeypatch.setenv("SWITCH", str(tmp_path / "switch"))
    byte, order = switch(), random.Random(concurrency)
    bodies = [request_body([content]) for content, _ in sample_files(size=28)]
    ratios = []
    with load_process() as run_load:
        for _ in range(LAUNCHES):
            with running_server("tests.numbers.server_switched", "--accelerator", "cpu") as server:
                job = Job(
                    url=f"{server.url}/predict",
                    bodies=bodies,
                    concurrency=concurrency,
                    duration_s=DURATION_S,
                )
                with switching(byte, order) as pairs:
                    load = run_load(job)
                assert set(load.outcome) == {OK}
                # An error after its answer would look like a cost.
                assert not server.log.read_text()
            rates = [[rate(load.ended, begin) for begin in pair] for pair in pairs]
            rates = [pair for pair in rates if all(pair)]
            ratios.append(median(on / off for on, off in rates))
            with_, without = map(median, zip(*rates, strict=True))
            print(f"{with_:.0f}/s with, {without:.0f}/s without: {ratios[-1]:.3f} of {len(rates)}")
    logs = numpy.log(ratios)
    estimates = [logs.mean(), *ttest_1samp(logs, 0).confidence_interval()]
    percent, low, high = 100 * numpy.expm1(estimates)
    print(f"at {concurrency}: {percent:+.2f} % [{low:.2f}, {high:.2f}]")
    assert percent > -2


@contextmanager
def switching(byte: mmap, order: random.Random) -> Iterator[list[tuple[float, float]]]:
    """Turn the clocks on and off; yields, per pair of blocks, when the one with clocks and the one
    without began.

    The order within a pair is drawn: with the clocked one always first, it came out 5 % slower at
    concurrency 1.
    """
    pairs: list[tuple[float, float]] = []
    over = threading.Event()

    def turn() -> None:
        while not over.is_set():
            began = {}
            for on in order.sample((0, 1), 2):
                byte[0], began[on] = on, time.monotonic()
                over.wait(BLOCK_S)
            pairs.append((began[1], began[0]))

    thread = threading.Thread(target=turn)
    thread.start()
    try:
        yield pairs
    finally:
        over.set()
        thread.join()
        byte[0] = 1  # the next launch begins with its clocks on


def rate(ended: list[float], begin: float) -> float | None:
    """Answers per second in the settled part of the block that began then; None where the load was
    not under way.
    """
    first, last = bisect_left(ended, begin + SETTLED_S), bisect_right(ended, begin + BLOCK_S)
    if first == 0 or last == len(ended) or last - first < 2:
        return None
    return (last - first - 1) / (ended[last - 1] - ended[first])
