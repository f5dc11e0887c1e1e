"""Rows and the result file: what is counted, what is doubted, and the same after a round trip."""

import itertools
import json
import math
import random
import re
from dataclasses import replace

import pytest

from harness.load.job import LoadResult
from harness.measure.window import OfferedLoad
from harness.results.doubts import unsteady_machine
from harness.results.file import UnusableResultsError, save
from harness.results.percentiles import lacked_by_bootstrap, widened
from harness.results.rows import Rate
from harness.results.schema import SCHEMA_VERSION
from harness.results.summary import record_of, row_of
from harness.show.columns import latency_text
from harness.suite import read_results
from tests.builders import (
    NO_USAGE,
    USAGE,
    http,
    load_result,
    rate,
    results,
    row,
    variant,
    window,
    window_record,
    worker,
)


def test_results_are_the_same_after_a_round_trip(tmp_path):
    save(results(), tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == results()


@pytest.mark.parametrize(
    ("rate_sd", "cost_sd", "said"),
    [(0.2, 0.2, True), (0.2, 0.01, False), (0.01, 0.2, False)],
    ids=["both vary", "rates alone", "CPU time alone"],
)
def test_a_machine_may_be_unsteady_if_rates_vary_and_with_them_the_cpu_time_of_a_request(
    rate_sd, cost_sd, said
):
    chance, windows = random.Random(0), []
    for server, level in itertools.product(["steady", "quick"], [1.0, 10.0]):
        for _ in range(100):
            reached = 100 * level * math.exp(chance.gauss(0, rate_sd))
            cpu_s = {"client": 0.5 * reached * 0.001 * math.exp(chance.gauss(0, cost_sd))}
            windows.append(window_record(server, reached, load=f"{level:g}", cpu_s=cpu_s))
    sentences = unsteady_machine(windows)
    assert bool(sentences) == said
    if said:
        assert re.search(r"CPU time per request varied by (19|20|21) % between", *sentences)
    assert unsteady_machine(windows[:10]) == []  # too few to tell
    launches = [replace(each, epoch=epoch) for epoch, each in enumerate(windows)]
    assert unsteady_machine(launches) == []  # launches may differ
    assert unsteady_machine([replace(each, cpu_s=None) for each in windows]) == []


def test_missing_is_null_in_the_file(tmp_path):
    save(results(), tmp_path / "r.json")
    entry = json.loads((tmp_path / "r.json").read_text())["variants"]["steady"]["rows"][0]
    assert entry["gpu_percent"] is None
    assert entry["breakdown_ms"] is None


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="finite"):
        Rate(math.nan)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save(results(), tmp_path / "r.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(results(settings={"bad": math.inf}), tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == results()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "schema version None"),
        ('{"schema_version": 2}', f"schema version 2; this program reads {SCHEMA_VERSION}"),
        (f'{{"schema_version": {SCHEMA_VERSION}}}', "unknown folder"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "package": "os"}}', "unknown folder"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "package": ".."}}', "unknown folder"),
        (f'{{"schema_version": {SCHEMA_VERSION}, "package": "tests.numbers"}}', "does not fit"),
    ],
)
def test_what_is_no_result_is_refused_with_one_sentence(tmp_path, text, reason):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UnusableResultsError, match=reason):
        read_results(tmp_path / "r.json")


def test_only_correct_answers_count_as_throughput():
    made = row(load_result(count=300, failures=100))
    assert made.requests["ok"] == 200
    assert made.requests_per_second.mean == pytest.approx(200 / 3)
    assert made.warnings == ["failed requests: 100 connection_error"]


