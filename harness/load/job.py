"""The load generator: raw keep-alive HTTP/1.1 connections on one event loop, cheap enough not to be what is measured.

    python -m harness.load.job http://127.0.0.1:8000/predict --body request.json --concurrency 64 --duration 5

A general HTTP client costs the machine 4 to 20 times as much CPU per request, and takes it from the server.
Closed loop: every connection keeps one request in flight. Open loop (--rate): requests are sent when they are due,
and latency counts from that moment, so that a server cannot slow its own examination down.
"""

import argparse
import asyncio
import gc
import json
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

OK, WRONG_ANSWER, HTTP_ERROR, TIMEOUT, CONNECTION_ERROR = OUTCOMES = (
    "ok", "wrong_answer", "http_error", "timeout", "connection_error",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What to send, and for how long.

    Attributes:
        url: where to POST.
        bodies: JSON documents, sent in a shuffled cycle.
        concurrency: connections with one request each in flight; ignored if there is a rate.
        duration_s: the least time to measure.
        warmup_s: sent before the clock starts, not counted. A closed loop also waits for one answer per connection:
            while its queue fills up, there is no steady state.
        rate: requests per second to start, whatever the server does (Poisson arrivals); None for a closed loop.
        timeout_s: a request that takes longer counts as timed out.
        min_requests: a closed loop measures up to four times as long until so many have ended.
        carries_output: for answers that stream: whether a server-sent event is output, such as a token.
        check: body of an answer and index of its request to (is right, quality from 0 to 1); None to trust the status.
        seed: of the order of bodies and the arrival times.
    """

    url: str
    bodies: list[bytes]
    concurrency: int = 1
    duration_s: float = 3.0
    warmup_s: float = 0.5
    rate: float | None = None
    timeout_s: float = 30.0
    min_requests: int = 11
    check: Callable[[bytes, int], tuple[bool, float | None]] | None = None
    carries_output: Callable[[bytes], bool] | None = None
    seed: int = 0

    @property
    def limit_s(self) -> float:
        """The longest the job can take."""
        return self.warmup_s + 4 * self.duration_s + self.timeout_s


@dataclass
class Load:
    """What came back: one entry per counted request, in order of ending.

    A closed loop counts the requests that ended inside the window, which opens and closes at the end of a request: its
    length is that of a whole number of requests (or batches), and throughput has no error of edges. An open loop
    counts the requests that were due inside the window, however late they end.

    Attributes:
        opened, closed: the window, seconds on the monotonic clock of this machine.
        ended: when each answer was complete, monotonic seconds.
        latency_s: from the intended send to the end of the answer; in a closed loop that is the service time.
        service_s: from the actual send to the end of the answer.
        outcome: one of OUTCOMES.
        quality: what `check` said, of the requests that were answered with a 200; None for the others.
        statuses: how often each HTTP error status came.
        right_in_window: right answers that ended inside the window.
        client_cpu_s: CPU seconds of the load generator's process during the window.
        first_s: answers that stream: from the intended send to the first output; None if none came.
        gaps_s: answers that stream: between one output and the next, per request.
        late_s: open loop: by how much each request was sent later than intended.
    """

    opened: float = math.nan
    closed: float = math.nan
    ended: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    outcome: list[str] = field(default_factory=list)
    quality: list[float | None] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    right_in_window: int = 0
    client_cpu_s: float = math.nan
    first_s: list[float | None] = field(default_factory=list)
    gaps_s: list[list[float]] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    @property
    def window_s(self) -> float:
        return self.closed - self.opened

    @property
    def requests_per_second(self) -> float:
        """Right answers per second of the window."""
        return self.right_in_window / self.window_s if self.window_s > 0 else 0.0

    @property
    def right_latency_s(self) -> list[float]:
        """Latencies of the right answers."""
        return self.of_right(self.latency_s)

    def of_right(self, values: list) -> list:
        """Those of the values, one per request, that belong to right answers."""
        return [value for value, outcome in zip(values, self.outcome, strict=True) if outcome == OK]


def run_job(job: Job, on_opening: Callable[[], None] = lambda: None) -> Load:
    """Run a job on an event loop of its own, uvloop's where there is one; tell when its warm-up is over."""
    from harness.load.loops import OpenLoopRun, Run

    try:
        from uvloop import new_event_loop
    except ImportError:  # Windows
        from asyncio import new_event_loop

    gc.collect()
    gc.freeze()  # what is here now stays: collecting it again and again would be paid by the server
    gc.disable()

    async def measure() -> Load:
        return await (Run if job.rate is None else OpenLoopRun)(job, on_opening).measure()

    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(measure())
    finally:
        gc.enable()


@contextmanager
def load_process() -> Iterator[Callable[..., Load]]:
    """A process of its own that runs jobs, one at a time.

    Call what this yields with a Job and, if something is to be done once the warm-up is over, a function.
    """
    context = multiprocessing.get_context("spawn")
    opening = context.Event()
    with context.Pool(1, prepare_process, (opening,)) as pool:

        def run(job: Job, once_warm: Callable[[], None] | None = None) -> Load:
            opening.clear()
            pending = pool.apply_async(run_job_and_tell, (job,))
            if once_warm:
                while not opening.wait(0.1) and not pending.ready():
                    pass
                once_warm()
            return pending.get(job.limit_s + 30)

        yield run


def prepare_process(opening: Event) -> None:
    """Make ready the process that runs jobs: a Ctrl-C is for the one that asked."""
    global tell_opening
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell_opening = opening.set


def run_job_and_tell(job: Job) -> Load:
    """Run a job and tell the process that asked when its warm-up is over."""
    return run_job(job, tell_opening)


def report(load: Load) -> dict[str, Any]:
    """The measurement as the JSON object that --json prints; keys and units as in benchmark_results.json."""
    from harness.results.rows import latency_ms, request_counts
    from harness.judge.statistics import mean

    return {
        "requests_per_second": load.requests_per_second,
        "latency_ms": latency_ms(load.right_latency_s),
        "requests": request_counts(load),
        "client": {
            "cpu_us_per_request": 1e6 * load.client_cpu_s / len(load.ended) if load.ended else None,
            "mean_send_delay_ms": 1000 * mean(load.late_s) if load.late_s else None,
        },
    }


def table(summary: dict[str, Any]) -> str:
    """The report for people."""
    milliseconds = ", ".join(
        f"{name} {value:.2f}" for name, value in summary["latency_ms"].items() if value is not None
    )
    counts = ", ".join(f"{count} {name}" for name, count in summary["requests"].items() if count)
    cpu = summary["client"]["cpu_us_per_request"]
    return (
        f"{summary['requests_per_second']:.1f} requests/s\nlatency in ms: {milliseconds}\nrequests: {counts}\n"
        f"client: {'?' if cpu is None else round(cpu)} µs of CPU per request"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.load.job", description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="where to POST, for example http://127.0.0.1:8000/predict")
    parser.add_argument("--body", type=Path, required=True, help="file with the JSON document to send")
    parser.add_argument("--concurrency", type=int, default=1, help="requests in flight (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=3, help="seconds to measure (default: %(default)s)")
    parser.add_argument("--warmup", type=float, default=0.5, help="seconds before that (default: %(default)s)")
    parser.add_argument("--rate", type=float, help="open loop: requests per second to start, at random moments")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for one request (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    options = parser.parse_args()
    job = Job(
        options.url, [options.body.read_bytes()], options.concurrency, options.duration, options.warmup,
        options.rate, options.timeout, seed=options.seed,
    )  # fmt: skip
    summary = report(run_job(job))
    print(json.dumps(summary, allow_nan=False) if options.json else table(summary))
    sys.exit(0 if summary["requests"]["ok"] == summary["requests"]["sent"] > 0 else 1)


if __name__ == "__main__":
    main()
