"""Advice says what the verdicts say, and nothing where they say nothing."""

from dataclasses import replace

from harness.judge.advice import advice
from harness.results.run import Verdict
from tests.builders import results, verdict


def advised(*verdicts: Verdict) -> str:
    return "\n".join(advice(results(verdicts=list(verdicts))))


def test_without_verdicts_there_is_no_advice():
    assert advised() == ""
    unsure = verdict("batching", "1", 20)
    assert advised(replace(unsure, comparison=replace(unsure.comparison, ci95=None))) == ""


def test_a_crossover_is_named_where_nothing_above_contradicts_it():
    text = advised(
        verdict("batching", "1", -70, "slower"),
        verdict("batching", "8", 20),
        verdict("batching", "64", 40),
    )
    assert "batching beats steady from 8 up" in text
    assert "lone requests (at 1): steady; nothing measured is faster" in text
    assert "many concurrent requests (at 64): batching, faster by 40 %" in text
    assert "a balance of both: steady; no variant" in text


def test_a_win_between_losses_is_no_crossover():
    text = advised(
        verdict("batching", "1", -70, "slower"),
        verdict("batching", "8", 20),
        verdict("batching", "64", -9, "slower"),
    )
    assert "batching beats steady at 8" in text
    assert "up" not in text


def test_a_variant_that_never_loses_is_the_balanced_choice():
    text = advised(verdict("half", "1", 1, "no detectable difference"), verdict("half", "64", 30))
    assert "a balance of both: half, faster at 1 of 2 loads and slower at none" in text
    every = advised(verdict("half", "1", 10), verdict("half", "64", 30))
    assert "half beats steady at every load measured" in every


def test_winners_that_cannot_be_told_apart_are_named_together():
    text = advised(verdict("a", "1", 30), verdict("b", "1", 28), verdict("c", "1", 12))
    assert "a, faster by 30 %, about level with b" in text
    assert "with c" not in text


def test_where_epochs_are_too_few_the_advice_says_so():
    text = advised(verdict("a", "1", 14, "not enough data"))
    assert "steady; nothing measured is faster; whether a is faster, more epochs would tell" in text


def test_comparisons_with_other_variants_are_no_advice():
    assert advised(verdict("workers", "1", 50, against="batching")) == ""
