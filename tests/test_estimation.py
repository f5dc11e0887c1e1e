"""The estimator against closed forms, scipy and simulation; Holm and equivalence against theirs."""

import math

import numpy
import pytest
from scipy import special, stats

from harness.judge.estimation import (
    Estimate,
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

SERVERS = ["baseline", "control", "a", "b", "c", "d"]


def simulated(
    seed: int,
    effects: dict[str, float] | None = None,
    epochs: int = 3,
    blocks: int = 9,
    within: float = 0.06,
    between: float = 0.03,
) -> list[Observation]:
    """Windows of servers whose log rates differ by known effects, with the noise of a machine."""
    chance, made = numpy.random.default_rng(seed), []
    for epoch in range(epochs):
        launch = {server: chance.normal(0, between) for server in SERVERS}
        for block in range(blocks):
            drift = chance.normal(0, 0.2)
            for server in SERVERS:
                log = math.log(500) + drift + launch[server] + (effects or {}).get(server, 0.0)
                rate = math.exp(log + chance.normal(0, within))
                made.append(Observation(server, epoch, blocks * epoch + block, rate))
    return made


def estimated(observations: list[Observation], mine: str, theirs: list[str]) -> Estimate:
    fit = fitted(observations)
    return contrast(fit, [mine], theirs, launch_variance(fit))


def test_of_balanced_blocks_an_effect_is_the_mean_of_the_epochs_mean_log_ratios():
    made = simulated(1)
    logs = {(each.server, each.block): math.log(each.rate) for each in made}
    differences = [
        [logs["a", 9 * epoch + block] - logs["b", 9 * epoch + block] for block in range(9)]
        for epoch in range(3)
    ]
    assert estimated(made, "a", ["b"]).value == pytest.approx(numpy.mean(differences))


def test_the_pooled_variance_is_the_mean_square_of_epochs_and_servers():
    made = simulated(2)
    means = numpy.array(
        [
            [
                numpy.mean(
                    [math.log(e.rate) for e in made if (e.server, e.epoch) == (server, epoch)]
                )
                for server in SERVERS
            ]
            for epoch in range(3)
        ]
    )
    residuals = means - means.mean(0) - means.mean(1, keepdims=True) + means.mean()
    variance = launch_variance(fitted(made))
    assert variance.value == pytest.approx((residuals**2).sum() / 10)
    assert variance.freedom == 10


def test_of_two_servers_the_interval_is_that_of_a_paired_t_test_over_epochs():
    made = [each for each in simulated(3, epochs=5) if each.server in ("a", "b")]
    fit = fitted(made)
    differences = fit.effects[:, 0] - fit.effects[:, 1]
    oracle = stats.ttest_1samp(differences, 0)
    estimate = contrast(fit, ["a"], ["b"], launch_variance(fit))
    assert estimate.p_value == pytest.approx(oracle.pvalue)
    assert estimate.interval() == pytest.approx(tuple(oracle.confidence_interval()))


def test_the_doubled_baseline_takes_a_quarter_off_the_variance():
    made = simulated(4)
    single, doubled = (estimated(made, "a", each) for each in (["b"], ["baseline", "control"]))
    assert doubled.error / single.error == pytest.approx(math.sqrt(1.5 / 2))


def test_a_server_that_is_missing_from_a_block_is_compared_with_what_was_there():
    made = [each for each in simulated(5, {"a": 0.2}, within=1e-9, between=0) if each.block % 2 == 0
            or each.server != "a"]  # fmt: skip
    assert estimated(made, "a", ["b"]).value == pytest.approx(0.2, abs=1e-6)


def test_a_server_that_failed_in_an_epoch_is_judged_by_the_others():
    made = [each for each in simulated(6, {"a": 0.2}) if each.server != "a" or each.epoch < 2]
    fit = fitted(made)
    estimate = contrast(fit, ["a"], ["b"], launch_variance(fit))
    assert estimate.freedom == 8  # five servers were there in all three epochs
    whole = estimated(simulated(6, {"a": 0.2}), "a", ["b"])
    assert estimate.error > whole.error * 0.9


def test_one_epoch_gives_an_interval_without_the_luck_of_the_launch():
    fit = fitted(simulated(7, epochs=1))
    variance = launch_variance(fit)
    assert variance.freedom == 8 * 5
    assert variance.value == pytest.approx(0.06**2 / 9, rel=0.6)
    assert between_launches(fit) is None
    assert launch_variance(fitted(simulated(7, epochs=1, blocks=1))) is None
    assert fitted([]) is None


def test_the_luck_of_launches_is_told_apart_from_that_of_windows():
    spreads = [between_launches(fitted(simulated(seed, between=0.05))) for seed in range(40)]
    assert numpy.sqrt(numpy.mean(numpy.square(spreads))) == pytest.approx(0.05, rel=0.15)


@pytest.mark.parametrize("between", [0.0, 0.03])
def test_the_intervals_cover_the_truth_in_93_to_97_of_100(between):
    """Windows and launches vary; 400 runs of four contrasts, variances drawn together."""
    covered = total = 0
    for seed in range(400):
        fits = [fitted(simulated(4 * seed + load, between=between)) for load in range(4)]
        variances = drawn_together([launch_variance(fit) for fit in fits])
        for server in SERVERS[2:]:
            estimate = contrast(fits[0], [server], SERVERS[:2], variances[0])
            low, high = estimate.interval()
            covered += low <= 0 <= high
            total += 1
    assert 0.93 <= covered / total <= 0.97


def test_variances_that_do_not_differ_are_pooled_and_others_are_moved_towards_each_other():
    chance = numpy.random.default_rng(8)
    same = [Variance(float(chance.chisquare(10)) / 10, 10) for _ in range(30)]
    pooled = drawn_together(same)
    assert numpy.ptp([each.value for each in pooled]) < 0.5 * numpy.ptp([v.value for v in same])
    different = [Variance(value, 10) for value in (0.001, 0.1, 10.0)]
    moved = [each.value for each in drawn_together(different)]
    assert moved == pytest.approx([0.001, 0.1, 10.0], rel=0.5)
    assert drawn_together(different[:1]) == different[:1]


def test_the_moments_of_the_prior_are_smyths():
    """Variances drawn from s0 F(d, d0) give back s0 and d0."""
    chance = numpy.random.default_rng(9)
    shared, prior, freedom = 0.02, 8.0, 12
    draws = shared * chance.f(freedom, prior, 4000)
    moderated = drawn_together([Variance(float(value), freedom) for value in draws])
    assert moderated[0].freedom == pytest.approx(freedom + prior, rel=0.15)
    zero = draws[0] * freedom
    back = (moderated[0].value * moderated[0].freedom - zero) / (moderated[0].freedom - freedom)
    assert back == pytest.approx(shared, rel=0.1)
    assert special.polygamma(1, prior / 2) > 0


def test_holm_is_that_of_the_textbook():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_equivalence_is_that_of_two_one_sided_tests():
    for value, error in ((0.0, 0.02), (0.02, 0.02), (-0.03, 0.005), (0.06, 0.001)):
        margin = math.log1p(0.05)
        below = stats.t.sf((value + margin) / error, 10)
        above = stats.t.sf((margin - value) / error, 10)
        assert equivalent(Estimate(value, error, 10), 0.05) == (max(below, above) < 0.05)
