"""One run of a benchmark script, from its options to its exit code."""

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.judge.comparison import EXIT_CODES, THRESHOLD_PERCENT, summary
from harness.judge.revisions import revision_rows
from harness.load.job import Job
from harness.measure.gpu import gpu_reader
from harness.process.alone import alone_on_this_machine
from harness.process.control import plain_http_url
from harness.process.groups import signals_as_interrupt
from harness.process.launch import ServerFailedError, attached_server
from harness.process.limits import allow_connections, unsupported
from harness.process.module_command import CACHE
from harness.process.module_process import ProcessDiedError
from harness.process.revision import NoRevisionError, Revision, checked_out
from harness.results.file import save
from harness.results.schema import Results
from harness.run import FILE_NAME, run
from harness.show.charts import draw
from harness.show.console import make_console, print_results, revision_table
from harness.suite import CannotMeasureError, Suite

FAILED, REFUSED, INTERRUPTED = 1, 2, 130
RESULTS_BYTES = 4 << 20  # what results and charts of a long run take
REFUSALS = OSError, ServerFailedError, CannotMeasureError, NoRevisionError, ProcessDiedError
SHOWN = "(default: %(default)s)"
JOB_DEFAULTS = {field.name: field.default for field in fields(Job)}
EPOCHS, QUICK = 3, {"epochs": 1}


def benchmark(
    suite: Callable[[], Suite],
    options: argparse.Namespace,
    find: Callable[[str], Any] = attached_server,
) -> int:
    """Run a suite, print and draw what was measured; returns the exit code.

    Args:
        find: raises ServerFailedError if no server that can be measured is at the URL of --url.
    """
    with signals_as_interrupt():
        return interruptible(suite, options, find)


def interruptible(
    suite: Callable[[], Suite], options: argparse.Namespace, find: Callable[[str], Any]
) -> int:
    """Run a suite; whatever interrupts it, loading included, ends in a sentence."""
    console, begun = make_console(), False
    try:
        if reason := unsupported():
            return refused(reason)
        allow_connections(0 if options.rate else max(options.concurrency))
        check_writable(options.output_dir)
        gpu_reader(options.accelerator)  # before the first model is loaded: it chooses the card
        if options.url:
            find(options.url)  # nobody there? say so before anything slow is loaded
        others = contextlib.nullcontext() if options.force else alone_on_this_machine()
        with (
            others,
            empty_compiler_cache(),
            other_revision(options.against) as revision,
            contextlib.closing(suite()) as measured,
        ):
            begun = True
            results = run(measured, options, console, revision)
        if not results.variants:
            return refused("interrupted before anything was measured", INTERRUPTED)
        return shown(results, type(measured), options, console)
    except REFUSALS as error:
        return refused(str(error))
    except KeyboardInterrupt:
        kept_in = f"interrupted; {options.output_dir / FILE_NAME} holds every whole block, if any"
        return refused(
            kept_in if begun else "interrupted before anything was measured", INTERRUPTED
        )


def shown(
    results: Results, suite: type[Suite], options: argparse.Namespace, console: Console
) -> int:
    """Save, draw and print results; returns the exit code."""
    try:
        unsaved = kept(results, suite, options.output_dir, console)
    finally:  # also where it is interrupted while it draws
        print_results(results, suite, console)
    if unsaved:
        console.print(unsaved, markup=False, style="red")
    failed = [name for name, variant in results.variants.items() if variant.error]
    if failed:
        console.print(f"[red]failed:[/red] {', '.join(failed)}")
    if not results.complete:
        console.print("interrupted; partial results saved")
        return INTERRUPTED
    if results.against:
        code = concluded(results, options.threshold, console)
        return code or (FAILED if unsaved else 0)
    return FAILED if failed or unsaved else 0


def kept(results: Results, suite: type[Suite], directory: Path, console: Console) -> str | None:
    """Save and draw what was measured, before a terminal can spoil it; returns why that failed."""
    try:
        save(results, directory / FILE_NAME)
        for path in draw(results, suite, directory):
            console.print(f"wrote {path}", markup=False)
    except OSError as error:
        return str(error)
    return None


def concluded(results: Results, threshold_percent: float, console: Console) -> int:
    """Say what became of every variant since the other revision; returns the exit code."""
    pairs = revision_rows(results, threshold_percent)
    conclusion = summary(pairs)
    console.print(revision_table(pairs, results))
    console.print(conclusion)
    return EXIT_CODES[conclusion]


@contextlib.contextmanager
def other_revision(name: str | None) -> Iterator[Revision | None]:
    """The revision of --against, checked out until the `with` block ends; None without."""
    if name is None:
        yield None
        return
    with checked_out(name) as revision:
        yield revision


@contextlib.contextmanager
def empty_compiler_cache() -> Iterator[None]:
    """Let all processes of a run keep what they compile in a folder that is empty at first: below
    it, each server script has a cache of its own.
    """
    with tempfile.TemporaryDirectory(prefix="compiled-", ignore_cleanup_errors=True) as directory:
        os.environ[CACHE] = directory
        try:
            yield
        finally:
            del os.environ[CACHE]


