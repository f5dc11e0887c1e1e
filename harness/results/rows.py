"""One variant at one load, as data: the documented rows of benchmark_results.json.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

from collections import Counter
from dataclasses import field

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from harness.load.job import OUTCOMES, Load
from harness.judge.statistics import confidence_interval, mean, percentile

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
        ceiling_requests_per_second: what it measures against a responder that answers at once.
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
        worker_busy_percent: share of the time in which a worker was at work on a batch, mean over the workers.
        stages_ms: mean time of a request per stage; adds up to latency_ms.mean (harness.results.breakdown).
        waiting_ms: what the stage `waiting` consists of.
        cpu_s_per_1000_requests: CPU seconds of the server's http, queue and workers, and of the client.
        gpu_energy_j_per_request: joules that the GPU drew in the window, over the requests that ended in it.
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
    worker_busy_percent: float | None
    stages_ms: dict[str, float | None] | None
    waiting_ms: dict[str, float] | None
    cpu_s_per_1000_requests: dict[str, float | None]
    gpu_energy_j_per_request: float | None
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
