"""Thawing a server for short windows gives the rate that one long window gives: no bias.

python -m pytest -m slow -s tests/test_short_windows_agree.py       # about ten minutes
"""

from contextlib import ExitStack
from pathlib import Path

import numpy
import pytest
from scipy.stats import ttest_1samp

from harness.load.job import Job
from harness.load.runner import load_process
from harness.measure.epochs import Running
from harness.measure.utilisation import ProcessTree
from harness.process.launch import running_server
from harness.run import WARMUP_ANSWERS, WARMUP_S
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.suite import VARIANTS, MnistSuite, request_body

ROOT = Path(__file__).parent.parent
PAIRS, SHORT_PER_PAIR, LONG_S = 10, 6, 2.5


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 64])
@pytest.mark.parametrize("variant", [variant.name for variant in VARIANTS])
def test_short_windows_after_a_thaw_agree_with_a_long_one(monkeypatch, variant, concurrency):
    """Long and short windows of one server in turn: their ratio's interval holds 1."""
    monkeypatch.chdir(ROOT)
    bodies = [request_body([content]) for content, _ in sample_files(size=28)]
    logs = []
    with (
        running_server(f"mnist_model_benchmarking.server_{variant}", "--accelerator", "cpu") as up,
        load_process() as run_load,
    ):
        frozen = Running(up, ExitStack(), ProcessTree(up.pid, up.stats()), launched=True)

        def rate(duration_s: float) -> float:
            job = Job(
                url=f"{up.url}/predict",
                bodies=bodies,
                concurrency=concurrency,
                duration_s=duration_s,
                warmup_s=WARMUP_S,
                warmup_answers=WARMUP_ANSWERS,
            )
            frozen.thaw()
            reached = run_load(job).requests_per_second
            frozen.freeze()
            return reached

        rate(LONG_S)
        frozen.freeze()
        for _ in range(PAIRS):
            short = numpy.mean([rate(MnistSuite.window_s) for _ in range(SHORT_PER_PAIR)])
            logs.append(numpy.log(short / rate(LONG_S)))
        frozen.thaw()
    low, high = 100 * numpy.expm1(ttest_1samp(logs, 0).confidence_interval(0.99))
    print(f"{variant} at {concurrency}: short over long {low:+.1f} to {high:+.1f} %")
    assert low <= 0 <= high
