"""The result file: valid JSON, whole or absent, and the same after a round trip."""

import json
import math

import pytest

from harness.show import charts
from harness.results.summary import Measurement, output_rate, quality, summarised
from harness.load.job import CONNECTION_ERROR, OK, Load
from harness.results.file import UnusableResultsError, read, save
from harness.results.run import SCHEMA_VERSION, ImageVariant, ModelAlone, Results
from harness.results.rows import ImageLevel, rate
from harness.measure.utilisation import Usage


def load(seconds: float = 0.01, count: int = 300, failures: int = 0) -> Load:
    """A closed loop of one connection: `count` answers of `seconds` each."""
    ended = [100 + seconds * (index + 1) for index in range(count)]
    outcome = [CONNECTION_ERROR] * failures + [OK] * (count - failures)
    return Load(100, ended[-1], ended, [seconds] * count, [seconds] * count, outcome, [1.0] * count, {},
                count - failures, client_cpu_s=0.0001 * count)  # fmt: skip


def level(*loads: Load, concurrency: int = 1):
    usage = Usage(150.0, 0.0, 120.0, {"http": 40.0, "queue": 20.0, "workers": 60.0}, 10**9, None, None, None, None)
    measured = [Measurement(each, usage, None, None, 10_000.0) for each in loads]
    return ImageLevel(
        **summarised(concurrency, None, measured),
        images_per_second=output_rate(measured, 1),
        accuracy=quality(measured),
    )


def results(**changes) -> Results:
    variant = ImageVariant(
        builds_on=None, server={"variant": "baseline"}, startup_s=4.2, error=None,
        baseline_throughput=ModelAlone([1, 8], [5000.0, 20000.0]),
        decode_and_model_images_per_second=rate([3000.0, 3100.0]),
        api_benchmarks=[level(load(), load(0.011), load(0.012))],
    )  # fmt: skip
    machine = {"cpu": "a processor", "usable_cores": 2, "gpus": []}
    values = {
        "suite": "mnist", "started_utc": "2026-01-01T00:00:00+00:00", "elapsed_s": 1.0, "complete": True,
        "machine": machine,
        "settings": {"rounds": 3, "rate": None}, "noise_floor_percent": {"1": None},
        "variants": {"baseline": variant}, "verdicts": [],
    }  # fmt: skip
    return Results(**(values | changes))


def test_results_are_the_same_after_a_round_trip(tmp_path):
    save(results(), tmp_path / "r.json")
    assert read(tmp_path / "r.json") == results()


def test_missing_is_null_in_the_file(tmp_path):
    save(results(), tmp_path / "r.json")
    entry = json.loads((tmp_path / "r.json").read_text())["variants"]["baseline"]["api_benchmarks"][0]
    assert entry["gpu_percent"] is None
    assert entry["stages_ms"] is None


def test_numbers_that_json_does_not_have_are_refused():
    with pytest.raises(ValueError, match="finite"):
        rate([math.nan, 1.0])


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save(results(), tmp_path / "r.json")
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(results(settings={"bad": math.inf}), tmp_path / "r.json")
    assert read(tmp_path / "r.json") == results()
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(("text", "reason"), [
    ("{", "not valid JSON"), ("[]", "schema version None"), ('{"schema_version": 99}', "schema version 99"),
    (f'{{"schema_version": {SCHEMA_VERSION}}}', "does not fit"),
])  # fmt: skip
def test_what_is_no_result_is_refused_with_one_sentence(tmp_path, text, reason):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(UnusableResultsError, match=reason):
        read(tmp_path / "r.json")


def test_only_right_answers_count_as_throughput():
    row = level(load(count=300, failures=100))
    assert row.requests["ok"] == 200
    assert row.requests_per_second.mean == pytest.approx(200 / 3)
    assert any("not all right" in warning for warning in row.warnings)


def test_percentiles_need_enough_requests_of_all_rounds():
    assert level(load(count=300)).latency_ms["p99"] is None
    assert level(load(count=300), load(count=300), load(count=300)).latency_ms["p99"] == pytest.approx(10)


def test_requests_that_were_not_in_flight_are_noticed():
    assert any("Little" in warning for warning in level(load(), concurrency=8).warnings)
    assert not level(load(), concurrency=1).warnings


def test_an_uneven_window_is_called_unstable():
    uneven = load()
    uneven.ended = [100 + 3 * (index / 300) ** 2 for index in range(1, 301)]
    assert any("unstable" in warning for warning in level(uneven).warnings)


def test_a_client_near_its_ceiling_is_named():
    usage = Usage(*[None] * 9)
    row = summarised(1, None, [Measurement(load(), usage, None, None, 110.0)])
    assert any("client-bound" in warning for warning in row["warnings"])


def test_charts_are_drawn_even_of_a_variant_that_failed(tmp_path):
    failed = ImageVariant(
        builds_on="baseline", server={}, startup_s=None, error="it did not come up", baseline_throughput=None,
        decode_and_model_images_per_second=None, api_benchmarks=[],
    )  # fmt: skip
    both = results(variants=results().variants | {"batching": failed})
    pictures = charts.draw(both, tmp_path)
    assert {path.name for path in pictures} >= {"requests_per_second.png", "benchmark_results_batching.png"}
    assert all(path.stat().st_size > 5000 for path in pictures)
