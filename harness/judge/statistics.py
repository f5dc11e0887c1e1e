"""Comparing rates, as pure functions: paired and unpaired ratios, the noise floor, the verdict."""

import math
from collections.abc import Sequence

import numpy
from scipy import stats

from harness.results.run import Comparison
from harness.results.summary import CONFIDENCE, t_interval

NOT_ENOUGH, NO_DIFFERENCE = "not enough data", "no detectable difference"
TOO_WIDE_PERCENT = 10  # what might hide in so wide an interval is worth more windows
MOST_EPOCHS = 1000


def compared(
    new: Sequence[float], old: Sequence[float], noise_floor_percent: float | None
) -> Comparison:
    """Compare rates pairwise: `new[i]` and `old[i]` come from the same epoch.

    A difference is called only if its whole interval lies beyond zero and its size beyond the noise
    floor, which is what the same server differs by between two launches.
    """
    ratios = [math.log(n / o) for n, o in zip(new, old, strict=True) if n > 0 and o > 0]
    if not ratios:
        return not_enough("no epoch has correct answers of both")
    percent, interval = in_percent(float(numpy.mean(ratios))), t_interval(ratios)
    if interval is None or noise_floor_percent is None:
        return not_enough("at least one more epoch", percent, len(ratios))
    ci95 = in_percent(interval[0]), in_percent(interval[1])
    more = epochs_needed(ratios) - len(ratios)
    return judged(
        percent, ci95, len(ratios), noise_floor_percent, f"about {max(1, more)} more epochs"
    )


def compared_unpaired(
    new: Sequence[float], old: Sequence[float], noise_floor_percent: float
) -> Comparison:
    """Compare rates of two runs, whose epochs are not paired: Welch's t on their logarithms."""
    new_logs, old_logs = ([math.log(rate) for rate in rates if rate > 0] for rates in (new, old))
    fewest = min(len(new_logs), len(old_logs))
    if fewest == 0:
        return not_enough("no epoch has correct answers of both")
    percent = in_percent(float(numpy.mean(new_logs) - numpy.mean(old_logs)))
    if fewest == 1:
        return not_enough("at least two epochs of both", percent, 1)
    if numpy.ptp(new_logs) == numpy.ptp(old_logs) == 0:  # no variance: Welch's t divides by it
        ci95 = percent, percent
    else:
        welch = stats.ttest_ind(new_logs, old_logs, equal_var=False)
        ci95 = tuple(in_percent(bound) for bound in welch.confidence_interval(CONFIDENCE))
    return judged(percent, ci95, fewest, noise_floor_percent, "more epochs")


def not_enough(reason: str, percent: float | None = None, ratios: int = 0) -> Comparison:
    """No verdict, and what is missing."""
    return Comparison(percent, None, ratios, NOT_ENOUGH, f"{NOT_ENOUGH}: {reason}")


def judged(
    percent: float, ci95: tuple[float, float], ratios: int, noise_floor_percent: float, more: str
) -> Comparison:
    """The verdict on a difference; `more` says what might tell where there is none."""
    low, high = ci95
    beyond_noise = abs(percent) > noise_floor_percent
    undetected = max(abs(low), abs(high), noise_floor_percent)
    if beyond_noise and (low > 0 or high < 0):
        word = "faster" if percent > 0 else "slower"
        text = f"{word} by {abs(percent):.0f} % {bounds(low, high, percent > 0)}"
    elif beyond_noise and undetected > TOO_WIDE_PERCENT:
        word, text = NOT_ENOUGH, f"{NOT_ENOUGH}: {more} ({percent:+.0f} % so far)"
    else:
        word, text = NO_DIFFERENCE, f"{NO_DIFFERENCE} (< {undetected:.0f} %)"
    return Comparison(percent, ci95, ratios, word, text)


def in_percent(log_ratio: float) -> float:
    """A log ratio as a change in percent."""
    return 100 * math.expm1(log_ratio)


def bounds(low: float, high: float, faster: bool) -> str:
    """The interval of an amount that is named without its sign."""
    return f"[{low:.0f}, {high:.0f}]" if faster else f"[{-high:.0f}, {-low:.0f}]"


def epochs_needed(ratios: Sequence[float]) -> int:
    """Epochs until a mean and spread like these would lie beyond zero with 95 % confidence."""
    centre, spread = abs(float(numpy.mean(ratios))), float(numpy.std(ratios, ddof=1))

    def half_width(epochs: int) -> float:
        return stats.t.ppf((1 + CONFIDENCE) / 2, epochs - 1) * spread / math.sqrt(epochs)

    return next((n for n in range(2, MOST_EPOCHS) if half_width(n) < centre), MOST_EPOCHS)


def noise_floor(first: Sequence[float], second: Sequence[float]) -> float | None:
    """What the same server differs by between launches, percent: root mean square of A/A log
    ratios.
    """
    ratios = [math.log(a / b) for a, b in zip(first, second, strict=True) if a > 0 and b > 0]
    return in_percent(float(numpy.sqrt(numpy.mean(numpy.square(ratios))))) if ratios else None
