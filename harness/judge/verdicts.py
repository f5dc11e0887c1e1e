"""From the raw windows of a run to its verdicts: who is compared with whom, and what may be said.

Four verdicts and no others. "faster" and "slower": Holm's correction over all verdicts of the run
leaves the difference significant at 5 %. "same": two one-sided tests at 5 % say that it lies within
the margin. "undecided": everything else; what its interval excludes, a loss or a gain of more than
the margin, is said, and why one is undecided whose own interval excludes zero.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from harness.judge.estimation import (
    CONFIDENCE,
    Estimate,
    Fit,
    Observation,
    Variance,
    between_launches,
    contrast,
    drawn_together,
    equivalent,
    fitted,
    holm,
    launch_variance,
)
from harness.measure.capacity import CapacityWindow
from harness.results.rows import Rate
from harness.results.schema import Comparison, Verdict, WindowRecord

MARGIN_PERCENT = 5.0  # what differs by less is the same, for all that a user would change for it
MOST_MINUTES = 600
FASTER, SLOWER, SAME, UNDECIDED = "faster", "slower", "same", "undecided"
NOT_COUNTED = "not counted"


@dataclass(frozen=True)
class LoadFit:
    """The windows of one offered load, and what their variance says.

    Attributes:
        fit: effects of the servers.
        variance: of a server's mean over an epoch, drawn together over the loads; None if nothing
            replicates.
        servers: by variant, its servers.
        wrong: by variant, how many answers were wrong.
        lacking: what a comparison without an interval lacks.
    """

    fit: Fit
    variance: Variance | None
    servers: Mapping[str, list[str]]
    wrong: Mapping[str, int]
    lacking: str = "not measured together in two blocks"

    def estimate(self, mine: Sequence[str], theirs: Sequence[str]) -> Estimate | None:
        """How much faster some servers are than others; None if that cannot be told."""
        if not self.variance or not mine or not theirs:
            return None
        return contrast(self.fit, mine, theirs, self.variance)

    def variants(self, variant: str, against: str) -> Estimate | None:
        """How much faster a variant is than another."""
        return self.estimate(self.servers.get(variant, ()), self.servers.get(against, ()))

    def rate(self, variant: str) -> Rate:
        """Requests/s of a variant, and how well that is known."""
        at = [self.fit.servers.index(server) for server in self.servers.get(variant, ())]
        if not at:
            return Rate(0.0)
        effects = self.fit.effects[:, at]
        known = effects[~(effects != effects)]
        mean = math.exp(float(known.mean()))
        if self.variance is None:
            return Rate(mean)
        error = math.sqrt(self.variance.value / len(known))
        low, high = Estimate(math.log(mean), error, self.variance.freedom).interval()
        within, between = self.fit.within, between_launches(self.fit)
        return Rate(
            mean,
            (math.exp(low), math.exp(high)),
            half_width(low - math.log(mean), high - math.log(mean)),
            within and 100 * math.sqrt(within.value),
            None if between is None else 100 * between,
        )


def load_fits(windows: Sequence[WindowRecord], loads: Sequence[str]) -> dict[str, LoadFit]:
    """By offered load, what its windows say; a load without any correct answer is left out."""
    fits: dict[str, tuple[Fit, list[WindowRecord]]] = {}
    for load in loads:
        own = [window for window in windows if window.load == load]
        fit = fitted(Observation(w.server, w.epoch, w.block, w.requests_per_second) for w in own)
        if fit:
            fits[load] = fit, own
    variances = {load: launch_variance(fit) for load, (fit, _) in fits.items()}
    known = {load: variance for load, variance in variances.items() if variance}
    moderated = dict(zip(known, drawn_together(list(known.values())), strict=True))
    return {
        load: LoadFit(fit, moderated.get(load), servers_of(own), wrong_answers(own))
        for load, (fit, own) in fits.items()
    }


def servers_of(windows: Sequence[WindowRecord]) -> dict[str, list[str]]:
    """By variant, the servers that gave any correct answer."""
    servers: dict[str, list[str]] = {}
    for window in windows:
        names = servers.setdefault(window.variant, [])
        if window.server not in names and window.requests_per_second > 0:
            names.append(window.server)
    return servers


def wrong_answers(windows: Sequence[WindowRecord | CapacityWindow]) -> dict[str, int]:
    """By variant, how many answers were wrong."""
    wrong: dict[str, int] = {}
    for window in windows:
        count = window.requests["wrong_answer"]
        wrong[window.variant] = wrong.get(window.variant, 0) + count
    return wrong


def verdicts(
    fits: Mapping[str, LoadFit],
    builds_on: Mapping[str, str | None],
    baseline: str | None,
    minutes: float,
) -> list[Verdict]:
    """Every variant against the baseline, and against the one it builds on, under every load.

    Args:
        fits: by offered load.
        builds_on: by variant that was measured, the one it is the difference to.
        baseline: the one that builds on no other; None to compare with none but those built on.
        minutes: how long was measured, to say how much longer might decide.
    """
    pairs = [
        (name, against)
        for name in builds_on
        if name != baseline
        for against in dict.fromkeys((baseline, builds_on[name]))
        if against in builds_on
    ]
    asked = [(name, against, load) for name, against in pairs for load in fits]
    estimates = {
        each: fits[each[2]].variants(*each[:2])
        for each in asked
        if not any(fits[each[2]].wrong.get(variant) for variant in each[:2])
    }
    comparable = {each: estimate for each, estimate in estimates.items() if estimate}
    adjusted = dict(
        zip(comparable, holm([each.p_value for each in comparable.values()]), strict=True)
    )
    return [
        Verdict(
            *each,
            not_counted(fits[each[2]], each[:2])
            if each not in estimates
            else comparison(
                estimates[each], adjusted.get(each), len(comparable), minutes, fits[each[2]].lacking
            ),
        )
        for each in asked
    ]


def aa_control(fits: Mapping[str, LoadFit]) -> dict[str, Comparison]:
    """By load, the second server of the variant that has two, the baseline, against its first."""
    controls = {}
    for load, fit in fits.items():
        for name in (name for name, servers in fit.servers.items() if len(servers) == 2):
            first, second = sorted(fit.servers[name], key=lambda server: server != name)
            estimate = fit.estimate([second], [first])
            p_value = estimate and estimate.p_value
            controls[load] = comparison(estimate, p_value, 1, math.inf, fit.lacking)
    return controls


def not_counted(fit: LoadFit, variants: Sequence[str]) -> Comparison:
    """No verdict where answers were wrong: their speed is worth nothing."""
    wrong = sum(fit.wrong.get(variant, 0) for variant in variants)
    text = f"{NOT_COUNTED}: {wrong} wrong answers"
    return Comparison(None, None, None, None, NOT_COUNTED, text)


def comparison(
    estimate: Estimate | None,
    p_holm: float | None,
    comparisons: int,
    minutes: float,
    lacking: str,
) -> Comparison:
    """The verdict on a difference, one of so many."""
    if estimate is None:
        return Comparison(None, None, None, None, UNDECIDED, f"{UNDECIDED}: {lacking}")
    percent, (low, high) = in_percent(estimate.value), map(in_percent, estimate.interval())
    made = partial(Comparison, percent, (low, high), half_width(*estimate.interval()), p_holm)
    if p_holm < 1 - CONFIDENCE:
        word = FASTER if percent > 0 else SLOWER
        return made(word, f"{word} by {abs(percent):.0f} % {bounds(low, high, percent > 0)}")
    if equivalent(estimate, MARGIN_PERCENT / 100):
        return made(SAME, f"same within {MARGIN_PERCENT:g} % [{signed(low)}, {signed(high)}]")
    more = excluded(low, high, comparisons) + minutes_more(estimate, comparisons, minutes)
    return made(UNDECIDED, f"{UNDECIDED}: between {signed(low)} and {signed(high)} %{more}")


def excluded(low: float, high: float, comparisons: int) -> str:
    """What the interval of an undecided comparison, one of so many, rules out, in words: zero,
    which may be chance; or a loss, or a gain, of more than the margin (both would be "same").
    """
    if low > 0 or high < 0:
        return f", which may be chance among {comparisons} comparisons"
    if is_within(low):
        return f", not slower by {MARGIN_PERCENT:g} %"
    return f", not faster by {MARGIN_PERCENT:g} %" if is_within(-high) else ""


def is_within(low: float) -> bool:
    """Whether the lower end of an interval, as it is shown, excludes a loss of the margin."""
    return round(low) > -MARGIN_PERCENT


def is_no_loss(made: Comparison) -> bool:
    """Whether what was compared is not slower by more than the margin, for certain."""
    return made.verdict in (FASTER, SAME) or (made.ci95 is not None and is_within(made.ci95[0]))


def minutes_more(estimate: Estimate, comparisons: int, minutes: float) -> str:
    """How much longer to measure for a verdict, if the difference is what it seems to be.

    The variance falls with the time: either until Holm's first step would call the difference, or
    until it is known to lie within the margin, whichever is sooner.
    """
    if not math.isfinite(minutes):
        return ""
    size, margin = abs(estimate.value), math.log1p(MARGIN_PERCENT / 100)
    called = Estimate(0, estimate.error, estimate.freedom)
    reach = called.interval(1 - (1 - CONFIDENCE) / comparisons)[1]
    inside = called.interval(2 * CONFIDENCE - 1)[1]
    factors = [(reach / size) ** 2] if size else []
    factors += [(inside / (margin - size)) ** 2] if size < margin else []
    more = math.ceil(minutes * (min(factors) - 1))
    return f"; {about_minutes(more)}" if more <= MOST_MINUTES else "; hours more"


def about_minutes(more: float) -> str:
    """How much longer, in whole minutes, one at the least."""
    whole = max(1, round(more))
    return f"about {whole} more minute{'' if whole == 1 else 's'}"


def in_percent(log_ratio: float) -> float:
    """A log ratio as a change in percent."""
    return 100 * math.expm1(log_ratio)


def half_width(low: float, high: float) -> float:
    """Half the width of an interval of log ratios around its centre, in percent."""
    return 100 * (math.exp((high - low) / 2) - 1)


def signed(percent: float) -> str:
    """A change in whole percent with its sign; none is -0."""
    return f"{round(percent):+d}"


def bounds(low: float, high: float, faster: bool) -> str:
    """The interval of an amount that is named without its sign."""
    return f"[{low:.0f}, {high:.0f}]" if faster else f"[{-high:.0f}, {-low:.0f}]"


def widest_percent(made: Sequence[Verdict]) -> dict[str, float]:
    """By load, the resolution of the verdict that is known worst; infinite without an interval."""
    widest: dict[str, float] = {}
    for verdict in made:
        resolution = verdict.comparison.resolution_percent
        known = math.inf if resolution is None else resolution
        widest[verdict.load] = max(known, widest.get(verdict.load, 0.0))
    return widest
