"""What a server is offered on the way to its capacity: the next rate, and a window's raw figures.

Capacity is the highest offered rate (open loop, Poisson arrivals, latency from the intended send)
at which 99 % of the answers come within the SLO. Windows of all servers are interleaved
(harness.measure.epochs); each server is offered rates of its own, which a Search chooses.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from scipy.optimize import isotonic_regression

from harness.load.job import OK, Job, LoadResult
from harness.load.latency import requests_needed

LATE_SHARE = 0.01  # of the answers, that p99 leaves out
FIRST_GUESS = 0.7  # of what was answered at the highest load
STEP = 1.4  # from rate to rate, until one has held and one has not
RESOLUTION = 1.05  # the lowest rate that failed over the highest that held
TRIES = 3  # of both ends of a narrow bracket in one epoch: one unlucky window does not decide
WINDOWS = 10  # in an epoch: two or three to a bracket, three to narrow it, the rest for its ends
SLOS = 30  # a window is as many SLOs long: a backlog that grows by 5 % has to show in it
WARMUP_SLOS = 5  # before it: a queue that begins empty is shorter than it will be
MARGIN = 1.15  # Poisson arrivals bring fewer requests than expected in every other window
PATIENCE_SLOS, LEAST_PATIENCE_S = 4, 1.0  # what comes later is late, however late


@dataclass(frozen=True)
class CapacityWindow:
    """One window at an offered rate, raw.

    Attributes:
        server, variant: which server, and whose script it is.
        epoch, block: when.
        slo_p99_ms: the SLO.
        offered_rate: requests/s.
        seconds: length of the window.
        requests: due inside the window, and how they ended.
        late: how many of them were not answered correctly within the SLO.
        latency_ms: of the correct answers, mean and percentiles from the intended send; None where
            too few back them.
    """

    server: str
    variant: str
    epoch: int
    block: int
    slo_p99_ms: float
    offered_rate: float
    seconds: float
    requests: dict[str, int]
    late: int
    latency_ms: dict[str, float | None]


def late_answers(result: LoadResult, slo_p99_ms: float) -> int:
    """How many requests were not answered correctly within the SLO."""
    ends = zip(result.outcome, result.latency_s, strict=True)
    return sum(outcome != OK or 1000 * seconds > slo_p99_ms for outcome, seconds in ends)


def window_s(rate: float, least_s: float, most_s: float) -> float:
    """How long a window is: enough requests for a p99 of its own, or what a server's share of the
    time allows, for windows at one rate count together; but never shorter than `least_s`, or
    overload would not show.
    """
    return max(least_s, min(MARGIN * requests_needed(99) / rate, most_s))


def offered_job(job: Job, rate: float, slo_p99_ms: float, most_s: float) -> Job:
    """The job of one window: whole answers count, however they come."""
    slo_s = slo_p99_ms / 1000
    return replace(
        job,
        rate=rate,
        duration_s=window_s(rate, max(job.duration_s, SLOS * slo_s), most_s),
        warmup_s=max(job.warmup_s, WARMUP_SLOS * slo_s),
        timeout_s=max(LEAST_PATIENCE_S, PATIENCE_SLOS * slo_s),
        carries_output=None,
    )


def lone_job(job: Job, after: Job) -> Job:
    """A lone request: it comes through once the server is done with what a window left behind.

    The rate may have been beyond what the server can do, so that this takes as long as the window.
    """
    return replace(
        job,
        rate=None,
        concurrency=1,
        duration_s=0.01,
        warmup_s=0.0,
        warmup_answers=0,
        min_requests=1,
        timeout_s=max(job.timeout_s, after.duration_s),
        carries_output=None,
    )


class Trial(NamedTuple):
    """A window's offered rate, its requests, and how many of them were late."""

    rate: float
    late: int
    sent: int


class Tally(NamedTuple):
    """What windows at one rate have in common: late of so many requests."""

    late: int
    sent: int
    windows: int


