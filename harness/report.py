"""From a run to people: the console tables, the charts, the exit code."""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.campaign import run
from harness.charts import draw
from harness.launch import ServerFailedError, attached_server
from harness.results import Level, Results
from harness.suite import Suite

FAILED, REFUSED, STOPPED = 1, 2, 130


def benchmark(suite: Callable[[], Suite], options: argparse.Namespace) -> int:
    """Run a suite, print and draw what it found; returns the exit code."""
    console = Console()
    try:
        check_writable(options.output_dir)
        if options.url:
            attached_server(options.url)  # nobody there? say so before anything slow is loaded
        results = run(suite(), options, console)
    except (OSError, ServerFailedError) as error:
        return refused(str(error))
    except KeyboardInterrupt:
        return refused("stopped before anything was measured")
    if not results.variants:
        return refused("stopped before anything was measured")
    print_results(results, console)
    for path in draw(results, options.output_dir):
        console.print(f"wrote {path}")
    failed = [name for name, variant in results.variants.items() if variant.error]
    if failed:
        console.print(f"[red]failed:[/red] {', '.join(failed)}")
    if not results.complete:
        console.print("stopped before its end; what was measured until then is kept")
    return FAILED if failed else STOPPED if not results.complete else 0


def check_writable(directory: Path) -> None:
    """OSError with a sentence if no file can be written there: better to know now than after the measurement."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(f"cannot write to {directory}: {error.strerror or error}") from error


def refused(reason: str) -> int:
    """Say why there is no result."""
    print(reason, file=sys.stderr)
    return REFUSED


def levels(results: Results, name: str) -> list[Level]:
    """The rows of one variant."""
    return results.variants[name].api_benchmarks


def print_results(results: Results, console: Console) -> None:
    """One table of rows, then verdicts, noise and doubts."""
    table = Table(title=f"{results.suite}: 95 % intervals over rounds; CPU in percent of one core")
    table.add_column("variant", no_wrap=True)
    for heading in headings(results):
        table.add_column(heading, justify="right")
    for name in results.variants:
        for level in levels(results, name):
            table.add_row(name, *row(level))
        table.add_section()
    console.print(table)
    print_verdicts(results, console)
    for name in results.variants:
        for level in levels(results, name):
            for warning in level.warnings:
                console.print(f"! {name} at {level.name}: {warning}", markup=False, style="yellow")


def print_verdicts(results: Results, console: Console) -> None:
    """Who is faster than whom, as far as the rounds can tell, and the noise beside it."""
    told = [verdict for verdict in results.verdicts if verdict.ci95]
    for verdict in told:
        console.print(f"{verdict.variant} against {verdict.against} at {verdict.level}: {verdict.text}", markup=False)
    if not told:
        console.print("no verdicts: they need two rounds of the baseline and another variant")
    floors = {level: floor for level, floor in results.noise_floor_percent.items() if floor is not None}
    if floors:
        listed = ", ".join(f"{floor:.1f} % at {level}" for level, floor in floors.items())
        console.print(f"noise floor (the baseline launched twice per round): {listed}", markup=False)


def headings(results: Results) -> tuple[str, ...]:
    """What the cells of `row` are."""
    offered = "offered" if results.settings.get("rate") else "in flight"
    return offered, "right answers/s [95 %]", "p50 ms", "p99 ms", "right", "batch", "server CPU %"


def row(level: Level) -> list[str]:
    """The cells of one row; a dash where there is nothing to say."""
    rate = level.requests_per_second
    interval = "" if rate.ci95 is None else f" [{rate.ci95[0]:,.0f}, {rate.ci95[1]:,.0f}]"
    sent = level.requests["sent"]
    return [
        level.name,
        f"{rate.mean:,.0f}{interval}",
        number(level.latency_ms["p50"], ".1f"),
        number(level.latency_ms["p99"], ".1f"),
        f"{100 * level.requests['ok'] / sent:.1f}%" if sent else "–",
        number(level.mean_batch_size, ".1f"),
        number(level.cpu_percent["server"], ".0f"),
    ]


def number(value: float | None, form: str) -> str:
    """A number in the given form, or a dash for none."""
    return "–" if value is None else format(value, form)
