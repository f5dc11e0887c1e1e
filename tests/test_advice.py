"""Advice says what the verdicts say, and nothing where they say nothing."""

from dataclasses import replace

from harness.judge.advice import advice
from harness.results.run import Verdict
from tests.test_results import results


def verdict(variant: str, level: str, percent: float, word: str = "faster", against: str = "baseline") -> Verdict:
    text = f"{word} by {abs(percent)} %"
    return Verdict(variant, against, level, percent, (percent - 3, percent + 3), 5, word, text)


def told(*verdicts: Verdict) -> str:
    return "\n".join(advice(replace(results(), verdicts=list(verdicts))))


def test_without_verdicts_there_is_no_advice():
    assert told() == ""
    assert told(replace(verdict("batching", "1", 20), ci95=None)) == ""


def test_a_crossover_is_named_where_nothing_above_contradicts_it():
    text = told(verdict("batching", "1", -70, "slower"), verdict("batching", "8", 20), verdict("batching", "64", 40))
    assert "batching beats baseline from 8 up" in text
    assert "lone requests (at 1): baseline; nothing measured is faster" in text
    assert "many concurrent requests (at 64): batching, faster by 40 %" in text
    assert "a balance of both: baseline; no variant" in text


def test_a_win_between_losses_is_no_crossover():
    text = told(
        verdict("batching", "1", -70, "slower"), verdict("batching", "8", 20), verdict("batching", "64", -9, "slower")
    )
    assert "batching beats baseline at 8" in text
    assert "up" not in text


def test_a_variant_that_never_loses_is_the_balanced_choice():
    text = told(verdict("half", "1", 1, "no detectable difference"), verdict("half", "64", 30))
    assert "a balance of both: half, faster at 1 of 2 loads and slower at none" in text
    every = told(verdict("half", "1", 10), verdict("half", "64", 30))
    assert "half beats baseline at every load measured" in every


def test_winners_that_cannot_be_told_apart_are_named_together():
    text = told(verdict("a", "1", 30), verdict("b", "1", 28), verdict("c", "1", 12))
    assert "a, faster by 30 %, about level with b" in text
    assert "with c" not in text


def test_where_rounds_are_too_few_the_advice_says_so():
    text = told(verdict("a", "1", 14, "not enough data"))
    assert "baseline; nothing measured is faster; whether a is faster, more rounds would tell" in text


def test_comparisons_with_other_variants_are_no_advice():
    assert told(verdict("workers", "1", 50, against="batching")) == ""
