"""On the console: a run's table, verdicts, advice and doubts; the comparison of two runs."""

import sys
from collections.abc import Iterator
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.judge.bottlenecks import reasons
from harness.judge.comparison import RowPair
from harness.judge.statistics import NOT_ENOUGH
from harness.results.rows import Row
from harness.results.run import Results, Verdict
from harness.show.columns import rate_text
from harness.show.panels import all_rows
from harness.show.presentation import Presentation

LOG_WIDTH = 120  # of lines where there is no terminal


def make_console() -> Console:
    """As wide as the terminal, or LOG_WIDTH where there is none."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def print_results(results: Results, presentation: type[Presentation], console: Console) -> None:
    """One table of rows, then what they mean, and every doubt about them."""
    console.print(rows_table(results, presentation))
    plain = [*results.notes, *presentation.sentences(results), *capacities(results)]
    plain += verdict_lines(results)
    for line in plain:
        console.print(line, markup=False)
    for line in results.advice:
        console.print(line, markup=False, style="bold")
    for line in (*noise_floor(results), *reasons(results)):
        console.print(line, markup=False)
    for line in warnings(results):
        console.print(line, markup=False, style="yellow")


def rows_table(results: Results, presentation: type[Presentation]) -> Table:
    """A row per variant and offered load; headings are wrapped, for cells are short."""
    title = f"{results.suite}: 95 % intervals over epochs"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    for heading, cell in presentation.columns:
        width = max(map(len, [*heading.split(), *map(cell, all_rows(results))]))
        heading = heading.replace(" %", "\u00a0%")  # a number stays with its unit
        table.add_column("\n".join(wrap(heading, width)), justify="right")
    for name, variant in results.variants.items():
        for row in variant.rows:
            table.add_row(name, *(column.cell(row) for column in presentation.columns))
        table.add_section()
    return table


def capacities(results: Results) -> list[str]:
    """What each variant carries under the SLO, if that was asked."""
    return [
        f"{name}: with p99 within {variant.capacity.slo_p99_ms:g} ms, {variant.capacity.text}"
        for name, variant in results.variants.items()
        if variant.capacity
    ]


def shown_verdicts(results: Results) -> list[Verdict]:
    """The verdicts that say something: an interval, or that wrong answers do not count."""
    return [
        verdict
        for verdict in results.verdicts
        if verdict.comparison.ci95 or verdict.comparison.verdict != NOT_ENOUGH
    ]


def verdict_lines(results: Results) -> list[str]:
    """Who is faster than whom, as far as the epochs can tell."""
    return [
        f"{verdict.variant} against {verdict.against} at {verdict.load}: {verdict.comparison.text}"
        for verdict in shown_verdicts(results)
    ] or ["no verdicts: they need two epochs of the baseline and another variant"]


def noise_floor(results: Results) -> list[str]:
    """What the A/A control differs by from the baseline; nothing where that is not known."""
    floors = [
        f"{percent:.1f} % at {load}"
        for load, percent in results.noise_floor_percent.items()
        if percent is not None
    ]
    return (
        [f"noise floor (A/A control against the baseline): {', '.join(floors)}"] if floors else []
    )


def warnings(results: Results) -> Iterator[str]:
    """Every doubt about every row."""
    for name, variant in results.variants.items():
        for row in variant.rows:
            for warning in row.warnings:
                yield f"! {name} at {row.load.name}: {warning}"


def comparison_table(pairs: list[RowPair], old: Results, new: Results) -> Table:
    """The rows of two result files beside each other, regressions in red."""
    runs = [f"{results.started_utc} ({commit(results)})" for results in (old, new)]
    table = Table(title=f"{old.suite}, {old.unit}/s: {runs[0]} against {runs[1]}")
    for heading in ("variant", "load", "old/s", "new/s", "verdict"):
        justify = "right" if heading.endswith("/s") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for pair in pairs:
        rates = map(output_text, (pair.old, pair.new))
        style = "red" if pair.regression else None
        table.add_row(pair.variant, pair.load, *rates, pair.text, style=style)
    return table


def output_text(row: Row | None) -> str:
    """Output per second of a row, or a dash for none."""
    return rate_text(row.output_per_second) if row else "–"


def commit(results: Results) -> str:
    """The commit that a file was made from."""
    return (results.machine.get("git_commit") or "unknown commit")[:8]
