"""Windows of servers that stream: outputs count while the queue fills, latency once it is full."""

import json
import math
import multiprocessing
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness import run as running
from harness.load.job import Job, LoadResult
from harness.load.loop import Moment
from harness.load.runner import load_process
from harness.measure import epochs
from harness.measure.gpu import GpuReader, GpuReading
from harness.measure.utilisation import GPU_PERIOD_S, ProcessTree
from harness.measure.window import Window
from harness.process.launch import Server, running_server
from harness.results.summary import mean_concurrency, record_of
from tests.numbers.suite import suite
from tests.servers import chat_server
from tests.test_runs import options

LAUNCHER = "harness.own_server.launcher"
SCRIPT = Path(__file__).parent / "own_scripts" / "streaming_events.py"
CONCURRENCY, OUTPUTS, ANSWER_S = 8, 4, 0.1


def repeats(body: bytes, index: int) -> tuple[bool, float]:
    """Whether a stream repeats the number it was sent."""
    return body == f"data: {index}\n\n".encode() * OUTPUTS, 1.0


def window_of(
    server: Server,
    run_load: Callable[..., LoadResult],
    duration_s: float,
    gpu: GpuReader | None = None,
    **changes: Any,
) -> Window:
    """One window of a server that streams, as a run measures it."""
    made = running.Run(suite("steady"), options(Path()))
    campaign = epochs.Campaign(made.plan, run_load, gpu, None, None, None, None, None)
    tree = ProcessTree(server.pid, server.stats())
    asked = {
        "url": f"{server.url}/predict",
        "bodies": [json.dumps({"n": number}).encode() for number in range(100)],
        "concurrency": CONCURRENCY,
        "warmup_s": 0.0,
        "min_requests": 1,
        "check": repeats,
        "carries_output": bool,
    }
    job = Job(duration_s=duration_s, **(asked | changes))
    return campaign.window(epochs.Running(server, ExitStack(), tree, launched=True), job, 0)


def streamed(duration_s: float, *arguments: str, **changes: Any) -> Window:
    """A window of the script with these arguments."""
    flags = (SCRIPT, "--", *arguments) if arguments else (SCRIPT,)
    with running_server(LAUNCHER, *map(str, flags)) as server, load_process() as run_load:
        return window_of(server, run_load, duration_s, **changes)


def breakdown_of(window: Window) -> dict[str, float]:
    """In milliseconds, as the file has it."""
    return record_of("server", "variant", str(CONCURRENCY), window, {}).breakdown_ms


@pytest.mark.parametrize("duration_s", [0.3, 2.0], ids=["over before it is full", "over later"])
def test_in_turn_outputs_count_from_the_first_end_and_latency_once_the_queue_is_full(duration_s):
    window = streamed(duration_s)
    load, counted = window.load, window.load.correct_latency_s
    assert set(load.outcome) == {"ok"}
    assert load.outputs_in_window == OUTPUTS * len(load.outcome)  # whole answers lie in it
    assert load.full_since == load.ended[CONCURRENCY - 2]  # the first one's end has opened it
    assert 0 < len(counted) == len(load.outcome) - (CONCURRENCY - 1)
    pace = load.requests_per_second
    assert pace == pytest.approx(len(load.outcome) / load.window_s)
    assert pace < 1 / ANSWER_S
    assert mean_concurrency([load]) == pytest.approx(CONCURRENCY, rel=0.25)
    parts = breakdown_of(window)
    latency_ms = 1000 * sum(counted) / len(counted)
    assert sum(parts.values()) == pytest.approx(latency_ms)
    assert parts["queue_wait"] + 1000 * ANSWER_S == pytest.approx(latency_ms, rel=0.25)
    assert abs(parts["unexplained"]) < 0.25 * latency_ms  # cut-off requests are in no total
    (worker,) = window.workers
    assert worker.requests == pytest.approx(len(counted), abs=1)
    assert worker.requests + window.served_filling == pytest.approx(len(load.outcome), abs=1)
    assert window.usage.seconds == pytest.approx(load.window_s, rel=0.25)


