"""From records to verdicts: which turns are compared, and which are not counted."""

import pytest

from harness.results.summary import Measurement, Record
from harness.load.job import Load
from harness.suite import Variant
from harness.judge.verdicts import paired, verdicts

VARIANTS = [Variant("plain", None), Variant("better", "plain"), Variant("best", "better")]


def record(*rates: float, wrong: int = 0) -> Record:
    found = Record()
    for round_, value in enumerate(rates):
        load = Load(0.0, 1.0, outcome=["wrong_answer"] * wrong, right_in_window=int(value))
        found.measurements["1"].append((round_, Measurement(load, None, None, None, None)))
    return found


def found(**records: list[Record]):
    return verdicts(VARIANTS, ["1"], lambda name: records.get(name, []), {"1": 1.0})


def test_two_baselines_of_a_round_count_as_their_geometric_mean():
    new, old = paired([record(100, 200, 300)], [record(100, 400), record(400, 100)], "1")
    assert new == [100, 200]
    assert old == pytest.approx([200, 200])


def test_every_variant_meets_the_baseline_and_the_one_it_builds_on():
    told = found(plain=[record(100, 101)], better=[record(150, 152)], best=[record(200, 203)])
    assert [(v.variant, v.against, v.verdict) for v in told] == [
        ("better", "plain", "faster"), ("best", "plain", "faster"), ("best", "better", "faster"),
    ]  # fmt: skip


def test_a_variant_that_was_not_measured_meets_nobody():
    assert [v.variant for v in found(plain=[record(1, 2)], best=[record(1, 2)])] == ["best"]


def test_a_row_with_wrong_answers_carries_no_verdict():
    verdict = found(plain=[record(50, 50)], better=[record(50, 50, wrong=2)])[0]
    assert verdict.verdict == "not counted"
    assert verdict.text == "not counted: 4 wrong answers"
