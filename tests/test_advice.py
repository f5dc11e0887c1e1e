"""Advice says what the verdicts say, names what is not known, and takes nothing for equal."""

from dataclasses import replace

from harness.judge.advice import advice
from harness.judge.estimation import Estimate
from harness.results.schema import Verdict
from tests.builders import verdict


def advised(*verdicts: Verdict, error: float = 0.001) -> str:
    """The advice; what variants differ by follows from their verdicts against the baseline."""
    percents = {(each.variant, each.load): each.comparison.percent for each in verdicts}

    def compare(name: str, against: str, load: str) -> Estimate:
        ratio = (100 + percents[name, load]) / (100 + percents[against, load])
        return Estimate(ratio - 1, error, 20)

    return "\n".join(advice(list(verdicts), "steady", compare))


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
    assert "best for lone requests (at 1): steady (same within 5 %: none; undecided: none)" in text
    assert "best for many concurrent requests (at 64): batching, faster by 40 %" in text
    assert "best for a balance of both: steady; no variant" in text


def test_a_win_between_losses_is_no_crossover():
    text = advised(
        verdict("batching", "1", -70, "slower"),
        verdict("batching", "8", 20),
        verdict("batching", "64", -9, "slower"),
    )
    assert "batching beats steady at 8" in text
    assert "up" not in text


def test_a_variant_that_is_slower_nowhere_for_certain_is_the_balanced_choice():
    text = advised(verdict("half", "1", 1, "same"), verdict("half", "64", 30))
    assert (
        "a balance of both: half, faster at 1 of 2 loads and the same at the others (same" in text
    )
    open_ = verdict("half", "1", 1, "undecided", half_width=9)
    unsure = advised(open_, verdict("half", "64", 30))
    assert "balance of both: steady; no variant is known" in unsure
    assert "(undecided: half)" in unsure
    every = advised(verdict("half", "1", 10), verdict("half", "64", 30))
    assert "balance of both: half, faster at every load (same within 5 %: none; " in every


def test_what_is_undecided_but_no_loss_does_not_spoil_a_gain_elsewhere():
    text = advised(verdict("half", "1", 3, "undecided", half_width=6), verdict("half", "64", 30))
    assert "best for lone requests (at 1): steady (same within 5 %: none; undecided: half)" in text
    assert "both: half, faster at 1 of 2 loads and not slower by 5 % at the others (same" in text


def test_of_balanced_variants_the_one_that_gains_most_is_named_wherever_it_stands_in_the_list():
    def balance(*percents: tuple[str, float, float], error: float = 0.001) -> str:
        made = [
            verdict(name, load, percent, "same" if percent < 5 else "faster")
            for name, *own in percents
            for load, percent in zip(("1", "4"), own, strict=True)
        ]
        return advised(*made, error=error).partition("balance of both: ")[2]

    nobody = "(same within 5 %: none; undecided: none)"
    most = balance(("static", 17, 18), ("shared", 85, 241), ("fused", 87, 88))
    assert most == f"shared, faster at every load {nobody}"  # fused: better at 1, worse at 4
    assert balance(("a", 1, 300), ("b", 10, 10)).startswith("b, faster at every load (")
    assert balance(("a", 30, 30), ("b", 10, 48)).startswith("a, faster at every load (")
    close = balance(("a", 30, 30), ("b", 31, 32), ("c", 20, 20))
    assert close == "b, faster at every load (same within 5 %: a; undecided: none)"
    unsure = balance(("a", 30, 30), ("b", 32, 33), ("c", 20, 20), error=0.035)
    assert unsure == "b, faster at every load (same within 5 %: none; undecided: a)"


def test_a_variant_that_is_undecided_at_a_load_may_be_the_better_balance_and_is_named():
    text = advised(
        *(verdict("a", "1", 10), verdict("a", "8", 10)),
        *(verdict("b", "1", 9, "undecided", half_width=20), verdict("b", "8", 90)),
        *(verdict("c", "1", -9, "slower"), verdict("c", "8", 99)),
        verdict("d", "8", 99),
        error=0.02,
    )
    assert text.endswith("a, faster at every load (same within 5 %: none; undecided: b)")


def test_winners_that_are_the_same_are_named_together_and_others_are_not():
    text = advised(verdict("a", "1", 30), verdict("b", "1", 28), verdict("c", "1", 12))
    assert "a, faster by 30 % (same within 5 %: b; undecided: none)" in text


def test_a_runner_up_that_cannot_be_told_from_the_winner_is_undecided():
    text = advised(verdict("a", "1", 30), verdict("b", "1", 22), error=0.05)
    assert "a, faster by 30 % (same within 5 %: none; undecided: b)" in text


def test_undecided_is_never_taken_for_equal():
    text = advised(verdict("a", "1", 14, "undecided"), verdict("b", "1", 1, "same"))
    assert "steady (same within 5 %: b; undecided: a)" in text


def test_comparisons_with_other_variants_are_no_advice():
    assert advised(verdict("workers", "1", 50, against="batching")) == ""


def test_capacity_is_a_use_of_its_own_and_no_load_of_the_others():
    load = "capacity (p99 50 ms)"
    text = advised(
        verdict("half", "1", 1, "same"),
        verdict("half", "64", 30),
        verdict("batching", load, 40),
        verdict("half", load, -8, "slower"),
    )
    assert "best for many concurrent requests (at 64): half" in text
    assert "half, faster at 1 of 2 loads" in text
    assert text.endswith(
        f"best for {load}: batching, faster by 40 % (same within 5 %: none; undecided: none)"
    )
    assert "batching beats" not in text
    alone = advised(verdict("batching", load, 40))
    assert alone.startswith(f"best for {load}: batching")
