"""On the console: a run's table, verdicts, advice and doubts; the comparison of two runs."""

import sys
from collections.abc import Iterator
from textwrap import wrap

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from harness.judge.bottlenecks import reasons
from harness.judge.comparison import REGRESSION, RowPair
from harness.results.rows import Row
from harness.results.schema import AT, Results
from harness.show.columns import MATRIX_LEGEND, capacity_text, matrix, rate_text, shown_columns
from harness.show.panels import all_rows
from harness.show.presentation import Presentation

LOG_WIDTH = 150  # of lines where there is no terminal


def make_console() -> Console:
    """As wide as the terminal, or LOG_WIDTH where there is none."""
    return Console(width=None if sys.stdout.isatty() else LOG_WIDTH)


def print_results(results: Results, presentation: type[Presentation], console: Console) -> None:
    """What is best first, then the advice, every row, why, and every doubt."""
    print_best(results, console)
    console.print(rows_table(results, presentation))
    for line in (*results.notes, *presentation.sentences(results), *capacities(results)):
        console.print(line, markup=False)
    for line in (*verdict_lines(results), *aa_control(results)):
        console.print(line, markup=False)
    for line in reasons(results):
        console.print(line, markup=False)
    for line in warnings(results):
        console.print(line, markup=False, style="yellow")
    for line in presentation.last_words(results):
        console.print(line, markup=False, style="bold")


def print_verdicts(results: Results, console: Console) -> None:
    """What is best, the advice, the verdicts and the A/A control."""
    print_best(results, console)
    for line in (*capacities(results), *verdict_lines(results), *aa_control(results)):
        console.print(line, markup=False)


def print_best(results: Results, console: Console) -> None:
    """What is best under every load, and what to use for what."""
    console.print(matrix_table(results))
    console.print(MATRIX_LEGEND, markup=False)
    for line in results.advice:
        console.print(line, markup=False, style="bold")


def matrix_table(results: Results) -> Table:
    """Output per second, a column per variant and a row per offered load."""
    title = f"{results.suite}: {results.unit}/s"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("offered rate" if results.settings.get("rate") else "concurrency")
    for name in results.variants:
        words = name.replace("_", " ").replace(AT, f" {AT}")
        table.add_column("\n".join(wrap(words, 14)), justify="right")
    for line in matrix(results, "[bold]{}[/bold]".format):
        table.add_row(*line)
    return table


def rows_table(results: Results, presentation: type[Presentation]) -> Table:
    """A row per variant and offered load; headings are wrapped, for cells are short."""
    title = f"{results.suite}: 95 % intervals"
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("variant", no_wrap=True)
    columns = shown_columns(results, presentation)
    for heading, cell, _ in columns:
        width = max(map(len, [*heading.split(), *map(cell, all_rows(results))]))
        heading = heading.replace(" %", "\u00a0%")  # a number stays with its unit
        table.add_column("\n".join(wrap(heading, width)), justify="right")
    for name, variant in results.variants.items():
        for row in variant.rows:
            table.add_row(name, *(column.cell(row) for column in columns))
        table.add_section()
    return table


def capacities(results: Results) -> list[str]:
    """What each variant carries under the SLO, if that was asked."""
    return [
        f"{name}: capacity at p99 {variant.capacity.slo_p99_ms:g} ms: "
        f"{capacity_text(variant.capacity)}"
        for name, variant in results.variants.items()
        if variant.capacity
    ]


def verdict_lines(results: Results) -> list[str]:
    """Who is faster than whom, as far as the windows can tell."""
    return [
        f"{verdict.variant} against {verdict.against} at {verdict.load}: {verdict.comparison.text}"
        for verdict in results.verdicts
    ] or [
        "no verdicts: no variant was measured at both revisions"
        if results.against
        else "no verdicts: they need measurements of the baseline and another variant"
    ]


def aa_control(results: Results) -> list[str]:
    """What the A/A control differs by from the baseline; nothing where that is not known."""
    controls = [
        f"{each.percent:+z.1f} % [{each.ci95[0]:+z.1f}, {each.ci95[1]:+z.1f}] at {load}"
        for load, each in results.aa_control.items()
        if each.ci95
    ]
    return [f"A/A control against the baseline: {', '.join(controls)}"] if controls else []


def warnings(results: Results) -> Iterator[str]:
    """Every doubt about every row."""
    for name, variant in results.variants.items():
        for row in variant.rows:
            for warning in row.warnings:
                yield f"! {name} at {row.load.name}: {warning}"


def comparison_table(pairs: list[RowPair], old: Results, new: Results) -> Table:
    """The rows of two result files beside each other, regressions in red."""
    runs = [f"{results.started_utc} ({commit(results)})" for results in (old, new)]
    return pairs_table(
        pairs, f"{old.suite}, {old.unit}/s: {runs[0]} against {runs[1]}", "old", "new"
    )


def revision_table(pairs: list[RowPair], results: Results) -> Table:
    """Every variant beside itself at the revision of --against, regressions in red."""
    dirty = " with uncommitted changes" if results.machine["git_dirty"] else ""
    today = f"{commit(results)}{dirty}"
    other = f"{results.against} ({results.against_commit})"
    title = f"{results.suite}, {results.unit}/s: {today} against {other}"
    return pairs_table(pairs, title, "before", "now")


def pairs_table(pairs: list[RowPair], title: str, old: str, new: str) -> Table:
    """Rows beside each other."""
    table = Table(title=title)
    for heading in ("variant", "load", f"{old}/s", f"{new}/s", "verdict"):
        justify = "right" if heading.endswith("/s") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for pair in pairs:
        rates = map(output_text, (pair.old, pair.new))
        style = "red" if pair.outcome == REGRESSION else None
        table.add_row(pair.variant, pair.load, *rates, pair.text, style=style)
    return table


def output_text(row: Row | None) -> str:
    """Output per second of a row, or a dash for none."""
    return rate_text(row.output_per_second) if row else "–"


def commit(results: Results) -> str:
    """The commit that a file was made from."""
    return (results.machine.get("git_commit") or "unknown commit")[:8]
