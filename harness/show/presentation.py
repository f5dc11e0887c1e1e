"""What the console, the charts and the README need of a suite to show its results."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from matplotlib.figure import Figure

from harness.results.rows import Row
from harness.results.run import Results, VariantResult


class Column(NamedTuple):
    """One column of the table: its heading, and what it says of a row."""

    heading: str
    cell: Callable[[Row], str]


class Ceiling(NamedTuple):
    """The most that something above a variant lets through: what it is, output per second."""

    name: str
    per_second: float


class Presentation(Protocol):
    """The part of a suite that is known from a result file alone (harness.suite.Suite has it)."""

    columns: list[Column]

    @staticmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        """The ceilings above a variant from the highest down, last what it was served at."""

    @staticmethod
    def sentences(results: Results) -> list[str]:
        """What the folder has to say of its variants besides tables and verdicts."""

    @staticmethod
    def charts(results: Results) -> dict[str, Figure]:
        """The folder's own pictures, by path."""
