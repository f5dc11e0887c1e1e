"""The statistics of the project, as pure functions: percentiles that are backed, intervals, paired ratios, verdicts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy
from scipy.stats import binom, t, ttest_ind

CONFIDENCE = 0.95


def mean(values: Sequence[float]) -> float | None:
    """The arithmetic mean; None of nothing."""
    return float(numpy.mean(values)) if len(values) else None


@cache
def requests_needed(percent: float) -> int:
    """The fewest requests that back a percentile at 99 % confidence, one of them allowed beyond it.

    The smallest n for which n requests, each beyond the true percentile with probability 1 - p, show at most one
    beyond it with a probability of at most 1 % (MLPerf LoadGen, early stopping): 11 for p50, 64, 130, 662 for p99.
    """
    beyond = 1 - percent / 100
    return next(n for n in range(1, 1_000_000) if binom.cdf(1, n, beyond) <= 0.01)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that `percent` % of the values do not exceed; None if too few values back it."""
    if len(values) < requests_needed(percent):
        return None
    return float(numpy.percentile(values, percent, method="inverted_cdf"))


def confidence_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean, by Student's t; None of fewer than two values."""
    if len(values) < 2:
        return None
    margin = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * numpy.std(values, ddof=1) / math.sqrt(len(values))
    centre = float(numpy.mean(values))
    return float(centre - margin), float(centre + margin)


def relative_spread(values: Sequence[float]) -> float | None:
    """(largest - smallest) / smallest; None of fewer than two values or where the smallest is not positive."""
    return max(values) / min(values) - 1 if len(values) > 1 and min(values) > 0 else None


@dataclass(frozen=True)
class Comparison:
    """How much faster one thing is than another, paired by round on the logarithm of the ratio.

    Attributes:
        percent: geometric mean of the ratios, minus one, in percent; None if a round had no right answer.
        ci95: its 95 % interval; None of fewer than two rounds.
        rounds: pairs that went into it.
        verdict: "faster", "slower", "no detectable difference" or "not enough data".
        text: the verdict as a phrase for people.
    """

    percent: float | None
    ci95: tuple[float, float] | None
    rounds: int
    verdict: str
    text: str


def compared(new: Sequence[float], old: Sequence[float], noise_floor_percent: float | None) -> Comparison:
    """Compare rates pairwise: `new[i]` and `old[i]` come from the same round.

    A difference is called only if its whole interval lies beyond zero and its size beyond the noise floor, which is
    what the same variant differs by between two launches.
    """
    pairs = [(n, o) for n, o in zip(new, old, strict=True) if n > 0 and o > 0]
    if not pairs:
        return Comparison(None, None, 0, "not enough data", "not enough data: no round has right answers of both")
    ratios = [math.log(n / o) for n, o in pairs]
    percent = in_percent(float(numpy.mean(ratios)))
    interval = confidence_interval(ratios)
    if interval is None or noise_floor_percent is None:
        return Comparison(percent, None, len(pairs), "not enough data", "not enough data: one round more at least")
    low, high = (in_percent(bound) for bound in interval)
    more = rounds_needed(ratios) - len(ratios)
    return Comparison(percent, (low, high), len(pairs), *verdict(percent, low, high, more, noise_floor_percent))


def compared_unpaired(new: Sequence[float], old: Sequence[float], noise_floor_percent: float) -> Comparison:
    """Compare rates of two runs, whose rounds have nothing to do with each other: Welch's t on their logarithms."""
    new_logs, old_logs = ([math.log(value) for value in values if value > 0] for values in (new, old))
    rounds = min(len(new_logs), len(old_logs))
    if rounds == 0:
        return Comparison(None, None, 0, "not enough data", "not enough data: no round has right answers of both")
    percent = in_percent(float(numpy.mean(new_logs) - numpy.mean(old_logs)))
    if rounds == 1:
        return Comparison(percent, None, 1, "not enough data", "not enough data: two rounds of both at least")
    if numpy.ptp(new_logs) == numpy.ptp(old_logs) == 0:  # where nothing varies there is no interval to compute
        low = high = percent
    else:
        interval = ttest_ind(new_logs, old_logs, equal_var=False).confidence_interval(CONFIDENCE)
        low, high = in_percent(interval.low), in_percent(interval.high)
    return Comparison(percent, (low, high), rounds, *verdict(percent, low, high, None, noise_floor_percent))


def in_percent(log_ratio: float) -> float:
    """A log ratio as a change in percent."""
    return 100 * math.expm1(log_ratio)


def verdict(percent: float, low: float, high: float, more: int | None, noise_floor_percent: float) -> tuple[str, str]:
    """The verdict and its phrase; `more` rounds might tell, if that is known."""
    if (low > 0 or high < 0) and abs(percent) > noise_floor_percent:
        word = "faster" if percent > 0 else "slower"
        return word, f"{word} by {abs(percent):.0f} % {bounds(low, high, percent > 0)}"
    undetected = max(abs(low), abs(high), noise_floor_percent)
    if abs(percent) > noise_floor_percent and undetected > 10:
        rounds = "more rounds" if more is None else f"about {max(1, more)} more rounds"
        return "not enough data", f"not enough data: {rounds} ({percent:+.0f} % so far)"
    return "no detectable difference", f"no detectable difference (< {undetected:.0f} %)"


def bounds(low: float, high: float, faster: bool) -> str:
    """The interval of an amount that is named without its sign."""
    return f"[{low:.0f}, {high:.0f}]" if faster else f"[{-high:.0f}, {-low:.0f}]"


def rounds_needed(ratios: Sequence[float]) -> int:
    """Rounds until a mean and spread like these would lie beyond zero with 95 % confidence; 1,000 at most."""
    centre, spread = abs(float(numpy.mean(ratios))), float(numpy.std(ratios, ddof=1))
    reached = (n for n in range(2, 1000) if t.ppf((1 + CONFIDENCE) / 2, n - 1) * spread / math.sqrt(n) < centre)
    return next(reached, 1000)


def noise_floor(first: Sequence[float], second: Sequence[float]) -> float | None:
    """What the same server differs by from launch to launch, in percent: root mean square of the A/A log ratios."""
    ratios = [math.log(a / b) for a, b in zip(first, second, strict=True) if a > 0 and b > 0]
    return in_percent(float(numpy.sqrt(numpy.mean(numpy.square(ratios))))) if ratios else None
