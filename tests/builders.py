"""Builders of what a run measures: load results, windows, rows, variants and whole results."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from harness.load.job import CONNECTION_ERROR, OK, LoadResult
from harness.measure.utilisation import Usage
from harness.measure.window import HttpWork, OfferedLoad, Record, Window, WorkerWork
from harness.results.rows import Row
from harness.results.run import Comparison, NoOpServer, Results, VariantResult, Verdict
from harness.results.summary import rate, row_of
from tests.numbers.suite import NumbersRow, NumbersVariant

NO_USAGE = Usage(*[None] * 9)
USAGE = replace(
    NO_USAGE,
    machine_percent=150.0,
    stolen_percent=0.0,
    server_percent=120.0,
    role_percent={"http": 40.0, "queue": 20.0, "workers": 60.0},
    memory_bytes=10**9,
)
MACHINE = {
    "cpu": "a processor",
    "instruction_sets": ["avx2"],
    "usable_cores": 2,
    "gpus": [],
    "python": "3.11.7",
    "packages": {"litserve": "0.2.19", "torch": "2.14.1"},
    "git_commit": "0123456789abcdef",
    "git_dirty": False,
}


def load_result(
    seconds: float = 0.01, count: int = 300, failures: int = 0, **changes
) -> LoadResult:
    """A closed loop of one connection: `count` answers of `seconds` each, the first few failed."""
    ended = [100 + seconds * (index + 1) for index in range(count)]
    result = LoadResult(
        opened=100,
        closed=ended[-1] if ended else 101,
        ended=ended,
        latency_s=[seconds] * count,
        service_s=[seconds] * count,
        outcome=[CONNECTION_ERROR] * failures + [OK] * (count - failures),
        quality=[1.0] * count,
        correct_in_window=count - failures,
        client_cpu_s=0.0001 * count,
    )
    return replace(result, **changes)


def worker(requests: int, busy_s: float = 0.0, **spent_s: float) -> WorkerWork:
    """What a worker did, one request per batch; `spent_s` by stage, summed over its requests."""
    return WorkerWork(requests, requests, spent_s, busy_s, {1: requests} if requests else {})


def http(requests: int, ingress_s: float, after_ingress_s: float) -> HttpWork:
    """What an HTTP process did."""
    return HttpWork(requests, ingress_s, after_ingress_s)


def window(load: LoadResult | None = None, usage: Usage = USAGE, **fields: Any) -> Window:
    """A window in which the client was far from its ceiling."""
    return Window(load or load_result(), usage, **({"client_ceiling": 10_000.0} | fields))


def row(*loads: LoadResult, concurrency: int = 1, usage: Usage = USAGE, **changes: Any) -> Row:
    """The row of these windows; three good ones if none is given."""
    loads = loads or (load_result(), load_result(0.011), load_result(0.012))
    windows = [window(load, usage) for load in loads]
    made = row_of(OfferedLoad(concurrency), windows, 1, NumbersRow(even_share=0.5), {})
    return replace(made, **changes)


BREAKDOWN = {
    "ingress": 1.0,
    "queue_wait": 2.0,
    "decode": 1.0,
    "predict": 4.0,
    "response_path": 1.5,
    "unexplained": 0.5,
}


def explained_row(
    machine_percent: float = 100.0, busy_percent: float = 20.0, **parts: float
) -> Row:
    """A row at concurrency 4 whose breakdown is known; `parts` in milliseconds."""
    plain = row(load_result(), concurrency=4)
    return replace(
        plain,
        breakdown_ms=BREAKDOWN | parts,
        worker_busy_percent=busy_percent,
        cpu_percent=plain.cpu_percent | {"machine": machine_percent, "stolen": 0.0},
    )


def no_op_server(requests_per_second: float = 10_000.0, concurrency: int = 4) -> NoOpServer:
    """What LitServe costs and allows by itself."""
    return NoOpServer(0.4, 0.1, 0.5, concurrency, rate([requests_per_second]))


def variant(*rows: Row, builds_on: str | None = None, **changes: Any) -> VariantResult:
    """A variant with these rows; a good one if none is given."""
    made = VariantResult(
        builds_on=builds_on,
        server={"variant": "steady"},
        startup_s=4.2,
        error=None,
        in_process_per_second=rate([3000.0, 3100.0]),
        no_op_server=None,
        capacity=None,
        own=NumbersVariant(prepared=True),
        rows=list(rows) or [row()],
    )
    return replace(made, **changes)


def failed_variant(builds_on: str | None = "steady", own: Any = None) -> VariantResult:
    """A variant that never came up."""
    return variant(
        builds_on=builds_on,
        server={},
        startup_s=None,
        error="it ended with 1 before it was ready; its last lines:\n    no model",
        in_process_per_second=None,
        own=own or NumbersVariant(prepared=False),
        rows=[],
    )


def comparison(percent: float, verdict: str = "faster", half_width: float = 3.0) -> Comparison:
    """A comparison of five epochs."""
    bounds = percent - half_width, percent + half_width
    return Comparison(percent, bounds, 5, verdict, f"{verdict} by {abs(percent):g} %")


def verdict(
    name: str, load: str, percent: float, word: str = "faster", against: str = "steady"
) -> Verdict:
    """A verdict on a variant at a load."""
    return Verdict(name, against, load, comparison(percent, word))


def results(variants: dict[str, VariantResult] | None = None, **changes: Any) -> Results:
    """A run of the tests' own suite with one variant, "steady", which is its baseline."""
    made = Results(
        suite="numbers",
        package="tests.numbers",
        unit="numbers",
        request="a number",
        notes=[],
        started_utc="2026-01-01T00:00:00+00:00",
        elapsed_s=1.0,
        complete=True,
        machine=MACHINE,
        settings={"epochs": 3, "duration": 3.0, "rate": None},
        noise_floor_percent={"1": None},
        variants=variants or {"steady": variant()},
        verdicts=[],
    )
    return replace(made, **changes)


def record(*rates: float, load: str = "1", wrong: int = 0) -> Record:
    """What was measured of a server: one window per epoch, with so many requests/s."""
    made = Record()
    for epoch, requests_per_second in enumerate(rates):
        result = LoadResult(
            opened=0.0,
            closed=1.0,
            outcome=["wrong_answer"] * wrong,
            correct_in_window=int(requests_per_second),
        )
        made.windows.setdefault(load, []).append(Window(result, NO_USAGE, epoch=epoch))
    return made


def file_with(rates: Iterable[float]) -> Results:
    """Results whose only row was measured at these requests/s, one per epoch."""
    return results({"steady": variant(row(*(load_result(1 / each) for each in rates)))})
