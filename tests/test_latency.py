"""Percentiles that enough requests back."""

import pytest

from harness.load import latency


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
