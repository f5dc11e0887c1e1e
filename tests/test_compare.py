"""Comparing two result files: verdicts per row, exit codes, and what is refused."""

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from harness.compare import main
from harness.judge.comparison import more_fail
from harness.results.file import save
from harness.results.schema import SCHEMA_VERSION
from harness.suite import read_results
from tests.builders import (
    MACHINE,
    capacity_window,
    failed_variant,
    judged_results,
    load_result,
    row,
)

ROOT = Path(__file__).parent.parent


def file(path, factor: float = 1.0, noise: float = 0.02, **changes):
    """A result file of a server whose requests take `factor` times as long."""
    rates = {"steady": 100.0 / factor}
    made = judged_results(rates, noise=noise, seed=int(100 * factor), drift=0.01)
    save(replace(made, **changes), path)
    return path


def compare(*arguments) -> subprocess.CompletedProcess:
    """What `python -m harness.compare` prints and ends with, without starting a process."""
    out, err = io.StringIO(), io.StringIO()
    command = ["harness.compare", *map(str, arguments)]
    with (
        patch.object(sys, "argv", command),
        redirect_stdout(out),
        redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    return subprocess.CompletedProcess(command, ended.value.code, out.getvalue(), err.getvalue())


def test_a_file_compared_with_itself_holds(tmp_path):
    old = file(tmp_path / "old.json")
    done = compare(old, old)
    assert done.returncode == 0
    assert "not slower by 10 %" in done.stdout
    assert "no regression" in done.stdout


def test_capacities_are_no_rows_and_an_slo_keeps_no_two_files_apart(tmp_path):
    windows = [capacity_window("steady", rate, late, 400) for rate, late in ((80, 0), (100, 30))]
    asked = {"epochs": 3, "minutes": 8.0, "rate": None, "slo_p99_ms": 60.0}
    new = file(tmp_path / "new.json", capacity_windows=windows, settings=asked)
    done = compare(file(tmp_path / "old.json"), new, "--json")
    assert done.returncode == 0
    assert [row["load"] for row in json.loads(done.stdout)["rows"]] == ["1"]


def test_a_loss_whose_interval_lies_beyond_the_threshold_is_a_regression(tmp_path):
    files = file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.4)
    done = compare(*files)
    assert done.returncode == 1
    assert "slower by 2" in done.stdout
    better = compare(*reversed(files))
    assert better.returncode == 0
    assert "faster by 4" in better.stdout


def test_a_loss_that_may_be_within_the_threshold_is_inconclusive_not_no_regression(tmp_path):
    files = file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.12)
    done = compare(*files)
    assert done.returncode == 3
    assert "inconclusive: between -" in done.stdout
    assert compare(*files, "--threshold", "30").returncode == 0


def test_files_that_know_too_little_are_inconclusive_and_say_how_long_it_would_take(tmp_path):
    files = (file(tmp_path / name, noise=0.4) for name in ("old.json", "new.json"))
    done = compare(*files)
    assert done.returncode == 3
    assert "more minutes" in done.stdout.replace("\n", " ")


def test_the_interval_contains_what_runs_of_one_day_differ_by(tmp_path):
    """Without it, two files of a quiet hour would be certain of a difference of 3 %."""
    files = (file(tmp_path / name, factor, 0.001) for name, factor in (("a", 1.0), ("b", 1.03)))
    assert compare(*files, "--threshold", "2").returncode == 3


def test_json_holds_every_row_for_programs(tmp_path):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", 1.4), "--json")
    printed = json.loads(done.stdout)
    assert printed["summary"] == "regression"
    (pair,) = printed["rows"]
    assert (pair["variant"], pair["load"], pair["outcome"]) == ("steady", "1", "regression")
    assert pair["percent"] == pytest.approx(-29, abs=4)
    assert pair["ci95"][0] < pair["percent"] < pair["ci95"][1]


