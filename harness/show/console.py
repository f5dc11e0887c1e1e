"""From a run to people: the console tables, the charts, the exit code."""

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.judge.advice import advice
from harness.judge.bottlenecks import reasons
from harness.measure.epochs import run
from harness.show.charts import draw
from harness.process.launch import ServerFailedError, attached_server
from harness.results.run import Results, TokenVariant
from harness.results.rows import Level, Rate, TokenLevel
from harness.suite import CannotMeasureError, Suite
from harness.measure.utilisation import HTTP, ROLES

FAILED, REFUSED, STOPPED = 1, 2, 130
CPU = "CPU s/1000: http + queue + workers"
LOG_WIDTH = 120  # of lines where there is no terminal


def benchmark(suite: Callable[[], Suite], options: argparse.Namespace) -> int:
    """Run a suite, print and draw what it found; returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    try:
        check_writable(options.output_dir)
        if options.url:
            attached_server(options.url)  # nobody there? say so before anything slow is loaded
        with empty_compiler_cache(), contextlib.closing(suite()) as measured:
            results = run(measured, options, console)
    except (OSError, ServerFailedError, CannotMeasureError) as error:
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
    return STOPPED if not results.complete else FAILED if failed else 0


@contextlib.contextmanager
def empty_compiler_cache() -> Iterator[None]:
    """Let all processes of a run share a compiler cache that is empty at first: its first launch compiles for real."""
    with tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True) as directory:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = directory
        try:
            yield
        finally:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]


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


def print_results(results: Results, console: Console) -> None:
    """One table of rows, then verdicts, noise and doubts."""
    table = Table(title=f"{results.suite}: 95 % intervals over rounds; CPU seconds per 1,000 requests")
    table.add_column("variant", no_wrap=True)
    for heading in headings(results):
        table.add_column(heading, justify="right", overflow="fold", no_wrap="[95 %]" in heading)
    for name in results.variants:
        for level in results.variants[name].levels:
            table.add_row(name, *row(level))
        table.add_section()
    console.print(table)
    for line in about_models(results) + about_capacity(results):
        console.print(line, markup=False)
    print_verdicts(results, console)
    for sentence in reasons(results):
        console.print(sentence, markup=False)
    for name in results.variants:
        for level in results.variants[name].levels:
            for warning in level.warnings:
                console.print(f"! {name} at {level.name}: {warning}", markup=False, style="yellow")


def about_models(results: Results) -> list[str]:
    """What the run found about each language model besides its rows; nothing for other suites."""
    told = [
        f"{name}: {sentence}"
        for name, variant in results.variants.items()
        if isinstance(variant, TokenVariant) and (sentence := about_model(variant))
    ]
    if results.settings.get("weights") == "random":
        told.append("RANDOM WEIGHTS: the speed of this shape is real, its text is noise")
    return told


def about_model(variant: TokenVariant) -> str:
    """Ceilings, memory, fidelity and compiling of one variant."""
    parts = []
    if variant.efficiency_percent is not None:
        parts.append(
            f"{variant.efficiency_percent:.0f} % of the {variant.theoretical_max_tokens_per_sec:.0f} tokens/s that "
            "memory bandwidth allows"
        )
    if variant.served_share_percent is not None:
        parts.append(f"{variant.served_share_percent:.0f} % of the same model without a server")
    if variant.model_bytes is not None:
        parts.append(f"{variant.model_bytes / 1e6:.0f} MB of weights")
    if variant.kl_divergence is not None and variant.builds_on is not None:
        parts.append(f"{variant.kl_divergence:.2g} nats from the baseline's distribution")
    if variant.compile_s is not None:
        after = variant.compile_earned_back_requests
        parts.append(
            f"{variant.compile_s:.0f} s to compile, "
            + ("not earned back" if after is None else f"earned back after {after:,} requests")
        )
    return ", ".join(parts)


def about_capacity(results: Results) -> list[str]:
    """What each variant carries under the promise, if that was asked."""
    return [
        f"{name}: with p99 within {variant.capacity.p99_ms:g} ms, {variant.capacity.text}"
        for name, variant in results.variants.items()
        if variant.capacity
    ]


def print_verdicts(results: Results, console: Console) -> None:
    """Who is faster than whom, as far as the rounds can tell, and the noise beside it."""
    told = [verdict for verdict in results.verdicts if verdict.ci95]
    for verdict in told:
        console.print(f"{verdict.variant} against {verdict.against} at {verdict.level}: {verdict.text}", markup=False)
    if not told:
        console.print("no verdicts: they need two rounds of the baseline and another variant")
    for sentence in advice(results):
        console.print(sentence, markup=False, style="bold")
    floors = {level: floor for level, floor in results.noise_floor_percent.items() if floor is not None}
    if floors:
        listed = ", ".join(f"{floor:.1f} % at {level}" for level, floor in floors.items())
        console.print(f"noise floor (the baseline launched twice per round): {listed}", markup=False)


def headings(results: Results) -> tuple[str, ...]:
    """What the cells of `row` are."""
    offered = "offered" if results.settings.get("rate") else "in flight"
    if results.suite == "mnist":
        return offered, "right answers/s [95 %]", "p50 ms", "p99 ms", "right", "batch", CPU
    return (
        offered, "output tokens/s [95 %]", "first token ms", "gap p50 ms", "gap p95 ms", "right", "as baseline",
        CPU,
    )  # fmt: skip


def row(level: Level) -> list[str]:
    """The cells of one row; a dash where there is nothing to say."""
    if isinstance(level, TokenLevel):
        own = [
            number(level.time_to_first_token_ms["mean"], ".0f"),
            number(level.inter_token_latency_ms["p50"], ".1f"), number(level.inter_token_latency_ms["p95"], ".1f"),
            right(level), share(level.token_agreement),
        ]  # fmt: skip
    else:
        own = [
            number(level.latency_ms["p50"], ".1f"), number(level.latency_ms["p99"], ".1f"), right(level),
            number(level.mean_batch_size, ".1f"),
        ]  # fmt: skip
    produced = level.output if isinstance(level, TokenLevel) else level.requests_per_second
    return [level.name, rate_text(produced), *own, cpu_text(level.cpu_s_per_1000_requests)]


def cpu_text(seconds: dict[str, float | None]) -> str:
    """What the server's processes spend on 1,000 requests, role by role."""
    return (
        "–"
        if seconds[HTTP] is None
        else " + ".join(f"{seconds[role]:,.{2 if seconds[role] < 10 else 0}f}" for role in ROLES)
    )


def rate_text(rate: Rate) -> str:
    """Mean and interval; small rates with a decimal."""
    form = ",.0f" if rate.mean >= 100 else ".1f"
    interval = "" if rate.ci95 is None else f" [{rate.ci95[0]:{form}}, {rate.ci95[1]:{form}}]"
    return f"{rate.mean:{form}}{interval}"


def right(level: Level) -> str:
    """Share of the requests that were answered rightly."""
    return share(level.requests["ok"] / level.requests["sent"] if level.requests["sent"] else None)


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else f"{100 * value:.1f}%"


def number(value: float | None, form: str) -> str:
    """A number in the given form, or a dash for none."""
    return "–" if value is None else format(value, form)
