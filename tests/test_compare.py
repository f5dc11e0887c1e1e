"""Comparing two result files: verdicts per row, exit codes, and what is refused."""

import json
import subprocess
import sys

import numpy
import pytest
import scipy.stats

from harness.judge.statistics import compared_unpaired
from harness.results.file import save
from harness.results.run import SCHEMA_VERSION
from tests.builders import failed_variant, load_result, results, row, variant

EPOCHS = (0.0100, 0.0101, 0.0099)


def file(path, factor: float = 1.0, **changes):
    """A result file whose requests take `factor` times as long."""
    steady = variant(row(*(load_result(factor * seconds) for seconds in EPOCHS)))
    save(results({"steady": steady}, **changes), path)
    return path


def compare(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.compare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_file_compared_with_itself_does_not_differ(tmp_path):
    old = file(tmp_path / "old.json")
    done = compare(old, old)
    assert done.returncode == 0
    assert "no detectable difference" in done.stdout
    assert "no regression" in done.stdout


def test_epochs_that_are_a_fifth_slower_are_a_regression(tmp_path):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.25))
    assert done.returncode == 1
    assert "slower by 20 % [1" in done.stdout
    faster = compare(tmp_path / "new.json", tmp_path / "old.json")
    assert faster.returncode == 0
    assert "faster by 25 %" in faster.stdout


def test_a_threshold_tolerates_what_is_below_it(tmp_path):
    files = file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.25)
    assert compare(*files, "--threshold", "25").returncode == 0
    assert compare(*files, "--threshold", "15").returncode == 1


def test_a_loss_inside_the_noise_floor_is_none(tmp_path):
    files = (
        file(tmp_path / "old.json", noise_floor_percent={"1": 30.0}),
        file(tmp_path / "new.json", 1.25),
    )
    done = compare(*files)
    assert done.returncode == 0
    assert "no detectable difference (< 30 %)" in done.stdout


def test_json_holds_every_row_for_programs(tmp_path):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.25), "--json")
    printed = json.loads(done.stdout)
    assert printed["regression"] is True
    (pair,) = printed["rows"]
    assert (pair["variant"], pair["load"]) == ("steady", "1")
    assert pair["comparison"]["percent"] == pytest.approx(-20, abs=0.5)
    assert (
        pair["comparison"]["ci95"][0]
        < pair["comparison"]["percent"]
        < pair["comparison"]["ci95"][1]
    )


def test_rows_with_failed_requests_are_not_counted_and_new_failures_are_a_regression(tmp_path):
    save(results(), tmp_path / "good.json")
    bad = variant(row(*[load_result(failures=3)] * 3))
    save(results({"steady": bad}), tmp_path / "bad.json")
    done = compare(tmp_path / "good.json", tmp_path / "bad.json")
    assert done.returncode == 1
    assert "not counted: 0 requests failed before, 9 now" in done.stdout
    assert compare(tmp_path / "bad.json", tmp_path / "good.json").returncode == 0


def test_a_variant_that_fails_now_is_a_regression(tmp_path):
    save(results({"steady": failed_variant(builds_on=None)}), tmp_path / "new.json")
    done = compare(file(tmp_path / "old.json"), tmp_path / "new.json")
    assert done.returncode == 1
    assert "fails now: it ended with 1" in done.stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suite": "letters"}, "suite numbers, the other of letters"),
        (
            {"settings": {"epochs": 3, "duration": 3.0, "rate": None, "size": 256}},
            "size None and 256",
        ),
        ({"machine": {"cpu": "another", "usable_cores": 2, "gpus": []}}, "--across-machines"),
    ],
)
def test_what_is_not_comparable_is_refused_with_one_sentence(tmp_path, changes, words):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", **changes))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_other_machines_are_compared_when_asked_to(tmp_path):
    other = {"cpu": "another", "usable_cores": 2, "gpus": []}
    files = file(tmp_path / "old.json"), file(tmp_path / "new.json", machine=other)
    assert compare(*files, "--across-machines").returncode == 0


def test_broken_files_are_refused_with_one_sentence(tmp_path):
    old = file(tmp_path / "old.json")
    text = old.read_text()
    other = text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99')
    broken = {"truncated": text[: len(text) // 2], "another version": other, "no object": "[]"}
    for name, content in broken.items():
        (tmp_path / "new.json").write_text(content)
        done = compare(old, tmp_path / "new.json")
        assert done.returncode == 2, name
        assert len(done.stderr.strip().splitlines()) == 1
        assert "new.json" in done.stderr
    assert compare(old, tmp_path / "nowhere.json").returncode == 2


def test_the_interval_of_unpaired_epochs_is_welchs():
    random_state = numpy.random.default_rng(3)
    new, old = (
        numpy.exp(random_state.normal(5, 0.1, 6)),
        numpy.exp(random_state.normal(4.9, 0.2, 9)),
    )
    made = compared_unpaired(list(new), list(old), 0.0)
    variances = numpy.var(numpy.log(new), ddof=1) / 6, numpy.var(numpy.log(old), ddof=1) / 9
    freedom = sum(variances) ** 2 / (variances[0] ** 2 / 5 + variances[1] ** 2 / 8)
    margin = scipy.stats.t.ppf(0.975, freedom) * numpy.sqrt(sum(variances))
    centre = numpy.log(new).mean() - numpy.log(old).mean()
    assert made.percent == pytest.approx(100 * numpy.expm1(centre))
    assert made.ci95 == pytest.approx(
        (100 * numpy.expm1(centre - margin), 100 * numpy.expm1(centre + margin))
    )


def test_one_epoch_carries_no_verdict_between_files():
    assert compared_unpaired([80.0], [100.0], 1.0).verdict == "not enough data"
    assert compared_unpaired([], [100.0], 1.0).percent is None
