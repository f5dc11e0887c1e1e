"""From the windows of the searches to capacities and to what their verdicts need.

The capacity of a server in an epoch is where the late share, fitted to rise with the rate, crosses
1 %. Log capacities of epochs and servers are then what log rates are in harness.judge.estimation:
epochs, not requests, carry the interval and the verdict, since a queue makes late answers come in
clumps. A binomial test takes them for independent, and so is surer than it should be: it says
which rates hold and which fail, but decides between no two variants.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from scipy import stats

from harness.judge.estimation import CONFIDENCE, Observation, fitted, launch_variance
from harness.judge.verdicts import LoadFit, wrong_answers
from harness.measure.capacity import (
    LATE_SHARE,
    CapacityWindow,
    Tally,
    Trial,
    bracket,
    late_shares,
    pooled,
)
from harness.results.schema import Capacity

NAME = "capacity"
HOLDS, FAILS, UNCLEAR = "holds", "fails", "unclear"


def is_capacity(load: str) -> bool:
    """Whether a verdict is about capacity, from the name of its load."""
    return load.startswith(NAME)


def capacity_fits(windows: Sequence[CapacityWindow]) -> dict[str, LoadFit]:
    """All capacities as one more load, by its name; none if no server has one in any epoch."""
    observations = [
        # an epoch has one capacity per server: it is its own only block
        Observation(server, epoch, epoch, capacity)
        for (server, epoch), own in by_launch(windows).items()
        if (capacity := crossing(own)) is not None
    ]
    fit = fitted(observations)
    if fit is None:
        return {}
    servers: dict[str, list[str]] = {}
    for window in windows:
        names = servers.setdefault(window.variant, [])
        if window.server in fit.servers and window.server not in names:
            names.append(window.server)
    name = f"{NAME} (p99 {windows[0].slo_p99_ms:g} ms)"
    lacking = "no capacity of both in two epochs"
    # not drawn together with the loads: what a search leaves open is no noise of theirs
    return {name: LoadFit(fit, launch_variance(fit), servers, wrong_answers(windows), lacking)}


def capacities(
    windows: Sequence[CapacityWindow], fits: Mapping[str, LoadFit]
) -> dict[str, Capacity]:
    """What each variant carries, with its servers and epochs taken together.

    Args:
        windows: of all servers.
        fits: what `capacity_fits` says of them.
    """
    made = {}
    for variant in dict.fromkeys(window.variant for window in windows):
        own = [window for window in windows if window.variant == variant]
        rates = [fit.rate(variant) for fit in fits.values() if fit.servers[variant]]
        holds_at, fails_at = certain_bounds(tallies(own))
        rate = next(iter(rates), None)
        made[variant] = Capacity(own[0].slo_p99_ms, rate, holds_at, fails_at)
    return made


def by_launch(
    windows: Iterable[CapacityWindow],
) -> dict[tuple[str, int], dict[float, Tally]]:
    """By server and epoch, what was late at each rate."""
    launches: dict[tuple[str, int], list[CapacityWindow]] = {}
    for window in windows:
        launches.setdefault((window.server, window.epoch), []).append(window)
    return {launch: tallies(own) for launch, own in launches.items()}


def tallies(windows: Iterable[CapacityWindow]) -> dict[float, Tally]:
    """What was late at each rate."""
    return pooled(Trial(each.offered_rate, each.late, each.requests["sent"]) for each in windows)


def crossing(at_rates: Mapping[float, Tally]) -> float | None:
    """The rate at which the fitted late share reaches 1 %, interpolated over the log of the rate.

    None unless a rate that was tried lies on either side.
    """
    shares = late_shares(at_rates)
    held, failed = bracket(shares)
    if held is None or failed is None:
        return None
    way = (LATE_SHARE - shares[held]) / (shares[failed] - shares[held])
    return held * (failed / held) ** way


def certainty(tally: Tally) -> str:
    """Whether so many late answers mean that at most 1 % are, more are, or neither for certain.

    Exact binomial tests, one-sided at 5 % each.
    """
    for word, side in ((HOLDS, "less"), (FAILS, "greater")):
        if stats.binomtest(tally.late, tally.sent, LATE_SHARE, side).pvalue < 1 - CONFIDENCE:
            return word
    return UNCLEAR


def certain_bounds(at_rates: Mapping[float, Tally]) -> tuple[float | None, float | None]:
    """The highest rate that holds for certain, below the lowest that fails for certain; and that
    one.
    """
    words = {rate: certainty(tally) for rate, tally in at_rates.items()}
    fails_at = min((rate for rate, word in words.items() if word == FAILS), default=None)
    below = math.inf if fails_at is None else fails_at
    holds = [rate for rate, word in words.items() if word == HOLDS and rate < below]
    return max(holds, default=None), fails_at
