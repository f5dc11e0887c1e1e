"""Two result files, row by row: did a change, a machine or an upgrade help?

    python -m harness.compare OLD.json NEW.json         # exit 0: no regression, 1: regression, 2: cannot be compared

A row is slower only if the whole 95 % interval says so and the difference is beyond the noise floor of both runs.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.show.console import LOG_WIDTH, rate_text
from harness.results.file import UnusableResultsError, read
from harness.results.run import Results
from harness.results.rows import Level
from harness.judge.statistics import Comparison, compared_unpaired

REGRESSION, UNUSABLE = 1, 2
FREE_SETTINGS = {  # which rows there are and how often they were measured, but not what a row is
    "variants", "concurrency", "rate", "rounds", "quick", "seed", "timeout", "slo_p99_ms",
}  # fmt: skip
MACHINE = ("cpu", "usable_cores", "memory_bytes", "gpus", "os")
WRONG = ("wrong_answer", "http_error", "timeout", "connection_error")


@dataclass(frozen=True)
class Row:
    """One variant at one load in both files.

    Attributes:
        variant, level: which.
        old, new: mean rate; None if the file has no such number.
        comparison: None if the row is not counted.
        text: the verdict, or why there is none.
        regression: whether the new file is worse beyond noise and threshold.
    """

    variant: str
    level: str
    old: float | None
    new: float | None
    comparison: Comparison | None
    text: str
    regression: bool


def refuse_incomparable(old: Results, new: Results, across_machines: bool) -> None:
    """UnusableResultsError with one sentence if the two did not measure the same thing."""
    if old.suite != new.suite:
        raise UnusableResultsError(f"not comparable: one file is of suite {old.suite}, the other of {new.suite}")
    names = (old.settings.keys() | new.settings.keys()) - FREE_SETTINGS
    differ = sorted(name for name in names if old.settings.get(name) != new.settings.get(name))
    if differ:
        told = ", ".join(f"{name} {old.settings.get(name)} and {new.settings.get(name)}" for name in differ)
        raise UnusableResultsError(f"not comparable: the settings differ: {told}")
    other = [name for name in MACHINE if old.machine.get(name) != new.machine.get(name)]
    if other and not across_machines:
        told = ", ".join(f"{name} {old.machine.get(name)} and {new.machine.get(name)}" for name in other)
        raise UnusableResultsError(f"not comparable without --across-machines: {told}")


def rows(old: Results, new: Results, threshold_percent: float) -> list[Row]:
    """Every row that both files have, and each variant that fails only now; UnusableResultsError if there is none."""
    found = []
    for name, before in old.variants.items():
        after = new.variants.get(name)
        if after is None:
            continue
        if after.error and not before.error:
            found.append(Row(name, "all", None, None, None, f"fails now: {after.error.splitlines()[0]}", True))
        now = {level.name: level for level in after.levels}
        found += [
            compared_row(name, level, now[level.name], floor(old, new, level.name), threshold_percent)
            for level in before.levels
            if level.name in now
        ]
    if not found:
        raise UnusableResultsError("not comparable: the two files share no variant and load")
    return found


def floor(old: Results, new: Results, level: str) -> float:
    """The larger of the noise floors of both runs; 0 where neither knows."""
    return max(results.noise_floor_percent.get(level) or 0.0 for results in (old, new))


def compared_row(variant: str, before: Level, now: Level, floor_percent: float, threshold_percent: float) -> Row:
    """One row; not counted where answers were wrong, and a regression where they are wrong only now."""
    means = before.output.mean, now.output.mean
    failed_before, failed_now = (sum(level.requests[kind] for kind in WRONG) for level in (before, now))
    if failed_before or failed_now:
        text = f"not counted: {failed_before} requests failed before, {failed_now} now"
        return Row(variant, now.name, *means, None, text, bool(failed_now and not failed_before))
    found = compared_unpaired(now.output.rounds, before.output.rounds, floor_percent)
    worse = found.verdict == "slower" and -found.percent > threshold_percent
    return Row(variant, now.name, *means, found, found.text, worse)


def table(found: list[Row], old: Results, new: Results) -> Table:
    """The rows for people."""
    shown = Table(title=f"{old.suite}: {old.started_utc} ({commit(old)}) against {new.started_utc} ({commit(new)})")
    for heading in ("variant", "load", "old/s", "new/s", "verdict"):
        shown.add_column(heading, justify="right" if heading.endswith("/s") else "left", overflow="fold")
    for row in found:
        levels = [
            next((level for level in results.variants[row.variant].levels if level.name == row.level), None)
            for results in (old, new)
        ]
        rates = [rate_text(level.output) if level else "–" for level in levels]
        shown.add_row(row.variant, row.level, *rates, row.text, style="red" if row.regression else None)
    return shown


def commit(results: Results) -> str:
    """The commit a file was made from."""
    return (results.machine.get("git_commit") or "unknown commit")[:8]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m harness.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path, help="a benchmark_results.json")
    parser.add_argument("new", type=Path, help="another one of the same suite and settings")
    parser.add_argument("--threshold", type=float, default=0.0, metavar="PERCENT",
                        help="tolerate rows that are slower by less (default: %(default)s)")  # fmt: skip
    parser.add_argument("--across-machines", action="store_true", help="compare although the machines differ")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    try:
        old, new = read(options.old), read(options.new)
        refuse_incomparable(old, new, options.across_machines)
        found = rows(old, new, options.threshold)
    except UnusableResultsError as error:
        print(error, file=sys.stderr)
        sys.exit(UNUSABLE)
    regression = any(row.regression for row in found)
    if options.json:
        print(json.dumps({"regression": regression, "rows": [asdict(row) for row in found]}, allow_nan=False))
    else:
        console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
        console.print(table(found, old, new))
        console.print("regression" if regression else "no regression")
    sys.exit(REGRESSION if regression else 0)


if __name__ == "__main__":
    main()
