"""What a run found, as data: the documented dataclasses that benchmark_results.json holds; its rows: harness.results.rows.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from dataclasses import field
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from harness.results.rows import FINITE, ImageLevel, Rate, TokenLevel
from harness.judge.statistics import Comparison

SCHEMA_VERSION = 2


@dataclass(frozen=True, config=FINITE)
class ModelAlone:
    """The model without any server, at the variant's own precision: images per second by batch size."""

    batch_sizes: list[int]
    images_per_second: list[float]


@dataclass(frozen=True, config=FINITE)
class CapacityWindow:
    """One window of a search for capacity: the rate offered, how its requests ended, their latency, whether it held."""

    rate: float
    requests: dict[str, int]
    latency_ms: dict[str, float | None]
    held: bool


@dataclass(frozen=True, config=FINITE)
class Capacity:
    """The highest rate of Poisson arrivals at which p99 stays within a promise and nothing fails (harness.measure.capacity).

    Attributes:
        p99_ms: the promise, latency from the intended send.
        requests_per_second: the highest rate that held; None if none did in the time there was.
        fails_at: the lowest rate that did not, requests per second; None if none was reached in time.
        windows: every window, in order.
    """

    p99_ms: float
    requests_per_second: float | None
    fails_at: float | None
    windows: list[CapacityWindow]

    @property
    def text(self) -> str:
        """The capacity for people, and how well it is known."""
        held, failed = self.requests_per_second, self.fails_at
        if held is None:
            return "no rate found in time" if failed is None else f"not even {failed:.0f} requests/s"
        return f"{held:.0f} requests/s" + (" at least" if failed is None else f", not {failed:.0f}")


@dataclass(frozen=True, config=FINITE)
class NullServer:
    """LitServe around an API that does nothing, set up as the variant is, launched in every round (harness.measure.no_op).

    Attributes:
        arriving_ms, queue_ms, returning_ms: the floor: a lone request's way to the queue, through it, and back.
        concurrency: requests in flight of the rate.
        requests_per_second: what HTTP and queues let through.
    """

    arriving_ms: float
    queue_ms: float
    returning_ms: float
    concurrency: int
    requests_per_second: Rate


@dataclass(frozen=True, config=FINITE, kw_only=True)
class VariantResult:
    """One variant; what all suites have in common.

    Attributes:
        builds_on: the variant whose difference it is; None for the baseline.
        server: what its /info said.
        startup_s: from launch to ready, mean over rounds; None if it was not launched or never came up.
        error: None, or why it could not be measured to the end, with the last lines of its log.
        null_server: what LitServe costs and allows without any API; None for a server that was not launched here.
        capacity: what it carries under a promise; None if nobody asked (--slo-p99-ms).
    """

    builds_on: str | None
    server: dict[str, Any]
    startup_s: float | None
    error: str | None
    null_server: NullServer | None = None
    capacity: Capacity | None = None


@dataclass(frozen=True, config=FINITE, kw_only=True)
class ImageVariant(VariantResult):
    """One variant that serves images.

    Attributes:
        baseline_throughput: the model alone; None if it was not measured.
        decode_and_model_images_per_second: from JSON text to answer on one core, no server, beside each turn.
        api_benchmarks: one entry per load, in order.
    """

    baseline_throughput: ModelAlone | None
    decode_and_model_images_per_second: Rate | None
    api_benchmarks: list[ImageLevel]

    @property
    def levels(self) -> list[ImageLevel]:
        """One entry per load."""
        return self.api_benchmarks


@dataclass(frozen=True, config=FINITE, kw_only=True)
class TokenVariant(VariantResult):
    """One variant that generates tokens; rates and shares of it are those of one request at a time.

    Attributes:
        avg_tokens_per_sec, std_dev: served output tokens per second, mean and standard deviation over rounds.
        theoretical_max_tokens_per_sec: memory bandwidth over bytes_per_token: what no single stream can pass.
        efficiency_percent: avg_tokens_per_sec as a share of that.
        memory_bandwidth_bytes_per_s: the most this device read, measured in the same run.
        bytes_per_token: weights and key-value cache that one decoding step has to read.
        in_process_tokens_per_second: the same generation without a server, measured in the same turns.
        served_share_percent: served rate over that one, mean over rounds: 100 would be serving for nothing.
        model_bytes: weights and buffers in the memory of the worker.
        load_s: reading the weights, mean over launches.
        compile_s: first launch of the run, with an empty compiler cache; None if nothing is compiled.
        compile_cached_s: later launches, mean.
        compile_earned_back_requests: requests after which the faster answers have made up for compile_s; None if never.
        kl_divergence: mean Kullback-Leibler divergence, in nats, of the next-token distribution from the baseline's.
        generation: one entry per load, in order.
    """

    avg_tokens_per_sec: float | None
    std_dev: float | None
    theoretical_max_tokens_per_sec: float | None
    efficiency_percent: float | None
    memory_bandwidth_bytes_per_s: float | None
    bytes_per_token: int | None
    in_process_tokens_per_second: Rate | None
    served_share_percent: float | None
    model_bytes: int | None
    load_s: float | None
    compile_s: float | None
    compile_cached_s: float | None
    compile_earned_back_requests: int | None
    kl_divergence: float | None
    generation: list[TokenLevel]

    @property
    def levels(self) -> list[TokenLevel]:
        """One entry per load."""
        return self.generation


@dataclass(frozen=True, config=FINITE)
class Verdict:
    """One comparison at one load: `variant` against `against`; see harness.judge.statistics.Comparison."""

    variant: str
    against: str
    level: str
    percent: float | None
    ci95: tuple[float, float] | None
    rounds: int
    verdict: str
    text: str


@dataclass(frozen=True, config=FINITE)
class Results:
    """A whole run: benchmark_results.json.

    Attributes:
        complete: False if the run was stopped before its end.
        noise_floor_percent: per load, what the baseline differs by between two launches; None with no second launch.
        advice: what the verdicts mean, in sentences (harness.judge.advice).
    """

    suite: Literal["mnist", "llm"]
    started_utc: str
    elapsed_s: float
    complete: bool
    machine: dict[str, Any]
    settings: dict[str, Any]
    noise_floor_percent: dict[str, float | None]
    variants: dict[str, ImageVariant | TokenVariant]
    verdicts: list[Verdict]
    advice: list[str] = field(default_factory=list)
    schema_version: int = SCHEMA_VERSION


def verdict_of(variant: str, against: str, level: str, comparison: Comparison) -> Verdict:
    """A comparison with its names."""
    return Verdict(
        variant, against, level, comparison.percent, comparison.ci95, comparison.rounds, comparison.verdict,
        comparison.text,
    )  # fmt: skip
