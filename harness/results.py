"""What a run found, as data: the documented dataclasses that benchmark_results.json holds.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from collections import Counter
from dataclasses import field
from typing import Any, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from harness.load import OUTCOMES, Load
from harness.stats import Comparison, confidence_interval, mean, percentile

SCHEMA_VERSION = 1
PERCENTILES = (50, 90, 95, 99)
FINITE = ConfigDict(allow_inf_nan=False, extra="forbid")


@dataclass(frozen=True, config=FINITE)
class Rate:
    """A rate over all rounds.

    Attributes:
        mean: arithmetic mean of the rounds.
        ci95: 95 % interval of the mean by Student's t; None of one round.
        rounds: what each round measured, in order.
    """

    mean: float
    ci95: tuple[float, float] | None
    rounds: list[float]


@dataclass(frozen=True, config=FINITE)
class Client:
    """Whether the client can be trusted with this row.

    Attributes:
        cpu_us_per_request: CPU of the load generator's process per request.
        ceiling_requests_per_second: what it measures against a responder that answers at once; None in an open loop.
        share_of_ceiling: measured rate over that ceiling; near 1 the client set the number.
        mean_send_delay_ms: open loop: how late requests were sent.
    """

    cpu_us_per_request: float | None
    ceiling_requests_per_second: float | None
    share_of_ceiling: float | None
    mean_send_delay_ms: float | None = None


@dataclass(frozen=True, config=FINITE, kw_only=True)
class Level:
    """One variant at one load, all rounds together; what all suites have in common.

    Attributes:
        concurrency: requests in flight (closed loop); None in an open loop.
        rate: requests per second offered (open loop); None in a closed loop.
        requests_per_second: right answers per second.
        latency_ms: mean and percentiles over the right answers of all rounds; a percentile is None if too few back it.
        requests: sent, and how they ended.
        http_statuses: how often each HTTP error status came.
        cpu_percent: machine, server, client, stolen, and the server's http, queue, workers; percent of one core.
        server_memory_bytes: largest proportional set size of the server's process tree in any round.
        gpu_percent, gpu_memory_bytes, gpu_power_w: share of time with any kernel running, memory in use, power.
        client: the client's own part.
        mean_in_flight: requests per second times mean latency (Little's law); close to the concurrency, or doubt.
        mean_batch_size: requests per batch that the workers formed, over requests.
        batch_sizes: how many batches of each size were formed.
        worker_shares: share of the requests that each worker served, largest first, mean over rounds.
        stages_ms: mean time of a request per stage; adds up to latency_ms.mean.
        warnings: symptom, likely cause, what to try.
    """

    concurrency: int | None
    rate: float | None
    requests_per_second: Rate
    latency_ms: dict[str, float | None]
    requests: dict[str, int]
    http_statuses: dict[str, int]
    cpu_percent: dict[str, float | None]
    server_memory_bytes: int | None
    gpu_percent: float | None
    gpu_memory_bytes: int | None
    gpu_power_w: float | None
    client: Client
    mean_in_flight: float | None
    mean_batch_size: float | None
    batch_sizes: dict[int, int]
    worker_shares: list[float]
    stages_ms: dict[str, float | None] | None
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The load, as verdicts and noise floors name it."""
        return load_name(self.concurrency, self.rate)


@dataclass(frozen=True, config=FINITE, kw_only=True)
class ImageLevel(Level):
    """One variant at one load, serving images.

    Attributes:
        images_per_second: right answers per second times the images in a request.
        accuracy: share of answered images whose digit is the label.
    """

    images_per_second: Rate
    accuracy: float | None

    @property
    def output(self) -> Rate:
        """What is produced per second."""
        return self.images_per_second


@dataclass(frozen=True, config=FINITE, kw_only=True)
class TokenLevel(Level):
    """One variant at one load, generating tokens.

    Attributes:
        output_tokens_per_second: right answers per second times the tokens in an answer; all requests together.
        time_to_first_token_ms: from the intended send to the first token, prefill and queue included.
        inter_token_latency_ms: from one token to the next, over all tokens of all right answers.
        token_agreement: share of tokens equal to the baseline model's greedy output before the first that differs.
    """

    output_tokens_per_second: Rate
    time_to_first_token_ms: dict[str, float | None]
    inter_token_latency_ms: dict[str, float | None]
    token_agreement: float | None

    @property
    def output(self) -> Rate:
        """What is produced per second."""
        return self.output_tokens_per_second


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
    """The highest rate of Poisson arrivals at which p99 stays within a promise and nothing fails (harness.capacity).

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


@dataclass(frozen=True, config=FINITE, kw_only=True)
class VariantResult:
    """One variant; what all suites have in common.

    Attributes:
        builds_on: the variant whose difference it is; None for the baseline.
        server: what its /info said.
        startup_s: from launch to ready, mean over rounds; None if it was not launched or never came up.
        error: None, or why it could not be measured to the end, with the last lines of its log.
        capacity: what it carries under a promise; None if nobody asked (--slo-p99-ms).
    """

    builds_on: str | None
    server: dict[str, Any]
    startup_s: float | None
    error: str | None
    capacity: Capacity | None = None


@dataclass(frozen=True, config=FINITE, kw_only=True)
class ImageVariant(VariantResult):
    """One variant that serves images.

    Attributes:
        baseline_throughput: the model alone; None if it was not measured.
        api_benchmarks: one entry per load, in order.
    """

    baseline_throughput: ModelAlone | None
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
    """One comparison at one load: `variant` against `against`; see harness.stats.Comparison."""

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
        advice: what the verdicts mean, in sentences (harness.advice).
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


def load_name(concurrency: int | None, offered: float | None) -> str:
    """ "8" for eight requests in flight, "100/s" for a hundred offered per second."""
    return str(concurrency) if offered is None else f"{offered:g}/s"


def rate(values: list[float]) -> Rate:
    """The Rate of these rounds."""
    return Rate(mean(values), confidence_interval(values), values)


def latency_ms(seconds: list[float]) -> dict[str, float | None]:
    """Mean and percentiles, in milliseconds."""
    values = {"mean": mean(seconds)} | {f"p{percent}": percentile(seconds, percent) for percent in PERCENTILES}
    return {name: None if value is None else 1000 * value for name, value in values.items()}


def request_counts(*loads: Load) -> dict[str, int]:
    """How the requests of these loads ended."""
    counts = Counter(outcome for load in loads for outcome in load.outcome)
    return {"sent": counts.total()} | {outcome: counts[outcome] for outcome in OUTCOMES}


def verdict_of(variant: str, against: str, level: str, comparison: Comparison) -> Verdict:
    """A comparison with its names."""
    return Verdict(
        variant, against, level, comparison.percent, comparison.ci95, comparison.rounds, comparison.verdict,
        comparison.text,
    )  # fmt: skip
