"""Which rows of two result files are compared, and when one is a regression.

Two runs of one day differ by more than the epochs of one run do: that part of the variance cannot
be seen in two files, and is added as BETWEEN_RUNS. A row is a regression if its whole interval lies
beyond the threshold, and says nothing if the interval is wider than that.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from harness.judge.estimation import CONFIDENCE, Estimate, Variance
from harness.judge.verdicts import (
    LoadFit,
    about_minutes,
    bounds,
    half_width,
    in_percent,
    load_fits,
    signed,
)
from harness.results.file import UnusableResultsError
from harness.results.rows import Row
from harness.results.schema import Results

# standard deviation of log rates from run to run of the same code on one shared 2-core machine
BETWEEN_RUNS = 0.03
# which rows there are and how well they are known, but not what a row is
FREE_SETTINGS = {
    *("variants", "concurrency", "rate", "epochs", "minutes", "precision", "quick", "seed"),
    *("timeout", "slo_p99_ms", "threshold"),
}
MACHINE = ("cpu", "instruction_sets", "usable_cores", "gpus")
MEMORY_STEP_BYTES = 1 << 30  # a kernel update changes what is left of it by kilobytes
REGRESSION, IMPROVED, HOLDS, UNKNOWN = "regression", "improved", "holds", "inconclusive"
NO_REGRESSION = "no regression"
EXIT_CODES = {NO_REGRESSION: 0, REGRESSION: 1, UNKNOWN: 3}
THRESHOLD_PERCENT = 10.0  # what a row may lose, if nothing else was asked for


@dataclass(frozen=True)
class RowPair:
    """One variant under one offered load in both files.

    Attributes:
        variant, load: which; the load is "all" where the variant was not measured to the end.
        old, new: the rows; None where a file has none.
        percent, ci95: how much faster the new one is, and its 95 % interval.
        outcome: "regression", "improved", "holds" (not slower by more than the threshold) or
            "inconclusive".
        text: the same for people, with the reason.
    """

    variant: str
    load: str
    old: Row | None
    new: Row | None
    percent: float | None
    ci95: tuple[float, float] | None
    outcome: str
    text: str


def refuse_incomparable(old: Results, new: Results, across_machines: bool) -> None:
    """UnusableResultsError with one sentence if the two did not measure the same thing."""
    if old.suite != new.suite:
        message = f"not comparable: one file is of suite {old.suite}, the other of {new.suite}"
        raise UnusableResultsError(message)
    for name, results in (("old", old), ("new", new)):
        if not results.complete:
            raise UnusableResultsError(f"not comparable: the {name} run was interrupted")
        if results.against:
            message = f"the {name} run compares two revisions itself (--against {results.against})"
            raise UnusableResultsError(f"not comparable: {message}")
    names = (old.settings.keys() | new.settings.keys()) - FREE_SETTINGS
    if differing := differences(old.settings, new.settings, sorted(names)):
        raise UnusableResultsError(f"not comparable: the settings differ: {differing}")
    differing = differences(machine_kind(old), machine_kind(new), (*MACHINE, "memory"))
    if differing and not across_machines:
        raise UnusableResultsError(f"not comparable without --across-machines: {differing}")


def machine_kind(results: Results) -> dict:
    """What makes two machines of one kind: not their kernel, nor the last kilobytes of memory."""
    memory_gib = round((results.machine.get("memory_bytes") or 0) / MEMORY_STEP_BYTES)
    return {name: results.machine.get(name) for name in MACHINE} | {"memory": f"{memory_gib} GiB"}


def differences(old: Mapping, new: Mapping, names: Sequence[str]) -> str:
    """The named values that are not the same, in words."""
    differing = [name for name in names if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} and {new.get(name)}" for name in differing)


def compared_rows(old: Results, new: Results, threshold_percent: float) -> list[RowPair]:
    """Every row of the old file beside its counterpart, or the lack of one."""
    fits = [load_fits(results.windows, results.loads) for results in (old, new)]
    minutes = (old.measured_s + new.measured_s) / 60
    pairs = []
    for name, before in old.variants.items():
        after = new.variants.get(name)
        rows = {row.load: row for row in after.rows} if after else {}
        if rows and after.error and not before.error:
            text = missing(after.error)
            pairs.append(RowPair(name, "all", None, None, None, None, REGRESSION, text))
        for row in before.rows:
            now = rows.get(row.load)
            if now is None:
                reason = missing(after.error if after else None)
                pair = RowPair(name, row.load.name, row, None, None, None, REGRESSION, reason)
            else:
                pair = compared_pair(name, row, now, fits, threshold_percent, minutes)
            pairs.append(pair)
    if not any(pair.new for pair in pairs):
        raise UnusableResultsError("not comparable: the two files share no variant and load")
    return pairs


def summary(pairs: Sequence[RowPair]) -> str:
    """One of EXIT_CODES: what all rows come to."""
    outcomes = {pair.outcome for pair in pairs}
    return next((each for each in (REGRESSION, UNKNOWN) if each in outcomes), NO_REGRESSION)


def missing(error: str | None) -> str:
    """Why a row of the old file has no counterpart."""
    return f"fails now: {error.splitlines()[0]}" if error else "was not measured now"


def compared_pair(
    variant: str,
    before: Row,
    now: Row,
    fits: Sequence[Mapping[str, LoadFit]],
    threshold_percent: float,
    minutes: float,
) -> RowPair:
    """One row: its failed requests first, for fast failures are worth nothing."""
    load = now.load.name
    if more_fail(before, now):
        text = fail_more(before, now)
        return RowPair(variant, load, before, now, None, None, REGRESSION, text)
    estimate = ratio(variant, *(each.get(load) for each in fits))
    if estimate is None:
        text = "inconclusive: one of the files has a single block"
        return RowPair(variant, load, before, now, None, None, UNKNOWN, text)
    low, high = map(in_percent, estimate.interval())
    percent, resolution = in_percent(estimate.value), half_width(*estimate.interval())
    outcome, text = judged(percent, low, high, resolution, threshold_percent, minutes)
    return RowPair(variant, load, before, now, percent, (low, high), outcome, text)


def failed(row: Row) -> int:
    """How many requests did not end with a correct answer."""
    return row.requests["sent"] - row.requests["ok"]


def more_fail(before: Row, now: Row) -> bool:
    """Whether a larger share of the requests fails now (Fisher's exact test, one-sided, at 5 %)."""
    table = [[failed(now), now.requests["ok"]], [failed(before), before.requests["ok"]]]
    return failed(now) > 0 and stats.fisher_exact(table, "greater").pvalue < 1 - CONFIDENCE


def fail_more(before: Row, now: Row) -> str:
    """How many requests fail now, and how many did before."""
    return f"{failed(now)} of {now.requests['sent']} requests fail now, {failed(before)} before"


def ratio(variant: str, old: LoadFit | None, new: LoadFit | None) -> Estimate | None:
    """How much faster a variant is in the new file, with the variance between runs in it."""
    if not old or not new:
        return None
    rates = [fit.rate(variant) for fit in (old, new)]
    if any(rate.ci95 is None for rate in rates):
        return None
    errors = [
        Variance(fit.variance.value / launches(fit, variant), fit.variance.freedom)
        for fit in (old, new)
    ]
    variance = sum(each.value for each in errors) + 2 * BETWEEN_RUNS**2
    # Satterthwaite: the variance between runs is given, and weakens no degree of freedom
    freedom = variance**2 / sum(each.value**2 / each.freedom for each in errors)
    return Estimate(math.log(rates[1].mean / rates[0].mean), math.sqrt(variance), freedom)


def launches(fit: LoadFit, variant: str) -> int:
    """How many launches of a variant's servers stand behind its rate."""
    return fit.fit.epochs * len(fit.servers[variant])


def judged(
    percent: float,
    low: float,
    high: float,
    resolution: float,
    threshold_percent: float,
    minutes: float,
) -> tuple[str, str]:
    """The outcome for a row, and in words."""
    interval = bounds(low, high, percent > 0)
    if high < -threshold_percent:
        return REGRESSION, f"slower by {-percent:.0f} % {interval}"
    if low > threshold_percent:
        return IMPROVED, f"faster by {percent:.0f} % {interval}"
    if low > -threshold_percent:
        return HOLDS, f"not slower by {threshold_percent:g} % [{signed(low)}, {signed(high)}]"
    longer = minutes * ((resolution / threshold_percent) ** 2 - 1)
    more = f"; {about_minutes(longer)}" if 1 <= longer < 600 else ""
    return UNKNOWN, f"inconclusive: between {signed(low)} and {signed(high)} %{more}"