def test_http_errors_are_counted_by_status_in_the_row_and_in_the_file(tmp_path):
    loads = [load_result(failures=3, statuses={503: 2, 413: 1}), load_result(statuses={503: 5})]
    made = row(*loads)
    assert made.http_statuses == {"413": 1, "503": 7}
    kept = results({"steady": variant(rows=[made])})
    save(kept, tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == kept


def test_output_is_counted_in_the_suites_unit():
    made = row_of(OfferedLoad(1), [window()], rate(100.0), 64, None, {})
    assert made.output_per_second.mean == pytest.approx(6400)
    assert made.output_per_second.ci95 == pytest.approx((6400 / 1.04, 6400 * 1.04))
    assert made.output_per_second.resolution_percent == 4.0


def test_percentiles_need_enough_requests_of_all_windows():
    assert row(load_result(count=300)).latency_ms["p99"] is None
    assert row(*[load_result(count=300)] * 3).latency_ms["p99"] == pytest.approx(10)


def test_percentiles_of_several_blocks_have_intervals():
    made = row(load_result(0.01), load_result(0.02), load_result(0.02))
    assert made.latency_ms["p50"] == pytest.approx(20)
    expected = pytest.approx(widened(20, 10, 20, lacked_by_bootstrap(3)))
    assert made.latency_ci95_ms["p50"] == made.latency_ci95_ms["p99"] == expected
    assert set(row(load_result(count=1000)).latency_ci95_ms.values()) == {None}


def test_a_latency_stands_with_three_figures_and_its_interval_or_not_at_all():
    values = {"p50": 123.4, "p95": 12.34, "p99": 1.234}
    ci95 = {"p50": (1000.4, 1200.6), "p95": (11.96, 13.0), "p99": (1.2, 1.3)}
    texts = [latency_text(name, values, ci95) for name in values]
    assert texts == ["123 [1,000, 1,201]", "12.3 [12.0, 13.0]", "1.23 [1.20, 1.30]"]
    assert latency_text("p50", {"p50": None}, {"p50": None}) == "–"
    assert latency_text("p50", {"p50": 1.0}, {"p50": None}) == "–"


def test_the_workers_part_of_a_row_follows_from_what_they_did():
    work = {"queue_wait": 0.0, "predict": 0.5}
    workers = [worker(30, busy_s=0.6, **work), worker(10, busy_s=0.2, **work)]
    made = row_of(OfferedLoad(1), [window(workers=workers)], rate(100.0), 1, None, {})
    assert made.worker_shares == [0.75, 0.25]
    assert made.mean_batch_size == 1
    assert made.batch_sizes == {1: 40}
    assert made.worker_busy_percent == pytest.approx(100 * 0.8 / 40 * 100 / 2)


def test_workers_of_another_api_and_stages_that_nobody_clocks_are_left_out():
    own = worker(10, busy_s=0.5, queue_wait=0.1, predict=0.5)
    other = worker(0, queue_wait=0.0, decode=0.0, collate=0.0)
    made = row_of(OfferedLoad(1), [window(workers=[other, own])], rate(100.0), 1, None, {})
    assert list(made.breakdown_ms) == ["queue_wait", "predict", "unexplained"]
    assert made.breakdown_ms["predict"] == pytest.approx(50)
    unclocked = [worker(10, queue_wait=0.1)]
    made = row_of(OfferedLoad(1), [window(workers=unclocked)], rate(100.0), 1, None, {})
    assert list(made.breakdown_ms) == ["queue_wait", "unexplained"]
    assert made.worker_busy_percent is None


def test_a_good_row_carries_no_warning():
    assert row(concurrency=1).warnings == []


def test_a_concurrency_that_was_not_reached_is_noticed():
    (warning,) = row(load_result(), concurrency=8).warnings
    assert "mean concurrency only 1.0 of 8 (Little's law)" in warning


def test_a_row_known_worse_than_asked_is_flagged_with_what_to_try():
    (warning,) = row(resolution_percent=12.0).warnings
    assert "known to ± 12 % only, not to 10 %" in warning
    assert "--minutes" in warning
    (warning,) = row(resolution_percent=10.04).warnings
    assert "known to ± 10.1 % only, not to 10 %" in warning
    assert row(resolution_percent=9.0).warnings == []
    assert row(resolution_percent=None).warnings == []


def test_windows_that_differ_are_no_doubt_by_themselves():
    assert row(load_result(0.01), load_result(0.02), load_result(0.04)).warnings == []


def test_a_client_near_its_ceiling_is_named():
    made = row_of(
        OfferedLoad(1), [window(usage=NO_USAGE, client_ceiling=110.0)], rate(100.0), 1, None, {}
    )
    assert any("client-bound: 91 %" in warning for warning in made.warnings)


def test_requests_that_were_sent_late_are_told():
    late = load_result(late_s=[0.0] * 290 + [0.02] * 10)
    made = row_of(OfferedLoad(None, 100.0), [window(late)], rate(100.0), 1, None, {})
    assert any("3 % of the requests were sent over 5 ms late" in each for each in made.warnings)
    assert made.client.mean_send_delay_ms == pytest.approx(20 * 10 / 300)
    punctual = load_result(late_s=[0.001] * 300)
    assert (
        row_of(OfferedLoad(None, 100.0), [window(punctual)], rate(100.0), 1, None, {}).warnings
        == []
    )


def test_cpu_that_the_hypervisor_took_is_told():
    stolen = replace(USAGE, stolen_percent=12.0)
    assert any("gave 12 % of a core to others" in each for each in row(usage=stolen).warnings)
    little = replace(USAGE, stolen_percent=2.0)
    assert row(usage=little).warnings == []


def test_a_window_without_any_answer_makes_a_row():
    made = row(LoadResult(opened=0.0, closed=1.0, client_cpu_s=0.0))
    assert made.requests_per_second.mean == 0
    assert made.latency_ms["mean"] is None
    assert made.requests["sent"] == 0


def test_cpu_is_that_of_the_requests_between_the_readings_around_a_window():
    work = worker(600, queue_wait=0.0, predict=0.1)
    made = row_of(OfferedLoad(1), [window(workers=[work])], rate(100.0), 1, None, {})
    assert made.cpu_s_per_1000_requests["workers"] == pytest.approx(1000 * 1.8 / 600)
    assert made.cpu_percent["workers"] == pytest.approx(60)
    assert made.cpu_percent["server"] == pytest.approx(120)


def test_a_window_is_kept_raw():
    measured = window(
        load_result(count=300, failures=3),
        workers=[worker(10, queue_wait=0.01, predict=0.02)],
        http=[http(10, 0.01, 0.06)],
        epoch=2,
        block=17,
    )
    kept = record_of("A/A control", "steady", "8", measured, {"predict": "think"})
    assert (kept.server, kept.variant, kept.epoch, kept.block, kept.load) == (
        *("A/A control", "steady", 2, 17, "8"),
    )
    assert kept.requests["connection_error"] == 3
    assert kept.requests_per_second == pytest.approx(99)
    assert kept.cpu_s["workers"] == 1.8
    assert kept.cpu_s["client"] == pytest.approx(0.03)
    assert kept.breakdown_ms["think"] == pytest.approx(2.0)