def test_a_window_that_wants_no_latencies_ends_before_the_queue_is_full():
    window = streamed(0.3, wants_latencies=False)
    load = window.load
    assert set(load.outcome) == {"ok"}
    assert len(load.outcome) < CONCURRENCY - 1
    assert load.window_s >= 0.3
    assert load.outputs_in_window == OUTPUTS * len(load.outcome)
    assert load.full_since == math.inf
    assert load.correct_latency_s == window.first_output_s == []
    assert load.requests_per_second == pytest.approx(len(load.outcome) / load.window_s)
    assert breakdown_of(window) is None
    assert window.served_filling == pytest.approx(len(load.outcome), abs=1)
    assert window.usage.seconds == pytest.approx(load.window_s, rel=0.25)


def test_together_the_queue_is_full_as_the_window_opens_and_waves_are_whole():
    """LitServe may have begun to wait for the first batch long before: it can lack a request."""
    window = streamed(0.5, "together", warmup_s=1.0)
    load = window.load
    assert set(load.outcome) == {"ok"}
    assert load.full_since == -math.inf
    assert len(load.outcome) % CONCURRENCY == 0
    assert load.outputs_in_window == OUTPUTS * len(load.outcome)
    assert mean_concurrency([load]) == pytest.approx(CONCURRENCY, rel=0.25)
    assert window.served_filling == 0
    (worker,) = window.workers
    assert worker.requests == pytest.approx(len(load.outcome), abs=CONCURRENCY)
    assert breakdown_of(window)["queue_wait"] < 1000 * ANSWER_S


@pytest.mark.alone
def test_answers_that_are_cut_off_as_the_window_ends_are_in_no_total():
    """This server sees at the next token that a client has left, and counts what it did."""
    asked = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 200}
    asked |= {"stream": True, "ignore_eos": True}
    with running_server(*chat_server("baseline")) as server, load_process() as run_load:
        window = window_of(
            server,
            run_load,
            1.0,
            url=f"{server.url}/v1/chat/completions",
            bodies=[json.dumps(asked).encode()],
            concurrency=2,
            check=None,
        )
    answered = len(window.load.outcome)
    assert set(window.load.outcome) == {"ok"}
    assert sum(worker.requests for worker in window.workers) + window.served_filling == answered
    assert breakdown_of(window)["response_path"] < 0.2 * 1000 * window.load.window_s / answered


def test_marks_of_a_load_process_that_died_are_not_in_the_window():
    """It is killed between the opening of its window and the moment at which its queue is full."""
    killed = []

    with running_server(LAUNCHER, str(SCRIPT)) as server:
        others = multiprocessing.active_children()
        with load_process() as run_load:

            def killed_once(job: Job, on_moment: Callable[[Moment], None]) -> LoadResult:
                def told(moment: Moment) -> None:
                    on_moment(moment)
                    if moment is Moment.OPENED and not killed:
                        (process,) = set(multiprocessing.active_children()) - set(others)
                        process.kill()
                        killed.append(process)

                return run_load(job, told)

            window = window_of(server, killed_once, 0.3)
    assert len(killed) == 1
    assert set(window.load.outcome) == {"ok"}
    assert window.usage.seconds == pytest.approx(window.load.window_s, rel=0.25)
    assert window.served_filling == pytest.approx(CONCURRENCY - 1, abs=1)


class SwitchedGpu:
    """A GPU that is busy whenever no window is open."""

    percent = 100.0

    def read(self) -> GpuReading:
        return GpuReading(self.percent, None, None, None, None)


def test_samples_of_the_gpu_are_those_of_the_window_alone():
    gpu = SwitchedGpu()
    with running_server(LAUNCHER, str(SCRIPT)) as server, load_process() as run_load:

        def switched(job: Job, on_moment: Callable[[Moment], None]) -> LoadResult:
            def told(moment: Moment) -> None:
                if moment is Moment.OPENED:
                    gpu.percent = 10.0
                on_moment(moment)
                if moment is Moment.CLOSED:
                    gpu.percent = 100.0

            load = run_load(job, told)
            time.sleep(5 * GPU_PERIOD_S)
            return load

        window = window_of(server, switched, 0.5, gpu, warmup_s=0.5, wants_latencies=False)
    assert window.usage.gpu_percent == 10.0
