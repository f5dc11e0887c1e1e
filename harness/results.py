"""What a run found, as data: documented dataclasses, benchmark_results.json and back, never half a file.

Units are in the names. What could not be measured is None, never 0 or -1.
"""

import json
import os
import tempfile
from collections import Counter
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
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


@dataclass(frozen=True, config=FINITE)
class Level:
    """One variant at one load, all rounds together.

    Attributes:
        concurrency: requests in flight (closed loop); None in an open loop.
        rate: requests per second offered (open loop); None in a closed loop.
        requests_per_second: right answers per second.
        images_per_second: the same times the images in a request (MNIST).
        latency_ms: mean and percentiles over the right answers of all rounds; a percentile is None if too few back it.
        requests: sent, and how they ended.
        http_statuses: how often each HTTP error status came.
        accuracy: share of answered images whose digit is the label (MNIST).
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
    images_per_second: Rate | None
    latency_ms: dict[str, float | None]
    requests: dict[str, int]
    http_statuses: dict[str, int]
    accuracy: float | None
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


@dataclass(frozen=True, config=FINITE)
class ModelAlone:
    """The model without any server, at the variant's own precision: images per second by batch size."""

    batch_sizes: list[int]
    images_per_second: list[float]


@dataclass(frozen=True, config=FINITE)
class VariantResult:
    """One variant.

    Attributes:
        builds_on: the variant whose difference it is; None for the baseline.
        server: what its /info said.
        startup_s: from launch to ready, mean over rounds; None if it was not launched or never came up.
        error: None, or why it could not be measured to the end, with the last lines of its log.
        baseline_throughput: the model alone (MNIST).
        api_benchmarks: one entry per load, in order.
    """

    builds_on: str | None
    server: dict[str, Any]
    startup_s: float | None
    error: str | None
    baseline_throughput: ModelAlone | None
    api_benchmarks: list[Level]


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
    """

    suite: Literal["mnist", "llm"]
    started_utc: str
    elapsed_s: float
    complete: bool
    machine: dict[str, Any]
    settings: dict[str, Any]
    noise_floor_percent: dict[str, float | None]
    variants: dict[str, VariantResult]
    verdicts: list[Verdict]
    schema_version: int = SCHEMA_VERSION


def load_name(concurrency: int | None, offered: float | None) -> str:
    """ "8" for eight requests in flight, "100/s" for a hundred offered per second."""
    return str(concurrency) if offered is None else f"{offered:g}/s"


class UnusableResultsError(Exception):
    """A file is no result of this project, or of another schema; the message says which."""


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


def save(results: Results, path: Path) -> None:
    """Write the file whole or not at all.

    Raises OSError if the folder cannot be written, ValueError if a number is not finite.
    """
    text = json.dumps(TypeAdapter(Results).dump_python(results), indent=2, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            file.write(text + "\n")
            file.flush()
            os.chmod(file.name, 0o644)  # noqa: PTH101 - a temporary file is private; the result is for everybody
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: Path) -> Results:
    """The results in a file; UnusableResultsError with one sentence if it holds none of this schema."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise UnusableResultsError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UnusableResultsError(f"{path} is not valid JSON: {error}") from error
    found = data.get("schema_version") if isinstance(data, dict) else None
    if found != SCHEMA_VERSION:
        raise UnusableResultsError(f"{path} has schema version {found}; this program reads {SCHEMA_VERSION}")
    try:
        return TypeAdapter(Results).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UnusableResultsError(f"{path} does not fit the schema at {where}: {first['msg']}") from error