def pooled(trials: Iterable[Trial]) -> dict[float, Tally]:
    """The windows at each rate taken together, lowest rate first; those without requests say
    nothing.
    """
    tallies: dict[float, Tally] = {}
    for rate, late, sent in sorted(trials):
        before = tallies.get(rate, Tally(0, 0, 0))
        if sent:
            tallies[rate] = Tally(before.late + late, before.sent + sent, before.windows + 1)
    return tallies


def late_shares(tallies: Mapping[float, Tally]) -> dict[float, float]:
    """By rate, the share of late answers, which can only rise with the rate.

    Isotonic regression weighted by requests (pool adjacent violators).
    """
    if not tallies:
        return {}
    rates = sorted(tallies)
    shares = [tallies[rate].late / tallies[rate].sent for rate in rates]
    fit = isotonic_regression(shares, weights=[tallies[rate].sent for rate in rates])
    return dict(zip(rates, map(float, fit.x), strict=True))


def bracket(shares: Mapping[float, float]) -> tuple[float | None, float | None]:
    """The highest rate that held and the lowest that failed; None where there is none."""
    held = [rate for rate, share in shares.items() if share <= LATE_SHARE]
    failed = [rate for rate, share in shares.items() if share > LATE_SHARE]
    return max(held, default=None), min(failed, default=None)


def rounded(rate: float) -> float:
    """A rate that is short to read: windows at one rate are found by it."""
    return float(f"{rate:.4g}")


class Search:
    """Which rate a server is to be offered next.

    In an epoch: steps until a rate held and one failed, then the middle between them, until they
    lie RESOLUTION apart; from then on both ends in turn. What held and what failed follows from all
    windows of the epoch together, so that a bracket moves once the evidence at an end has turned.
    A later epoch is another launch: it begins with both ends of the last bracket, and judges them
    by its own windows.
    """

    def __init__(self, first: float) -> None:
        """Begin at the rate `first`, in requests per second."""
        self.first = rounded(first)
        self.known: tuple[float, float] | None = None  # the last bracket of an earlier epoch
        self.trials: list[Trial] = []  # of this epoch

    def begin_epoch(self) -> None:
        """The server is launched anew."""
        held, failed = self.bracket
        if held and failed:
            self.known = held, failed
        else:
            self.first = held or (rounded(failed / STEP) if failed else self.first)
        self.trials = []

    def add(self, trial: Trial) -> None:
        """Learn from a window."""
        self.trials.append(trial)

    @property
    def bracket(self) -> tuple[float | None, float | None]:
        """The highest rate that held in this epoch, and the lowest that failed."""
        return bracket(late_shares(pooled(self.trials)))

    @property
    def settled(self) -> bool:
        """Whether the bracket is narrow, and both ends were tried often enough in this epoch."""
        held, failed = self.bracket
        if not held or not failed or failed / held > RESOLUTION:
            return False
        tallies = pooled(self.trials)
        return min(tallies[held].windows, tallies[failed].windows) >= TRIES

    @property
    def next_rate(self) -> float:
        """Requests/s to offer next: a known end, a step beyond what is known, the middle of the
        bracket, or an end again.
        """
        tallies = pooled(self.trials)
        untried = [rate for rate in self.known or (self.first,) if rate not in tallies]
        if untried:
            return untried[0]
        held, failed = self.bracket
        if held is None:
            return rounded(failed / self.step(tallies))
        if failed is None:
            return rounded(held * self.step(tallies))
        if failed / held > RESOLUTION:
            return rounded(math.sqrt(held * failed))
        return min((held, failed), key=lambda rate: tallies[rate].windows)

    def step(self, tallies: Mapping[float, Tally]) -> float:
        """From rate to rate; near a known bracket as far again as all rates tried, up to STEP."""
        if self.known is None:
            return STEP
        return min(STEP, max(RESOLUTION, max(tallies) / min(tallies)))
