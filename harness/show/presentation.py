"""What the console, the charts and the README need of a suite to show its results."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, Protocol

from matplotlib.figure import Figure

from harness.results.rows import Row
from harness.results.schema import Results, VariantResult


class Column(NamedTuple):
    """One column of the table: its heading, what it says of a row, whether it is left out where it
    says nothing of any.
    """

    heading: str
    cell: Callable[[Row], str]
    optional: bool = False


class Ceiling(NamedTuple):
    """The most that something above a variant lets through: what it is, output per second."""

    name: str
    per_second: float


def served(row: Row) -> Ceiling:
    """What was served under the load of a row: the last of a variant's ceilings."""
    at = row.load.name if row.offered_rate else f"concurrency {row.load.name}"
    return Ceiling(f"served at {at}", row.output_per_second.mean)


class Presentation(Protocol):
    """The part of a suite that is known from a result file alone (harness.suite.Suite inherits it).

    Attributes:
        columns: of the table, after the variant's name.
    """

    columns: ClassVar[Sequence[Column]]

    @staticmethod
    @abstractmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        """What a variant was served at, last, under the ceilings above it; empty if unknown."""

    @staticmethod
    def sentences(_results: Results) -> list[str]:
        """What the folder has to say of its variants besides tables and verdicts."""
        return []

    @staticmethod
    def last_words(_results: Results) -> list[str]:
        """What a reader is to do now, after everything else."""
        return []

    @staticmethod
    @abstractmethod
    def charts(results: Results) -> dict[str, Figure]:
        """The folder's own pictures, by path."""
