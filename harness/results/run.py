"""A whole run, as data: the documented dataclasses of benchmark_results.json; rows:
harness.results.rows.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from dataclasses import field
from typing import Any, Generic, TypeVar

from pydantic.dataclasses import dataclass

from harness.measure.capacity import Capacity
from harness.results.rows import FINITE, OwnRow, Rate, Row

SCHEMA_VERSION = 3
OwnVariant = TypeVar("OwnVariant")


@dataclass(frozen=True, config=FINITE)
class NoOpServer:
    """LitServe around an API that does nothing, set up as the variant is (harness.measure.no_op).

    Attributes:
        ingress_ms, queue_wait_ms, response_path_ms: what LitServe itself costs a lone request on
            its way to the queue, through it, and back.
        concurrency: of the rate.
        requests_per_second: what HTTP and queues let through.
    """

    ingress_ms: float
    queue_wait_ms: float
    response_path_ms: float
    concurrency: int
    requests_per_second: Rate


@dataclass(frozen=True, config=FINITE, kw_only=True)
class VariantResult(Generic[OwnRow, OwnVariant]):
    """One variant.

    Attributes:
        builds_on: the variant whose difference it is; None for the baseline.
        server: what its /info said.
        startup_s: from launch to ready, mean over launches; None if it was not launched or never
            came up.
        error: None, or why it could not be measured to the end, with the last lines of its log.
        in_process_per_second: output of the same work without a server, measured beside each
            launch; None if it was not.
        no_op_server: what LitServe costs and allows by itself; None for a server that was not
            launched here.
        capacity: what it carries under an SLO; None if nobody asked (--slo-p99-ms).
        own: what the folder adds.
        rows: one entry per offered load, in order.
    """

    builds_on: str | None
    server: dict[str, Any]
    startup_s: float | None
    error: str | None
    in_process_per_second: Rate | None
    no_op_server: NoOpServer | None
    capacity: Capacity | None
    own: OwnVariant
    rows: list[Row[OwnRow]]

    @property
    def best(self) -> Row[OwnRow] | None:
        """The row with the highest output per second."""
        return max(self.rows, key=lambda row: row.output_per_second.mean, default=None)


@dataclass(frozen=True, config=FINITE)
class Comparison:
    """How much faster one thing is than another (harness.judge.statistics).

    Attributes:
        percent: geometric mean of the ratios, minus one, in percent; None without any.
        ci95: its 95 % interval; None of fewer than two ratios.
        ratios: how many went into it.
        verdict: "faster", "slower", "no detectable difference", "not enough data" or "not counted".
        text: the verdict as a phrase for people.
    """

    percent: float | None
    ci95: tuple[float, float] | None
    ratios: int
    verdict: str
    text: str


@dataclass(frozen=True, config=FINITE)
class Verdict:
    """One comparison under one offered load: `variant` against `against`."""

    variant: str
    against: str
    load: str
    comparison: Comparison


@dataclass(frozen=True, config=FINITE)
class Results(Generic[OwnRow, OwnVariant]):
    """A whole run: benchmark_results.json.

    Attributes:
        suite: name of what was measured.
        package: the folder that knows what `own` holds.
        unit: what a server produces; output_per_second counts it.
        request: what a request is, in words.
        notes: what a reader must know beside every number.
        started_utc, elapsed_s: when it began, how long it took.
        complete: False if the run was interrupted.
        machine: harness.measure.machine.
        settings: the command line.
        noise_floor_percent: by offered load, what the A/A control differs by from the baseline.
        variants: in reading order.
        verdicts: who is faster than whom (harness.judge.verdicts).
        advice: what the verdicts mean, in sentences (harness.judge.advice).
    """

    suite: str
    package: str
    unit: str
    request: str
    notes: list[str]
    started_utc: str
    elapsed_s: float
    complete: bool
    machine: dict[str, Any]
    settings: dict[str, Any]
    noise_floor_percent: dict[str, float | None]
    variants: dict[str, VariantResult[OwnRow, OwnVariant]]
    verdicts: list[Verdict]
    advice: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION

    @property
    def loads(self) -> list[str]:
        """Names of the offered loads that were measured, in order."""
        rows = (row for variant in self.variants.values() for row in variant.rows)
        return list(dict.fromkeys(row.load.name for row in rows))
