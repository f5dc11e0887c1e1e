"""From a run to people: the console tables, the charts, the exit code."""

import argparse
import sys
import tempfile
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from harness.campaign import Suite, run
from harness.charts import draw
from harness.launch import ServerFailedError
from harness.results import Level, Results

FAILED, REFUSED = 1, 2


def benchmark(suite: Callable[[], Suite], options: argparse.Namespace) -> int:
    """Run a suite, print and draw what it found; returns the exit code."""
    console = Console()
    try:
        options.output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.output_dir):
            pass  # better to know now than after the measurement
        results = run(suite(), options, console)
    except OSError as error:
        return refused(f"cannot write to {options.output_dir}: {error.strerror or error}")
    except ServerFailedError as error:
        return refused(str(error))
    except KeyboardInterrupt:
        return refused("stopped before anything was measured")
    if not results.variants:
        return refused("stopped before anything was measured")
    print_results(results, console)
    for path in draw(results, options.output_dir):
        console.print(f"wrote {path}")
    complete = all(len(levels(results, name)) for name in results.variants)
    failed = [name for name, variant in results.variants.items() if variant.error]
    if failed:
        console.print(f"[red]failed:[/red] {', '.join(failed)}")
    return 0 if complete and not failed else FAILED


def refused(reason: str) -> int:
    """Say why there is no result."""
    print(reason, file=sys.stderr)
    return REFUSED


def levels(results: Results, name: str) -> list[Level]:
    """The rows of one variant."""
    return results.variants[name].api_benchmarks


def level_name(level: Level) -> str:
    """A row's load, as verdicts and noise floors name it."""
    return str(level.concurrency) if level.rate is None else f"{level.rate:g}/s"


def print_results(results: Results, console: Console) -> None:
    """One table of rows, then verdicts, noise and doubts."""
    offered = "offered" if results.settings.get("rate") else "in flight"
    table = Table(title=f"{results.suite}: right answers per second (95 % interval over rounds), latency in ms")
    table.add_column("variant", no_wrap=True)
    for heading in (offered, "requests/s", "p50", "p99", "right", "batch", "server CPU %"):
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
                console.print(f"! {name} at {level_name(level)}: {warning}", markup=False, style="yellow")


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


def row(level: Level) -> list[str]:
    """The cells of one row; a dash where there is nothing to say."""
    rate = level.requests_per_second
    interval = "" if rate.ci95 is None else f" [{rate.ci95[0]:,.0f}, {rate.ci95[1]:,.0f}]"
    sent = level.requests["sent"]
    return [
        level_name(level),
        f"{rate.mean:,.0f}{interval}",
        number(level.latency_ms["p50"], ".1f"),
        number(level.latency_ms["p99"], ".1f"),
        f"{100 * level.requests['ok'] / sent:.2f} %" if sent else "–",
        number(level.mean_batch_size, ".1f"),
        number(level.cpu_percent["server"], ".0f"),
    ]


def number(value: float | None, form: str) -> str:
    """A number in the given form, or a dash for none."""
    return "–" if value is None else format(value, form)
