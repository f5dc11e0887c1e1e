"""A third suite, the tests' own: requests that hold a number, which the answers repeat."""

import json
from collections.abc import Mapping

from matplotlib.figure import Figure
from pydantic.dataclasses import dataclass

from harness.measure.window import Record, Window
from harness.results.rows import FINITE
from harness.results.schema import Results, VariantResult
from harness.show.columns import LOAD, number, rate_text
from harness.show.presentation import Ceiling, Column
from harness.suite import Suite, Variant


@dataclass(frozen=True, config=FINITE)
class NumbersRow:
    """What is added to a row: the share of even numbers among the correct answers."""

    even_share: float | None


@dataclass(frozen=True, config=FINITE)
class NumbersVariant:
    """What is added to a variant: whether the suite was asked to prepare it."""

    prepared: bool


def check(body: bytes, index: int) -> tuple[bool, float]:
    """An answer is correct if it repeats the number; its quality is 1 for an even one."""
    number = json.loads(body)["n"]
    return number == index, float(number % 2 == 0)


class NumbersSuite(Suite):
    """Requests that hold a number, which the answers repeat."""

    name = "numbers"
    package = "tests.numbers"
    variants = (Variant("steady", None), Variant("dying", "steady"), Variant("stillborn", "steady"))
    unit = "numbers"
    path = "/predict"
    own_row, own_variant = NumbersRow, NumbersVariant
    columns = (
        LOAD,
        Column("numbers/s", lambda row: rate_text(row.output_per_second)),
        Column("even", lambda row: number(row.own.even_share, ".2f")),
    )

    def prepare(self, variants: list[str]) -> None:
        self.prepared = variants

    def close(self) -> None:
        pass

    def in_process(self, _variant: str) -> float:
        return 1000.0

    def row(self, windows: list[Window]) -> NumbersRow:
        even = [
            quality for window in windows for quality in window.load.quality if quality is not None
        ]
        return NumbersRow(sum(even) / len(even) if even else None)

    def variant(self, name: str, _records: Mapping[str, list[Record]]) -> NumbersVariant:
        return NumbersVariant(name in self.prepared)

    @staticmethod
    def ceilings(variant: VariantResult) -> list[Ceiling]:
        if not variant.best or not variant.in_process_per_second:
            return []
        return [
            Ceiling("in process", variant.in_process_per_second),
            Ceiling("served", variant.best.output_per_second.mean),
        ]

    @staticmethod
    def sentences(results: Results) -> list[str]:
        return [f"{name}: counts" for name in results.variants]

    @staticmethod
    def charts(_results: Results) -> dict[str, Figure]:
        return {}


SUITE = NumbersSuite


def suite(*names: str) -> NumbersSuite:
    """The suite made ready; with `names`, other servers of this folder, the first the baseline."""
    made = NumbersSuite(
        bodies=[json.dumps({"n": number}).encode() for number in range(100)],
        request="a number",
        output_per_request=1,
        check=check,
        sample_answer=b'{"n": 1}',
        window_s=0.25,  # enough to see what a run does; how well it knows is not asked
        epoch_minutes=0.25,
    )
    if names:
        made.variants = [Variant(name, None if name == names[0] else names[0]) for name in names]
    return made
