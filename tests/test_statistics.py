"""The statistics against published and independently computed values."""

import math

import numpy
import pytest
import scipy.stats

from harness.judge import statistics
from harness.load import latency
from harness.results.summary import t_interval


@pytest.mark.parametrize(
    ("percent", "needed"), [(50, 11), (90, 64), (95, 130), (99, 662), (99.9, 6636)]
)
def test_requests_needed_are_those_of_mlperf_loadgen(percent, needed):
    assert latency.requests_needed(percent) == needed


def test_p99_is_refused_at_661_requests_and_told_at_662():
    assert latency.percentile(range(661), 99) is None
    assert latency.percentile(range(662), 99) == 655


def test_percentile_is_a_value_that_was_measured():
    values = [1.0] * 50 + [9.0] * 50
    assert latency.percentile(values, 50) == 1.0
    assert latency.percentile(values, 90) == 9.0


def test_interval_of_three_epochs_uses_students_t():
    low, high = t_interval([10, 12, 14])
    margin = 4.302653 * 2 / math.sqrt(3)  # t table, two degrees of freedom
    assert (low, high) == pytest.approx((12 - margin, 12 + margin), rel=1e-6)


def test_interval_of_one_round_is_refused():
    assert t_interval([10]) is None


def test_interval_agrees_with_scipy():
    values = numpy.random.default_rng(1).normal(100, 7, 6)
    oracle = scipy.stats.t.interval(0.95, 5, values.mean(), scipy.stats.sem(values))
    assert t_interval(list(values)) == pytest.approx(oracle)


def test_a_steady_gain_is_called_faster_with_its_interval():
    found = statistics.compared([118, 236, 120], [100, 200, 100], noise_floor_percent=2)
    assert found.verdict == "faster"
    assert found.ci95[0] < found.percent < found.ci95[1]
    assert found.text.startswith("faster by 19 % [")


def test_a_steady_loss_is_called_slower_by_a_positive_amount():
    found = statistics.compared([81, 80, 79], [100, 100, 100], noise_floor_percent=2)
    assert found.verdict == "slower"
    assert found.text.startswith("slower by 20 % [1")


def test_no_winner_inside_the_noise_floor():
    assert (
        statistics.compared([103, 103.1, 102.9], [100, 100, 100], 4).verdict
        == "no detectable difference"
    )


def test_a_thing_compared_with_itself_does_not_differ():
    assert (
        statistics.compared([100, 90, 110], [100, 90, 110], 0.0).verdict
        == "no detectable difference"
    )


def test_wild_epochs_ask_for_more_of_them():
    found = statistics.compared([150, 100, 190], [100, 110, 100], noise_floor_percent=3)
    assert found.verdict == "not enough data"
    assert "more epochs" in found.text


def test_epochs_without_right_answers_are_not_compared():
    assert statistics.compared([0.0], [100.0], 1).verdict == "not enough data"


def test_false_winners_among_equals_are_rare():
    random_state = numpy.random.default_rng(7)
    called = 0
    for _ in range(400):
        first, second, third = numpy.exp(random_state.normal(0, 0.05, (3, 3)))
        floor = statistics.noise_floor(list(first), list(second))
        called += statistics.compared(list(third), list(first), floor).verdict in (
            "faster",
            "slower",
        )
    assert called <= 400 * 0.05


def test_noise_floor_is_what_two_launches_differ_by():
    assert statistics.noise_floor([100, 110], [110, 100]) == pytest.approx(10)
    assert statistics.noise_floor([], []) is None
