"""One setting at several values: a run each in a folder, then from where on a variant pays."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from harness import sweep as sweeping
from harness.cli import parsed
from harness.results.file import save
from harness.results.schema import Comparison, Results, Verdict
from harness.run import FILE_NAME
from harness.show.panels import Point
from harness.sweep import gain_points, gains, sweep, sweep_figure, sweep_table
from mnist_model_benchmarking.benchmark import parser
from tests.builders import failed_variant, results, variant, verdict


def run(percent: float = 20.0) -> Results:
    """A baseline, "steady", and "quick" with verdicts at two loads."""
    variants = {"steady": variant(), "quick": variant(builds_on="steady")}
    verdicts = [verdict("quick", "1", 1.0), verdict("quick", "64", percent)]
    return results(variants, verdicts=verdicts)


def swept(tmp_path: Path, monkeypatch, codes: list[int]) -> tuple[int, list[Namespace]]:
    """The exit code of a sweep whose runs end with these codes, and the options that each got."""
    seen = []

    def benchmark(suite, options):
        seen.append(options)
        suite()
        code = codes[len(seen) - 1]
        if code < 2:
            save(run(10.0 * len(seen)), options.output_dir / FILE_NAME)
        return code

    monkeypatch.setattr(sweeping, "benchmark", benchmark)
    setting = ("image-size", [28, 256, 1024])
    options = Namespace(sweep=setting, output_dir=tmp_path, image_size=28)
    return sweep(lambda here: here.image_size, options), seen


def test_every_value_is_a_run_of_its_own_and_one_picture_sums_up(tmp_path, monkeypatch, capsys):
    code, seen = swept(tmp_path, monkeypatch, [0, 1, 0])
    assert code == 1  # one of them failed
    assert [(options.image_size, options.output_dir.name) for options in seen] == [
        (28, "image-size-28"),
        (256, "image-size-256"),
        (1024, "image-size-1024"),
    ]
    assert all(options.sweep is None for options in seen)
    assert (tmp_path / "sweep_image-size.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    places = [printed.index(f"faster by {percent} %") for percent in (10, 20, 30)]
    assert places == sorted(places)


def test_a_sweep_that_is_interrupted_sums_up_what_it_has(tmp_path, monkeypatch):
    code, seen = swept(tmp_path, monkeypatch, [0, 130, 0])
    assert (code, len(seen)) == (130, 2)
    assert (tmp_path / "sweep_image-size.png").exists()


def test_a_variant_whose_step_below_was_left_out_is_judged_against_the_baseline():
    one = run()
    quick = replace(one.variants["quick"], builds_on="something that was not measured")
    left_out = replace(one, variants=one.variants | {"quick": quick})
    assert gains(left_out)["quick"].against == "steady"


def test_a_step_is_judged_at_the_highest_load():
    assert gains(run())["quick"].comparison.percent == 20.0
    assert sweep_table("image-size", {28: run()}).row_count == 2
    capacity = verdict("quick", "capacity (p99 50 ms)", 70.0)
    assert gains(replace(run(), verdicts=[*run().verdicts, capacity])) == gains(run())


def test_the_picture_names_unit_and_values_and_lacks_nothing_where_a_variant_failed():
    broken = replace(run(), variants=run().variants | {"broken": failed_variant()})
    output, gain = sweep_figure("size", {28: broken, 256: run()}).axes
    assert output.get_ylabel() == "numbers/s at the best load, correct answers only"
    assert output.get_xlabel() == gain.get_xlabel() == "size"
    assert [label.get_text() for label in output.get_xticklabels()] == ["28", "256"]
    assert sweep_table("size", {28: broken}).row_count == 3


def test_a_verdict_without_an_interval_is_told_and_not_drawn():
    unknown = Comparison(None, None, None, None, "undecided", "undecided: not measured together")
    one = replace(run(), verdicts=[Verdict("quick", "steady", "64", unknown)])
    assert gain_points({28: one, 256: run()}) == [Point("quick", 256, 20.0, (17.0, 23.0))]
    cells = [list(column.cells) for column in sweep_table("size", {28: one}).columns]
    assert cells[3][1] == "undecided: not measured together, against steady"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("colour", "1,2"), "no such setting: colour; there are image-size, images-per-request"),
        (("image-size", "1,x"), "'x' is no whole number above 0; values are listed as in 1,8,64"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_with_one_sentence(words, reason, capsys):
    with pytest.raises(SystemExit):
        parsed(parser(), ["--sweep", *words])
    assert reason in capsys.readouterr().err


def test_a_sweep_is_short_unless_it_is_asked_to_be_longer():
    sweep_words = ["--sweep", "image-size", "28,256"]
    short = parsed(parser(), sweep_words)
    assert (short.concurrency, short.minutes, short.epochs) == ([32], 3.0, 2)
    longer = parsed(parser(), [*sweep_words, "--concurrency", "1,8", "--minutes", "5"])
    assert (longer.concurrency, longer.minutes, longer.epochs) == ([1, 8], 5.0, 2)
    assert parsed(parser(), []).sweep is None
