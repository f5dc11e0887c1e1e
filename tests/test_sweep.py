"""One setting at several values: a run each in a folder of its own, then from where on a variant pays."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from harness import sweep as sweeping
from harness.cli import parsed
from harness.results.file import save
from harness.results.run import Verdict
from harness.sweep import steps, sweep, table
from mnist_model_benchmarking.benchmark import parser
from tests.test_results import results


def found(percent: float = 20.0):
    """Baseline and batching with a verdict at two loads."""
    one = results()
    baseline = one.variants["baseline"]
    verdicts = [
        Verdict("batching", "baseline", load, gain, (gain - 2, gain + 2), 3, "faster", f"faster by {gain:.0f} %")
        for load, gain in (("1", 1.0), ("64", percent))
    ]
    return replace(
        one,
        variants={"baseline": baseline, "batching": replace(baseline, builds_on="baseline")},
        verdicts=verdicts,
        machine=one.machine | {"gpus": []},
    )


def swept(tmp_path: Path, monkeypatch, codes: list[int]) -> tuple[int, list[Namespace]]:
    """The exit code of a sweep whose runs end with these codes, and the options that each got."""
    seen = []

    def benchmark(suite, options):
        seen.append(options)
        suite()
        if codes[len(seen) - 1] < 2:
            save(found(10.0 * len(seen)), options.output_dir / "benchmark_results.json")
        return codes[len(seen) - 1]

    monkeypatch.setattr(sweeping, "benchmark", benchmark)
    options = Namespace(sweep=("image-size", [28, 256, 1024]), output_dir=tmp_path, image_size=28, rounds=3)
    return sweep(lambda here: here.image_size, options), seen


def test_every_value_is_a_run_of_its_own_and_one_picture_sums_up(tmp_path, monkeypatch, capsys):
    code, seen = swept(tmp_path, monkeypatch, [0, 1, 0])
    assert code == 1  # one of them failed
    assert [(options.image_size, options.output_dir.name) for options in seen] == [
        (28, "image-size-28"), (256, "image-size-256"), (1024, "image-size-1024"),
    ]  # fmt: skip
    assert all(options.sweep is None for options in seen)
    assert (tmp_path / "sweep_image-size.png").stat().st_size > 10_000
    told = capsys.readouterr().out
    assert told.index("faster by 10 %") < told.index("faster by 20 %") < told.index("faster by 30 %")


def test_a_sweep_that_is_stopped_sums_up_what_it_has(tmp_path, monkeypatch):
    code, seen = swept(tmp_path, monkeypatch, [0, 130, 0])
    assert (code, len(seen)) == (130, 2)
    assert (tmp_path / "sweep_image-size.png").exists()


def test_a_variant_whose_step_below_was_left_out_is_judged_against_the_baseline():
    one = found()
    batching = replace(one.variants["batching"], builds_on="something that was not measured")
    assert steps(replace(one, variants=one.variants | {"batching": batching}))["batching"].against == "baseline"


def test_a_step_is_judged_at_the_highest_load():
    assert steps(found())["batching"].percent == 20.0
    assert table("image-size", {28: found()}).row_count == 2


@pytest.mark.parametrize(("words", "reason"), [
    (("colour", "1,2"), "no such setting: colour; there are image-size, images-per-request"),
    (("image-size", "1,x"), "1,x is no list of positive numbers"),
])  # fmt: skip
def test_a_sweep_that_makes_no_sense_is_refused_with_one_sentence(words, reason, capsys):
    with pytest.raises(SystemExit):
        parsed(parser(), ["--sweep", *words])
    assert reason in capsys.readouterr().err


def test_a_sweep_is_short_unless_it_is_asked_to_be_longer():
    assert parsed(parser(), ["--sweep", "image-size", "28,256"]).concurrency == [32]
    assert parsed(parser(), ["--sweep", "image-size", "28,256", "--concurrency", "1,8"]).concurrency == [1, 8]
    assert parsed(parser(), []).sweep is None