def test_more_failed_requests_are_a_regression_and_as_many_as_before_are_not(tmp_path):
    good, some, many = (row(load_result(failures=failures)) for failures in (0, 3, 60))
    assert not more_fail(good, good)
    assert not more_fail(some, some)
    assert more_fail(some, many)
    assert not more_fail(many, some)
    made = judged_results({"steady": 100.0})
    worse = replace(made.variants["steady"], rows=[many])
    save(made, tmp_path / "old.json")
    save(replace(made, variants={"steady": worse}), tmp_path / "new.json")
    done = compare(tmp_path / "old.json", tmp_path / "new.json")
    assert done.returncode == 1
    assert "60 of 300 requests fail now" in done.stdout


def test_a_variant_that_fails_or_is_missing_now_is_a_regression(tmp_path):
    both = judged_results({"steady": 100.0, "other": 100.0})
    save(both, tmp_path / "old.json")
    failed = both.variants | {"other": failed_variant()}
    save(replace(both, variants=failed), tmp_path / "failed.json")
    done = compare(tmp_path / "old.json", tmp_path / "failed.json")
    assert done.returncode == 1
    assert "fails now: it ended with 1" in done.stdout
    save(judged_results({"steady": 100.0}), tmp_path / "missing.json")
    gone = compare(tmp_path / "old.json", tmp_path / "missing.json")
    assert gone.returncode == 1
    assert "was not measured now" in gone.stdout


def test_a_run_that_was_interrupted_is_refused(tmp_path):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", complete=False))
    assert done.returncode == 2
    assert "the new run was interrupted" in done.stderr


def test_a_new_kernel_and_kilobytes_of_memory_are_the_same_kind_of_machine(tmp_path):
    changed = MACHINE | {"os": "a newer kernel", "memory_bytes": 24 * 2**30 - 4096}
    before = file(tmp_path / "old.json", machine=MACHINE | {"memory_bytes": 24 * 2**30})
    assert compare(before, file(tmp_path / "new.json", machine=changed)).returncode == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suite": "letters"}, "suite numbers, the other of letters"),
        (
            {"settings": {"epochs": 3, "minutes": 8.0, "rate": None, "size": 256}},
            "size None and 256",
        ),
        ({"machine": MACHINE | {"instruction_sets": ["avx2", "amx_bf16"]}}, "--across-machines"),
    ],
)
def test_what_is_not_comparable_is_refused_with_one_sentence(tmp_path, changes, words):
    done = compare(file(tmp_path / "old.json"), file(tmp_path / "new.json", **changes))
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_other_machines_are_compared_when_asked_to(tmp_path):
    files = file(tmp_path / "old.json"), file(tmp_path / "new.json", machine=MACHINE | {"cpu": "x"})
    assert compare(*files).returncode == 2
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


def test_two_files_of_language_models_are_compared_by_their_windows(tmp_path):
    """The published file beside a copy in which one variant has half the rate."""
    published, *_ = sorted(ROOT.glob("llm_model_benchmarking/metrics/published/*/*.json"))
    assert compare(published, published, "--threshold", "20").returncode == 0
    run = read_results(published)
    slower = [
        replace(window, requests_per_second=window.requests_per_second / 2)
        if window.variant == "static_kv_compile"
        else window
        for window in run.windows
    ]
    save(replace(run, windows=slower), tmp_path / "new.json")
    done = compare(published, tmp_path / "new.json", "--threshold", "20", "--json")
    assert done.returncode == 1
    outcomes = {row["variant"]: row["outcome"] for row in json.loads(done.stdout)["rows"]}
    assert outcomes["static_kv_compile"] == "regression"
    assert outcomes["baseline"] == outcomes["quantised_8bit"] == "holds"


@pytest.mark.parametrize("percent", ["nan", "-5", "0"])
def test_a_threshold_that_is_no_share_is_refused(percent, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["compare", "old.json", "new.json", "--threshold", percent])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"'{percent}' is no number above 0" in capsys.readouterr().err
