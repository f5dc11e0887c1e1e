"""From raw windows to verdicts: who meets whom, the four words, and what is not counted."""

import math
import re
from dataclasses import replace

import numpy
import pytest

from harness.judge.estimation import Estimate
from harness.judge.judgement import judged
from harness.judge.verdicts import (
    excluded,
    is_no_loss,
    load_fits,
    minutes_more,
    verdicts,
    widest_percent,
)
from harness.results.file import save
from harness.suite import read_results
from tests.builders import comparison, judged_results, results, variant, window_record, windows_of

RATES = {"plain": 100.0, "better": 150.0, "best": 200.0}


def words(made) -> dict[tuple[str, str], str]:
    return {(each.variant, each.against): each.comparison.verdict for each in made.verdicts}


def test_every_variant_meets_the_baseline_and_the_one_it_builds_on():
    made = judged_results(RATES, {"best": "better"})
    assert words(made) == {
        ("better", "plain"): "faster",
        ("best", "plain"): "faster",
        ("best", "better"): "faster",
    }
    text = made.verdicts[0].comparison.text
    assert re.fullmatch(r"faster by (48|49|50|51|52) % \[\d\d, \d\d\]", text)


def test_a_loss_is_called_slower_by_a_positive_amount():
    made = judged_results({"plain": 100.0, "worse": 80.0})
    comparison = made.verdicts[0].comparison
    assert comparison.verdict == "slower"
    assert comparison.text.startswith("slower by 2")
    assert comparison.ci95[0] < comparison.percent < comparison.ci95[1] < 0


def test_what_is_within_five_percent_for_certain_is_the_same():
    made = judged_results({"plain": 100.0, "twin": 100.0}, noise=0.005)
    assert made.verdicts[0].comparison.text.startswith("same within 5 % [")


def test_what_cannot_be_told_is_undecided_with_its_bounds_and_the_time_it_would_take():
    made = judged_results({"plain": 100.0, "near": 104.0}, noise=0.1)
    comparison = made.verdicts[0].comparison
    assert comparison.verdict == "undecided"
    assert "undecided: between -" in comparison.text
    assert comparison.text.endswith(" more minutes")


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-3, 8, ", not slower by 5 %"),
        (6, 30, ", which may be chance among 20 comparisons"),
        (-30, -6, ", which may be chance among 20 comparisons"),
        (-8, 3, ", not faster by 5 %"),
        (-8, 9, ""),
        (-4.6, 8, ""),  # shown as -5
    ],
)
def test_what_is_undecided_says_which_difference_it_excludes(low, high, words):
    assert excluded(low, high, 20) == words


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (comparison(9, "faster"), True),
        (comparison(1, "same", half_width=6), True),
        (comparison(3, "undecided", half_width=6), True),
        (comparison(-1, "slower", half_width=0.5), True),
        (comparison(-3, "undecided", half_width=6), False),
        (comparison(-9, "slower"), False),
        (replace(comparison(0, "not counted"), ci95=None), False),
    ],
)
def test_what_is_known_to_be_no_loss(made, expected):
    assert is_no_loss(made) is expected


def test_the_time_it_would_take_follows_the_square_root_law():
    certain = Estimate(0.10, 0.10, 100)
    reach = certain.interval(0.95)[1] - 0.10
    expected = math.ceil(8 * ((reach / 0.10) ** 2 - 1))
    assert minutes_more(certain, 1, 8) == f"; about {expected} more minutes"
    assert minutes_more(Estimate(0.0499, 5.0, 100), 1, 8) == "; hours more"
    assert minutes_more(Estimate(0.10, 0.04, 100), 1, 8) == "; about 1 more minute"


def test_of_many_comparisons_one_that_looks_significant_by_itself_is_not_called():
    """Holm: p = 0.03 by itself is 20 times as much among 20."""
    windows = [
        each
        for load in range(20)
        for each in windows_of({"plain": 100.0, "twin": 100.0}, 0.05, load=str(load), seed=load)
    ]
    fits = load_fits(windows, [str(load) for load in range(20)])
    made = verdicts(fits, {"plain": None, "twin": "plain"}, "plain", 8)
    alone = [fit.variants("twin", "plain").p_value for fit in fits.values()]
    assert min(alone) < 0.05
    assert {each.comparison.verdict for each in made} <= {"undecided", "same"}
    said = min(made, key=lambda each: alone[int(each.load)]).comparison.text
    assert "which may be chance among 20 comparisons" in said


def test_a_variant_that_was_not_measured_meets_nobody():
    assert words(judged_results({"plain": 100.0, "best": 200.0}, {"best": "better"})) == {
        ("best", "plain"): "faster"
    }


def test_wrong_answers_carry_no_verdict_however_fast():
    windows = windows_of({"plain": 50.0, "better": 500.0})
    wrong = {"sent": 50, "ok": 48, "wrong_answer": 2}
    windows[1] = window_record("better", 480.0, requests=wrong)
    both = {"plain": variant(), "better": variant(builds_on="plain")}
    (made,) = judged(results(both, windows=windows)).verdicts
    assert made.comparison.verdict == "not counted"
    assert made.comparison.text == "not counted: 2 wrong answers"
    assert judged(results(both, windows=windows)).best["1"].variant == "plain"


def test_one_block_gives_no_interval_and_no_verdict():
    made = judged_results({"plain": 100.0, "better": 200.0}, epochs=1, blocks=1)
    assert made.verdicts[0].comparison.text == "undecided: not measured together in two blocks"
    assert widest_percent(made.verdicts) == {"1": math.inf}


def test_the_control_counts_for_the_baseline_and_is_compared_with_it():
    windows = windows_of(RATES, control="plain", seed=1)
    (fit,) = load_fits(windows, ["1"]).values()
    assert fit.servers["plain"] == ["plain", "control"]
    both = {name: variant(builds_on=None if name == "plain" else "plain") for name in RATES}
    made = judged(results(both, windows=windows))
    assert made.aa_control["1"].ci95[0] < 0 < made.aa_control["1"].ci95[1]
    alone = judged(results(both, windows=[w for w in windows if w.server != "control"]))
    assert alone.aa_control == {}
    assert (
        made.verdicts[0].comparison.resolution_percent
        < alone.verdicts[0].comparison.resolution_percent
    )


def test_a_rows_rate_is_the_geometric_mean_and_its_ratios_are_the_verdicts():
    windows = windows_of(RATES)
    (fit,) = load_fits(windows, ["1"]).values()
    plain = [each.requests_per_second for each in windows if each.server == "plain"]
    assert fit.rate("plain").mean == pytest.approx(float(numpy.exp(numpy.mean(numpy.log(plain)))))
    made = judged_results(RATES)
    ratio = fit.rate("better").mean / fit.rate("plain").mean
    assert made.verdicts[0].comparison.percent == pytest.approx(100 * (ratio - 1))
    low, high = fit.rate("plain").ci95
    assert low < fit.rate("plain").mean < high


def test_the_raw_windows_of_a_file_give_back_the_verdicts_that_the_run_printed(tmp_path):
    made = judged_results(RATES, {"best": "better"})
    save(made, tmp_path / "r.json")
    read = read_results(tmp_path / "r.json")
    assert judged(read) == made
