"""What a benchmark folder brings: its servers, what to send, how to judge and show answers."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from harness.load.events import EventsOf, events
from harness.measure.window import Record, Window
from harness.process.launch import Server, attached_server
from harness.results.file import read
from harness.results.schema import Results
from harness.show.presentation import Presentation


class Variant(NamedTuple):
    """A server script, server_<name>.py, and the one it is the difference to."""

    name: str
    builds_on: str | None


class CannotMeasureError(Exception):
    """What was asked for cannot be measured; the message says why, in one sentence."""


@dataclass(kw_only=True)
class Suite(Presentation, ABC):
    """What a benchmark folder brings. Class attributes are known from a result file alone.

    A folder `f` has a module `f.suite` whose `SUITE` is its subclass; server_<variant>.py beside
    it.

    Class attributes:
        name: for people.
        package: the folder, as a Python package.
        variants: in reading order; the first is the baseline.
        unit: what a server produces, plural; output per second counts it.
        path: where requests are POSTed.
        own_row, own_variant: dataclasses of what the folder adds to a row and to a variant.
        columns, ceilings, sentences, charts: see harness.show.presentation.
        stage_names: the folder's names for stages in the worker (harness.serving.instrumentation).

    Attributes:
        bodies: the requests.
        request: what a request is, in words.
        output_per_request: how much of its unit one correct answer holds.
        headers, check, carries_output, outputs_told, events_of, min_requests: see
            harness.load.job.Job.
        sample_answer: a correct answer, for the echo server that tells the client's ceiling.
        no_op_bodies: what the no-op server is sent, which takes JSON objects only; None for bodies.
        server_flags: what every server script is started with, besides the shared flags.
        notes: what a reader must know beside every number.
        window_s: how long a window lasts, at least.
        extra_minutes: what an epoch may take beyond its share of --minutes: one block of every load
            at the least, and in the end intervals and charts.
        epoch_minutes: how long an epoch lasts where their number follows from the precision asked
            for: launches differ, so many of them are wanted, but launching measures nothing.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    variants: ClassVar[list[Variant]]
    unit: ClassVar[str]
    path: ClassVar[str]
    own_row: ClassVar[type]
    own_variant: ClassVar[type]
    stage_names: ClassVar[Mapping[str, str]] = {}

    bodies: list[bytes]
    request: str
    output_per_request: int
    check: Callable[[bytes, int], tuple[bool, float | None]]
    sample_answer: bytes
    server_flags: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    no_op_bodies: list[bytes] | None = None
    carries_output: Callable[[bytes], int] | None = None
    outputs_told: Callable[[bytes], int | None] | None = None
    events_of: EventsOf = events
    min_requests: int = 11
    notes: tuple[str, ...] = ()
    window_s: float = 0.6
    extra_minutes: float = 0.25
    epoch_minutes: float = 2.0

    def server(self, variant: str) -> tuple[str, tuple[str, ...]]:
        """The module that serves a variant, and its flags besides those that all variants get."""
        return f"{self.package}.server_{variant}", self.server_flags

    def attached(self, url: str) -> Server:
        """The server of --url; ServerFailedError if it does not answer."""
        return attached_server(url)

    @abstractmethod
    def prepare(self, variants: list[str]) -> None:
        """Measure what needs no server; the first servers are up by then, and frozen."""

    @abstractmethod
    def close(self) -> None:
        """End what the suite has started: the run is over."""

    def in_process(self, _variant: str) -> float | None:
        """A variant's requests/s without a server, measured in the blocks; None if it is not."""
        return None

    @abstractmethod
    def row(self, windows: list[Window]) -> Any:
        """What the folder adds to a row: an `own_row`."""

    def with_intervals(self, own: Any, _windows: list[Window]) -> Any:
        """What `row` has made of these windows, its percentiles now with intervals.

        Asked once, at the end of a run: they are bootstraps.
        """
        return own

    @abstractmethod
    def variant(self, name: str, records: Mapping[str, list[Record]]) -> Any:
        """What the folder adds to a variant: an `own_variant`, from the records of all so far.

        With --against, "x@revision" is a variant too: nothing is measured of it without a server,
        and `records` then holds those of its own revision under the scripts' names.
        """


def suite_of(package: str) -> type[Suite]:
    """The suite of a folder; LookupError if it is none."""
    try:
        return importlib.import_module(f"{package}.suite").SUITE
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise LookupError(f"{package} brings no suite: {error}") from error


def read_results(path: Path) -> Results:
    """The results in a file; UnusableResultsError with one sentence if it holds none."""

    def own_types(package: str) -> tuple[type, type]:
        suite = suite_of(package)
        return suite.own_row, suite.own_variant

    return read(path, own_types)
