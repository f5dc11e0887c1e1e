"""From windows to effects and their variances: pure functions, one offered load at a time.

y = log(rate) of a window. Within a block every server is measured once, so that what the machine
did in that block cancels in differences. An epoch launches every server anew: the luck of a launch
is the same in all its blocks, so epochs are the unit of replication (Kalibera and Jones 2013,
repetition at the level where variance arises; Abedi and Brecht 2017, randomised multiple
interleaved trials). The variance of a server's mean over an epoch is pooled over the servers, and
drawn together over the offered loads (Smyth 2004).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy
from scipy import optimize, special, stats

CONFIDENCE = 0.95


class Observation(NamedTuple):
    """One window: the rate that one server reached in one block of one epoch."""

    server: str
    epoch: int
    block: int
    rate: float


class Variance(NamedTuple):
    """A variance of log rates, and the degrees of freedom behind it."""

    value: float
    freedom: float


class Estimate(NamedTuple):
    """A log ratio: its value, standard error, and the degrees of freedom of that."""

    value: float
    error: float
    freedom: float

    def interval(self, confidence: float = CONFIDENCE) -> tuple[float, float]:
        """Student's t interval."""
        margin = self.error * stats.t.ppf((1 + confidence) / 2, self.freedom)
        return self.value - margin, self.value + margin

    @property
    def p_value(self) -> float:
        """Two-sided, of no difference."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))


@dataclass(frozen=True)
class Fit:
    """The windows of one offered load, taken apart.

    Attributes:
        servers: in order.
        effects: (epochs, servers): mean log rate of a server in an epoch, differences between
            servers only being meaningful; NaN where it was not measured.
        blocks: mean number of blocks in an epoch.
        within: variance from window to window of one launch; None without two blocks in an epoch.
    """

    servers: list[str]
    effects: numpy.ndarray
    blocks: float
    within: Variance | None

    @property
    def epochs(self) -> int:
        """How often all were launched."""
        return len(self.effects)

    @property
    def complete(self) -> numpy.ndarray:
        """(epochs, servers that were measured in all of them)."""
        return self.effects[:, ~numpy.isnan(self.effects).any(axis=0)]


def fitted(observations: Iterable[Observation]) -> Fit | None:
    """Take the windows of one offered load apart; None if there is none with a correct answer.

    Within each epoch, log(rate) = block + server by least squares: where every block holds every
    server that is the mean over blocks, and where one does not, it is compared with what was there.
    """
    usable = [each for each in observations if each.rate > 0]
    servers = list(dict.fromkeys(each.server for each in usable))
    epochs = sorted({each.epoch for each in usable})
    if not epochs:
        return None
    effects, squares, freedom, blocks = [], 0.0, 0, 0
    for epoch in epochs:
        own = [each for each in usable if each.epoch == epoch]
        means, residuals, spare = two_way(own, servers)
        effects.append(means)
        squares += float((residuals**2).sum())
        freedom += spare
        blocks += len({each.block for each in own})
    within = Variance(squares / freedom, freedom) if freedom else None
    return Fit(servers, numpy.array(effects), blocks / len(epochs), within)


def two_way(
    observations: Sequence[Observation], servers: Sequence[str]
) -> tuple[numpy.ndarray, numpy.ndarray, int]:
    """log(rate) = block + server: (servers' means, residuals, degrees of freedom of those)."""
    blocks = sorted({each.block for each in observations})
    present = [server for server in servers if any(each.server == server for each in observations)]
    y = numpy.log([each.rate for each in observations])
    if len(present) == 1:  # nothing to compare it with: what its blocks differ by is its own noise
        means = [float(y.mean()) if server in present else math.nan for server in servers]
        return numpy.array(means), y - y.mean(), len(y) - 1
    design = numpy.zeros((len(y), len(blocks) + len(present)))
    for at, each in enumerate(observations):
        design[at, blocks.index(each.block)] = 1
        design[at, len(blocks) + present.index(each.server)] = 1
    solution, _, rank, _ = numpy.linalg.lstsq(design, y, rcond=None)
    own = dict(zip(present, solution[len(blocks) :], strict=True))
    level = y.mean() - numpy.mean(list(own.values()))  # where they lie together is the blocks' part
    means = numpy.array([own[server] + level if server in own else math.nan for server in servers])
    return means, y - design @ solution, len(y) - int(rank)


def launch_variance(fit: Fit) -> Variance | None:
    """Variance of a server's mean over an epoch; None if nothing replicates.

    Pooled over servers: the mean square of what epochs and servers do not explain together. Of one
    epoch only, that of its windows over their number, which knows nothing of the luck of a launch.
    """
    means = fit.complete
    epochs, servers = means.shape
    if epochs > 1 and servers == 1:  # drift of the machine included, for nothing tells it apart
        return Variance(float(means.var(ddof=1)), epochs - 1)
    if epochs > 1 and servers > 1:
        centred = means - means.mean(axis=1, keepdims=True)
        residuals = centred - centred.mean(axis=0)
        freedom = (epochs - 1) * (servers - 1)
        return Variance(float((residuals**2).sum()) / freedom, freedom)
    if epochs == 1 and fit.within:
        return Variance(fit.within.value / fit.blocks, fit.within.freedom)
    return None


def between_launches(fit: Fit) -> float | None:
    """Standard deviation of log rates from launch to launch; None of one epoch."""
    variance = launch_variance(fit)
    if variance is None or fit.epochs < 2 or fit.within is None:
        return None
    return math.sqrt(max(0.0, variance.value - fit.within.value / fit.blocks))


def drawn_together(variances: Sequence[Variance]) -> list[Variance]:
    """Each variance moderated by what all of them have in common (Smyth 2004, section 6.2).

    log s2 is distributed as log F: its mean and variance over the loads give the variance s0 that
    they share and how many degrees of freedom d0 that knowledge is worth. Where they vary no more
    than chance makes them, d0 has no bound, and is set to what all of them have together.
    """
    if len(variances) < 2 or any(each.value <= 0 for each in variances):
        return list(variances)
    half = numpy.array([each.freedom / 2 for each in variances])
    logs = numpy.log([each.value for each in variances]) - special.digamma(half) + numpy.log(half)
    excess = float(numpy.var(logs, ddof=1) - special.polygamma(1, half).mean())
    most = sum(each.freedom for each in variances)
    prior = min(most, 2 * inverse_trigamma(excess)) if excess > 0 else most
    centre = float(logs.mean() + special.digamma(prior / 2) - math.log(prior / 2))
    shared = math.exp(centre)
    return [
        Variance(
            (prior * shared + each.freedom * each.value) / (prior + each.freedom),
            prior + each.freedom,
        )
        for each in variances
    ]


def inverse_trigamma(value: float) -> float:
    """The x whose trigamma is `value`."""
    return float(optimize.brentq(lambda x: special.polygamma(1, x) - value, 1e-6, 1e8))


def contrast(
    fit: Fit, mine: Sequence[str], theirs: Sequence[str], variance: Variance
) -> Estimate | None:
    """How much faster `mine` are than `theirs`, both means over servers; None if never together.

    Args:
        mine, theirs: servers of one variant each; the baseline has two.
        variance: of a server's mean over an epoch.
    """

    def mean_of(servers: Sequence[str]) -> numpy.ndarray:
        at = [fit.servers.index(server) for server in servers if server in fit.servers]
        if not at:
            return numpy.full(fit.epochs, math.nan)
        return fit.effects[:, at].mean(axis=1)

    differences = mean_of(mine) - mean_of(theirs)
    differences = differences[~numpy.isnan(differences)]
    if not len(differences):
        return None
    error = math.sqrt(variance.value * (1 / len(mine) + 1 / len(theirs)) / len(differences))
    return Estimate(float(differences.mean()), error, variance.freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for having tested them all (Holm 1979)."""
    order = numpy.argsort(p_values, kind="stable")
    adjusted, highest = [1.0] * len(order), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def equivalent(estimate: Estimate, margin: float) -> bool:
    """Whether two one-sided tests at 5 % say that the log ratio lies within ± log(1 + margin)."""
    low, high = estimate.interval(2 * CONFIDENCE - 1)
    return -math.log1p(margin) < low and high < math.log1p(margin)
