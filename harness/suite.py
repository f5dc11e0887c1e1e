"""What a benchmark folder brings to a run: its servers, what to send, how to judge the answers; and one load."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.results.summary import Measurement, Record
from harness.results.run import VariantResult
from harness.results.rows import Level, load_name


@dataclass(frozen=True)
class Variant:
    """A server script and the one it is the difference to."""

    name: str
    builds_on: str | None


class CannotMeasureError(Exception):
    """What was asked for cannot be measured; the message says why, in one sentence."""


@dataclass
class Suite(ABC):
    """What a benchmark folder brings: its servers, what to send, how to judge the answers, what to say of a variant.

    Attributes:
        name: "mnist" or "llm".
        package: the folder, as a Python package; holds server_<variant>.py.
        variants: in reading order; the first is the baseline.
        path: where requests are POSTed.
        bodies: the requests.
        request: what a request is, in words.
        check, carries_output: see harness.load.job.Job.
        sample_answer: a right answer, for the responder that tells the client's ceiling.
        server_flags: what every server script is started with, besides the shared flags.
        min_requests: see harness.load.job.Job.
        turn_overhead_s: what a turn takes besides its loads, about, for the plan.
    """

    name: str
    package: str
    variants: list[Variant]
    path: str
    bodies: list[bytes]
    request: str
    check: Callable[[bytes, int], tuple[bool, float | None]]
    sample_answer: bytes
    server_flags: tuple[str, ...] = ()
    carries_output: Callable[[bytes], bool] | None = None
    min_requests: int = 11
    turn_overhead_s: float = 8

    @abstractmethod
    def prepare(self, variants: list[str]) -> None:
        """Measure what needs no server, before the first turn."""

    @abstractmethod
    def close(self) -> None:
        """End what the suite has started: the run is over."""

    def in_process(self, _variant: str) -> float | None:
        """A variant's requests per second without a server, measured beside each of its turns; None if it is not."""
        return None

    @abstractmethod
    def level(self, common: dict[str, Any], measured: list[Measurement]) -> Level:
        """The row of one load: what all suites say of it, and what this one adds."""

    @abstractmethod
    def variant(
        self, name: str, common: dict[str, Any], levels: list[Level], records: dict[str, list[Record]]
    ) -> VariantResult:
        """What is said of a variant, from its rows and the records of all variants so far."""


@dataclass(frozen=True)
class LoadLevel:
    """One load: requests in flight, or requests per second."""

    concurrency: int | None
    rate: float | None

    @property
    def name(self) -> str:
        return load_name(self.concurrency, self.rate)
