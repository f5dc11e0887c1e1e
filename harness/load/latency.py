"""Many requests in a few numbers: percentiles that enough requests back, and how requests ended."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy
from scipy.stats import binom

from harness.load.job import OUTCOMES, LoadResult

PERCENTILES = (50, 90, 95, 99)


@cache
def requests_needed(percent: float) -> int:
    """The fewest requests that back a percentile at 99 % confidence, one of them allowed beyond it.

    The smallest n for which n requests, each beyond the true percentile with probability 1 - p,
    show at most one beyond it with a probability of at most 1 % (MLPerf LoadGen, early stopping):
    11 for p50, 64, 130, 662 for p99.
    """
    beyond = 1 - percent / 100
    return next(n for n in range(1, 1_000_000) if binom.cdf(1, n, beyond) <= 0.01)


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The value that `percent` % of the values do not exceed; None if too few values back it."""
    if len(values) < requests_needed(percent):
        return None
    return float(numpy.percentile(values, percent, method="inverted_cdf"))


def latency_ms(seconds: Sequence[float]) -> dict[str, float | None]:
    """Mean and percentiles, in milliseconds; None where too few values back them."""
    mean = float(numpy.mean(seconds)) if len(seconds) else None
    values = {"mean": mean} | {f"p{each}": percentile(seconds, each) for each in PERCENTILES}
    return {name: None if value is None else 1000 * value for name, value in values.items()}


def request_counts(*results: LoadResult) -> dict[str, int]:
    """How the requests of these results ended, and how many were sent."""
    counts = Counter(outcome for result in results for outcome in result.outcome)
    return {"sent": counts.total()} | {outcome: counts[outcome] for outcome in OUTCOMES}
