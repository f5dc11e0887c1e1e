"""Two result files, row by row: did a change, a machine or an upgrade help?

A row is slower only if the whole 95 % interval says so and the difference is beyond the noise floor
of both runs.
"""

from dataclasses import dataclass

from harness.judge.statistics import compared_unpaired
from harness.results.file import UnusableResultsError
from harness.results.rows import Row
from harness.results.run import Comparison, Results

# which rows there are and how often they were measured, but not what a row is
FREE_SETTINGS = {
    *("variants", "concurrency", "rate", "epochs", "quick", "seed", "timeout", "slo_p99_ms"),
}
MACHINE = ("cpu", "usable_cores", "memory_bytes", "gpus", "os")
FAILURES = ("wrong_answer", "http_error", "timeout", "connection_error")


@dataclass(frozen=True)
class RowPair:
    """One variant under one offered load in both files.

    Attributes:
        variant, load: which.
        old, new: the rows; None if the variant fails in the new file.
        comparison: None if the row is not counted.
        text: the verdict, or why there is none.
        regression: whether the new file is worse beyond noise and threshold.
    """

    variant: str
    load: str
    old: Row | None
    new: Row | None
    comparison: Comparison | None
    text: str
    regression: bool


def refuse_incomparable(old: Results, new: Results, across_machines: bool) -> None:
    """UnusableResultsError with one sentence if the two did not measure the same thing."""
    if old.suite != new.suite:
        message = f"not comparable: one file is of suite {old.suite}, the other of {new.suite}"
        raise UnusableResultsError(message)
    names = (old.settings.keys() | new.settings.keys()) - FREE_SETTINGS
    if differing := differences(old.settings, new.settings, sorted(names)):
        raise UnusableResultsError(f"not comparable: the settings differ: {differing}")
    differing = differences(old.machine, new.machine, MACHINE)
    if differing and not across_machines:
        raise UnusableResultsError(f"not comparable without --across-machines: {differing}")


def differences(old: dict, new: dict, names: list[str] | tuple[str, ...]) -> str:
    """The named values that are not the same, in words."""
    differing = [name for name in names if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} and {new.get(name)}" for name in differing)


def compared_rows(old: Results, new: Results, threshold_percent: float) -> list[RowPair]:
    """Every row that both files have, and each variant that fails only now.

    Raises UnusableResultsError if there is none.
    """
    pairs = []
    for name, before in old.variants.items():
        after = new.variants.get(name)
        if after is None:
            continue
        if after.error and not before.error:
            reason = f"fails now: {after.error.splitlines()[0]}"
            pairs.append(RowPair(name, "all", None, None, None, reason, True))
        rows = {row.load: row for row in after.rows}
        pairs += [
            compared_pair(name, row, rows[row.load], floor(old, new, row), threshold_percent)
            for row in before.rows
            if row.load in rows
        ]
    if not pairs:
        raise UnusableResultsError("not comparable: the two files share no variant and load")
    return pairs


def floor(old: Results, new: Results, row: Row) -> float:
    """The larger of the noise floors of both runs; 0 where neither knows."""
    return max(results.noise_floor_percent.get(row.load.name) or 0.0 for results in (old, new))


def compared_pair(
    variant: str, before: Row, now: Row, floor_percent: float, threshold_percent: float
) -> RowPair:
    """One row; not counted where requests failed, and a regression where they fail only now."""
    failed_before, failed_now = (
        sum(row.requests[kind] for kind in FAILURES) for row in (before, now)
    )
    if failed_before or failed_now:
        text = f"not counted: {failed_before} requests failed before, {failed_now} now"
        regression = bool(failed_now and not failed_before)
        return RowPair(variant, now.load.name, before, now, None, text, regression)
    rates = now.output_per_second.windows, before.output_per_second.windows
    comparison = compared_unpaired(*rates, floor_percent)
    worse = comparison.verdict == "slower" and -comparison.percent > threshold_percent
    return RowPair(variant, now.load.name, before, now, comparison, comparison.text, worse)
