"""A whole run as data: the documented dataclasses of benchmark_results.json.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from dataclasses import field
from typing import Any, Generic, TypeVar

from pydantic.dataclasses import dataclass

from harness.measure.capacity import CapacityWindow
from harness.measure.utilisation import RoleMemory
from harness.results.rows import FINITE, OwnRow, Rate, Row

SCHEMA_VERSION = 5
OwnVariant = TypeVar("OwnVariant")
AT = "@"  # no script has it in its name


def at_revision(variant: str, revision: str) -> str:
    """The name of a variant as it is at the revision of --against: "x@main"."""
    return f"{variant}{AT}{revision}"


def script_and_revision(variant: str) -> tuple[str, str]:
    """Whose script a variant runs, and at which revision; "" for today's."""
    script, _, revision = variant.partition(AT)
    return script, revision


@dataclass(frozen=True, config=FINITE)
class NoOpServer:
    """The no-op server, set up as the variant is (harness.measure.no_op).

    Attributes:
        ingress_ms, queue_wait_ms, response_path_ms: what LitServe itself costs a lone request on
            its way to the queue, through it, and back.
        concurrency: of the rate.
        requests_per_second: what HTTP and queues let through, mean over windows.
    """

    ingress_ms: float
    queue_wait_ms: float
    response_path_ms: float
    concurrency: int
    requests_per_second: float


@dataclass(frozen=True, config=FINITE)
class Capacity:
    """The highest offered rate at which 99 % of the answers come within an SLO.

    Attributes:
        slo_p99_ms: the SLO, latency from the intended send.
        requests_per_second: where late answers become more than 1 %, mean over epochs; its interval
            needs a second epoch. None if no rates tried lie on both sides in the time there was.
        holds_at: the highest rate below fails_at at which a binomial test rules out, at 95 %, that
            more are late; None if there is none.
        fails_at: the lowest rate at which one rules out that fewer are; None likewise.
    """

    slo_p99_ms: float
    requests_per_second: Rate | None
    holds_at: float | None
    fails_at: float | None


@dataclass(frozen=True, config=FINITE, kw_only=True)
class VariantResult(Generic[OwnRow, OwnVariant]):
    """One variant.

    Attributes:
        builds_on: the variant whose difference it is; None for the baseline. With --against, itself
            at the other revision; None there, and where that has no such script.
        server: what its /info said.
        startup_s: from launch to ready, mean over the launches beside which no other server
            started; None if it was not launched or never came up.
        error: None, or why it could not be measured to the end, with the last lines of its log.
        in_process_per_second: output of the same work without a server, mean over the blocks that
            measured it; None if none did.
        no_op_server: what LitServe costs and allows by itself; None for a server that was not
            launched here.
        capacity: what it carries under an SLO; None if nobody asked (--slo-p99-ms).
        memory: what its processes hold, by role ("http", "queue" with the parent and what else
            there is, "workers"), after all loads were served; None for a server that is not here,
            and in files from before it was measured.
        own: what the folder adds.
        rows: one entry per offered load, in order.
    """

    builds_on: str | None
    server: dict[str, Any]
    startup_s: float | None
    error: str | None
    in_process_per_second: float | None
    no_op_server: NoOpServer | None
    capacity: Capacity | None
    own: OwnVariant
    rows: list[Row[OwnRow]]
    memory: dict[str, RoleMemory] | None = None

    @property
    def best(self) -> Row[OwnRow] | None:
        """The row with the highest output per second."""
        return max(self.rows, key=lambda row: row.output_per_second.mean, default=None)


@dataclass(frozen=True, config=FINITE)
class WindowRecord:
    """One window, raw: every rate, interval and verdict can be computed again from these.

    Attributes:
        server, variant: which server, and whose script it is; the A/A control is a server of the
            baseline.
        epoch, block, load: when, and under which offered load.
        seconds: length of the window.
        requests: sent, and how they ended.
        requests_per_second: correct answers per second.
        cpu_s: CPU seconds of the server by role and of the client; None where unknown.
        breakdown_ms: mean time of a request in each of its parts, once the queue was full; None
            without /stats, or if it never was.
    """

    server: str
    variant: str
    epoch: int
    block: int
    load: str
    seconds: float
    requests: dict[str, int]
    requests_per_second: float
    cpu_s: dict[str, float] | None
    breakdown_ms: dict[str, float] | None


@dataclass(frozen=True, config=FINITE)
class Comparison:
    """How much faster one thing is than another (harness.judge.verdicts).

    Attributes:
        percent: ratio of the rates minus one, in percent; None if never measured together.
        ci95: its 95 % interval; None without a second block.
        resolution_percent: half-width of that interval.
        p_holm: of no difference, adjusted for all verdicts of the run (Holm).
        verdict: "faster", "slower", "same", "undecided" or "not counted".
        text: the verdict as a phrase for people.
    """

    percent: float | None
    ci95: tuple[float, float] | None
    resolution_percent: float | None
    p_holm: float | None
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
class Best:
    """What was fastest under one offered load: a variant, and those that are the same as it."""

    variant: str
    same: list[str]


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
        against_commit: the abbreviated hash of the revision of --against; None without.
        measured_s: of all epochs, launches included.
        aa_control: by offered load, the A/A control against the baseline: the proof of the
            instrument.
        variants: in reading order.
        best: by offered load, the fastest variant and those that are the same within the margin.
        verdicts: who is faster than whom (harness.judge.verdicts), and who carries more
            (harness.judge.capacity).
        advice: what the verdicts mean, in sentences (harness.judge.advice).
        windows: every window, in order.
        capacity_windows: every window at a rate that a search for capacity chose, in order.
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
    measured_s: float
    aa_control: dict[str, Comparison]
    variants: dict[str, VariantResult[OwnRow, OwnVariant]]
    verdicts: list[Verdict]
    best: dict[str, Best] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)
    windows: list[WindowRecord] = field(default_factory=list)
    capacity_windows: list[CapacityWindow] = field(default_factory=list)
    against_commit: str | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def loads(self) -> list[str]:
        """Names of the offered loads that were measured, in order."""
        rows = (row for variant in self.variants.values() for row in variant.rows)
        return list(dict.fromkeys(row.load.name for row in rows))

    @property
    def against(self) -> str | None:
        """The revision of --against, as it was asked for; None without."""
        return self.settings.get("against")

    @property
    def builds_on(self) -> dict[str, str | None]:
        """By variant, the one it is the difference to."""
        return {name: variant.builds_on for name, variant in self.variants.items()}

    @property
    def baseline(self) -> str | None:
        """The variant that builds on no other; None if it was not measured, or where every variant
        is compared with itself at another revision and nothing else.
        """
        if self.against:
            return None
        return next((name for name, under in self.builds_on.items() if under is None), None)