def check_writable(directory: Path) -> None:
    """OSError with one sentence if results cannot be written there: better now than later."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(RESULTS_BYTES))
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(f"cannot write to {directory}: {error.strerror or error}") from error


def refused(reason: str, code: int = REFUSED) -> int:
    """Say why there is no result."""
    print(reason, file=sys.stderr)
    return code


def listed(kind: Callable[[str], float]) -> Callable[[str], list]:
    """A parser of comma-separated positive numbers; they come out in order, each once."""

    def numbers(text: str) -> list:
        return sorted({above_zero(kind, part) for part in text.split(",")})

    return numbers


def positive(text: str) -> float:
    """A number above 0, and not infinite."""
    return above_zero(float, text)


def count(text: str) -> int:
    """A whole number above 0."""
    return above_zero(int, text)


def above_zero(kind: Callable[[str], float], text: str) -> float:
    """The number in the text; ArgumentTypeError unless it is one above 0, and not infinite."""
    with contextlib.suppress(ValueError):
        value = kind(text)
        if 0 < value < math.inf:
            return value
    wanted = "whole number" if kind is int else "number"
    raise argparse.ArgumentTypeError(f"'{text}' is no {wanted} above 0")


def one_of(variants: list[str]) -> Callable[[str], list[str]]:
    """A parser of comma-separated variants; they come out in reading order."""

    def names(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := sorted(set(chosen) - set(variants)):
            names, known = ", ".join(map(repr, unknown)), ", ".join(variants)
            raise argparse.ArgumentTypeError(f"no such variant: {names}; there are {known}")
        return [name for name in variants if name in chosen]

    return names


def benchmark_parser(
    suite: type[Suite],
    description: str,
    output_dir: Path,
    *,
    concurrency: list[int],
    minutes: float,
    quick: dict[str, Any],
    precise_minutes: float,
    choose_variants: bool = True,
) -> argparse.ArgumentParser:
    """The options that both benchmark scripts share: what to measure, how long, where to write.

    Args:
        concurrency, minutes: the folder's defaults.
        quick: what --quick changes of them.
        precise_minutes: the cap on --precision, if --minutes sets none.
        choose_variants: whether the suite's variants, which a revision has as well, can be chosen.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.presets = {"quick": QUICK | quick, "precision": {"minutes": precise_minutes}}
    parser.set_defaults(against=None)
    if choose_variants:
        variant_options(parser, [variant.name for variant in suite.variants])
    what_options(parser, concurrency)
    how_long_options(parser, minutes, precise_minutes)
    where_options(parser, output_dir)
    return parser


def variant_options(parser: argparse.ArgumentParser, variants: list[str]) -> None:
    """Which servers to measure, and beside which others."""
    add = adder(parser)
    add(
        "--variants",
        f"which to measure (default: {','.join(variants)})",
        type=one_of(variants),
        default=variants,
        metavar="A,B",
    )
    add(
        "--against",
        "measure the servers of another git revision beside these; the exit code says whether any "
        "is slower now (1), not (0), or not known well enough (3)",
        metavar="REF",
    )
    add(
        "--threshold",
        f"what a variant may lose against REF {SHOWN}",
        type=positive,
        default=THRESHOLD_PERCENT,
        metavar="PERCENT",
    )


def what_options(parser: argparse.ArgumentParser, concurrency: list[int]) -> None:
    """Under which load to measure; what runs already."""
    add = adder(parser)
    add(
        "--concurrency",
        f"requests kept waiting for their answers (default: {','.join(map(str, concurrency))})",
        type=listed(int),
        default=concurrency,
        metavar="N,N",
    )
    add(
        "--rate",
        "open loop instead: requests/s that arrive whatever the server does",
        type=listed(float),
        metavar="R,R",
    )
    add(
        "--slo-p99-ms",
        "also search each variant's capacity: the offered rate at which 99 %% of "
        "answers come within MS; takes as long again as --minutes",
        type=positive,
        metavar="MS",
    )
    add(
        "--url",
        "measure the server that runs there already; it is neither launched nor stopped",
        type=plain_http_url,
    )


def how_long_options(
    parser: argparse.ArgumentParser, minutes: float, precise_minutes: float
) -> None:
    """How long and how well to measure."""
    add = adder(parser)
    add(
        "--minutes",
        f"for all epochs, launches included {SHOWN}",
        type=positive,
        default=minutes,
        metavar="M",
    )
    add(
        "--precision",
        f"measure until every verdict is known to ± P %%; --minutes is then the most it may take "
        f"(default: {precise_minutes:g})",
        type=positive,
        metavar="P",
    )
    add(
        "--epochs",
        f"how often every server is launched, without --precision {SHOWN}",
        type=count,
        default=EPOCHS,
    )
    add(
        "--quick",
        "a first look: one short epoch, wide verdicts without the luck of a launch",
        action="store_true",
    )


def where_options(parser: argparse.ArgumentParser, output_dir: Path) -> None:
    """Where to run the models and to write, and what else servers and requests are told."""
    add = adder(parser)
    add(
        "--accelerator",
        f"where the models run {SHOWN}",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
    )
    add("--api-servers", f"HTTP processes per server {SHOWN}", type=count, default=1)
    add("--output-dir", f"where results and charts go {SHOWN}", type=Path, default=output_dir)
    add(
        "--seed",
        f"of the order of launches and requests {SHOWN}",
        type=int,
        default=JOB_DEFAULTS["seed"],
    )
    add(
        "--timeout",
        f"seconds after which a request has failed {SHOWN}",
        type=positive,
        default=JOB_DEFAULTS["timeout_s"],
    )
    add(
        "--force",
        "measure although another benchmark runs on this machine",
        action="store_true",
    )


def adder(parser: argparse.ArgumentParser) -> Callable[..., None]:
    """Adds a flag with its words to the parser."""

    def add(flag: str, words: str, **options: Any) -> None:
        parser.add_argument(flag, help=words, **options)

    return add


def parsed(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """The options; a preset such as --quick changes defaults, not what was asked for beside it."""
    known = parser.parse_known_args(argv)[0]
    for flag, defaults in parser.presets.items():
        if getattr(known, flag):
            parser.set_defaults(**defaults)
    options = parser.parse_args(argv)
    for other in ("url", "sweep"):
        if options.against and getattr(options, other, None):
            parser.error(f"argument --against: not allowed with argument --{other}")
    return options
