"""From records to verdicts: which epochs are compared, and which are not counted."""

import pytest

from harness.judge.verdicts import paired, verdicts
from harness.measure.window import Record
from tests.builders import record

BUILDS_ON = {"plain": None, "better": "plain", "best": "better"}


def judged(**records: list[Record]):
    return verdicts(BUILDS_ON, ["1"], lambda name: records.get(name, []), {"1": 1.0})


def test_two_baselines_of_an_epoch_count_as_their_geometric_mean():
    new, old = paired([record(100, 200, 300)], [record(100, 400), record(400, 100)], "1")
    assert new == [100, 200]
    assert old == pytest.approx([200, 200])


def test_every_variant_meets_the_baseline_and_the_one_it_builds_on():
    made = judged(plain=[record(100, 101)], better=[record(150, 152)], best=[record(200, 203)])
    assert [(each.variant, each.against, each.comparison.verdict) for each in made] == [
        ("better", "plain", "faster"),
        ("best", "plain", "faster"),
        ("best", "better", "faster"),
    ]


def test_a_variant_that_was_not_measured_meets_nobody():
    made = judged(plain=[record(1, 2)], best=[record(1, 2)])
    assert [each.variant for each in made] == ["best"]


def test_a_row_with_wrong_answers_carries_no_verdict():
    (made,) = judged(plain=[record(50, 50)], better=[record(50, 50, wrong=2)])
    assert made.comparison.verdict == "not counted"
    assert made.comparison.text == "not counted: 4 wrong answers"


def test_an_epoch_without_any_correct_answer_is_left_out():
    (made,) = judged(plain=[record(50, 50, 50)], better=[record(50, 0, 50)])
    assert made.comparison.ratios == 2
