"""Builders of what a run measures: load results, windows, rows, variants and whole results."""

import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.judge.judgement import judged
from harness.load.job import CONNECTION_ERROR, OK, LoadResult
from harness.measure.capacity import CapacityWindow
from harness.measure.utilisation import Usage
from harness.measure.window import HttpWork, OfferedLoad, Window, WorkerWork
from harness.results.rows import Rate, Row
from harness.results.schema import (
    Comparison,
    NoOpServer,
    Results,
    VariantResult,
    Verdict,
    WindowRecord,
)
from harness.results.summary import row_of, with_intervals
from tests.numbers.suite import NumbersRow, NumbersVariant

NO_USAGE = Usage()
USAGE = Usage(
    seconds=3.0,
    machine_percent=150.0,
    stolen_percent=0.0,
    role_cpu_s={"http": 1.2, "queue": 0.6, "workers": 1.8},
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


def rate(mean: float, resolution_percent: float | None = 4.0) -> Rate:
    """A rate that is known so well."""
    if resolution_percent is None:
        return Rate(mean)
    factor = 1 + resolution_percent / 100
    return Rate(mean, (mean / factor, mean * factor), resolution_percent, 6.0, 2.0)


def row(
    *loads: LoadResult,
    concurrency: int = 1,
    usage: Usage = USAGE,
    resolution_percent: float | None = 4.0,
    **changes: Any,
) -> Row:
    """The row of these windows; three good ones if none is given."""
    loads = loads or (load_result(), load_result(0.011), load_result(0.012))
    windows = [window(load, usage, block=block) for block, load in enumerate(loads)]
    mean = math.prod(load.requests_per_second for load in loads) ** (1 / len(loads))
    known = rate(mean, resolution_percent)
    offered = OfferedLoad(concurrency)
    made = row_of(offered, windows, known, 1, NumbersRow(even_share=0.5), {}, 10**9)
    return replace(with_intervals(made, windows), **changes)


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
    return NoOpServer(0.4, 0.1, 0.5, concurrency, requests_per_second)


def variant(*rows: Row, builds_on: str | None = None, **changes: Any) -> VariantResult:
    """A variant with these rows; a good one if none is given."""
    made = VariantResult(
        builds_on=builds_on,
        server={"variant": "steady"},
        startup_s=4.2,
        error=None,
        in_process_per_second=3050.0,
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
    """A comparison with an interval."""
    bounds = percent - half_width, percent + half_width
    text = f"{verdict} by {abs(percent):g} %"
    return Comparison(percent, bounds, half_width, 0.01, verdict, text)


def verdict(
    name: str,
    load: str,
    percent: float,
    word: str = "faster",
    against: str = "steady",
    half_width: float = 3.0,
) -> Verdict:
    """A verdict on a variant at a load."""
    return Verdict(name, against, load, comparison(percent, word, half_width))


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
        settings={"epochs": 3, "minutes": 8.0, "rate": None},
        measured_s=480.0,
        aa_control={},
        variants=variants or {"steady": variant()},
        verdicts=[],
    )
    return replace(made, **changes)


def window_record(server: str, requests_per_second: float, **changes: Any) -> WindowRecord:
    """A raw window of a server, which is the only one of the variant of its name."""
    made = WindowRecord(
        server=server,
        variant=server,
        epoch=0,
        block=0,
        load="1",
        seconds=0.5,
        requests={"sent": 50, "ok": 50, "wrong_answer": 0},
        requests_per_second=requests_per_second,
        cpu_s=None,
        breakdown_ms=None,
    )
    return replace(made, **changes)


def capacity_window(
    server: str, rate: float, late: int, sent: int, wrong: int = 0, **changes: Any
) -> CapacityWindow:
    """A window at an offered rate, of a server that is the only one of its variant."""
    made = CapacityWindow(
        server=server,
        variant=server,
        epoch=0,
        block=0,
        slo_p99_ms=60.0,
        offered_rate=rate,
        seconds=1.8,
        requests={"sent": sent, "ok": sent - wrong, "wrong_answer": wrong},
        late=late,
        latency_ms={"mean": 10.0, "p99": None},
    )
    return replace(made, **changes)


def windows_of(
    rates: Mapping[str, float],
    noise: float = 0.02,
    drift: float = 0.1,
    load: str = "1",
    epochs: int = 3,
    blocks: int = 6,
    seed: int = 0,
    control: str | None = None,
) -> list[WindowRecord]:
    """Windows of servers with these requests/s and so much noise, all in every block.

    Args:
        rates: by variant.
        noise, drift: of log rates, of each window and of all windows of a block.
        control: the variant that has a second server, "control".
    """
    chance, made = random.Random(seed), []
    servers = {name: name for name in rates} | ({"control": control} if control else {})
    for block in range(epochs * blocks):
        machine = chance.gauss(0, drift)
        for server, variant in servers.items():
            reached = rates[variant] * math.exp(machine + chance.gauss(0, noise))
            where = {"epoch": block // blocks, "block": block, "load": load, "variant": variant}
            made.append(window_record(server, reached, **where))
    return made


def judged_results(
    rates: Mapping[str, float], builds_on: Mapping[str, str] | None = None, **noise: Any
) -> Results:
    """A whole run, judged: the first variant is the baseline."""
    baseline = next(iter(rates))
    variants = {
        name: variant(
            row(requests_per_second=rate(reached), output_per_second=rate(reached)),
            builds_on=None if name == baseline else (builds_on or {}).get(name, baseline),
        )
        for name, reached in rates.items()
    }
    return judged(results(variants, windows=windows_of(rates, **noise)))
