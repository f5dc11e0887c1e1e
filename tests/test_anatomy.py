"""Where the time went: clocks that name the right stage, parts that add up, sentences that follow from the numbers."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from harness.judge.bottlenecks import difference_ms, ladder, limit, pairs, parts_ms, story
from harness.show.breakdown_charts import anatomy_figures
from harness.process.launch import ServerFailedError, running_server
from harness.results.summary import Measurement
from harness.load.job import Job, run_job
from harness.measure.no_op import Nulls, Shape, null_levels, shape_of
from harness.results.file import read
from harness.results.run import NullServer, Results
from harness.results.rows import rate
from harness.results.breakdown import Floor, anatomy, grown_door, grown_worker, spent_ms
from harness.suite import LoadLevel
from tests.test_results import level, load, results

ROOT = Path(__file__).parent.parent
STAGES = ("decode", "collate", "predict", "encode")
STORED = [ROOT / f"{suite}_model_benchmarking/metrics/benchmark_results.json" for suite in ("mnist", "llm")]


@pytest.fixture(autouse=True)
def in_the_projects_root(monkeypatch):
    """`python -m tests.variants...` is found from here."""
    monkeypatch.chdir(ROOT)


def worker(requests_: int, **spent_s: float) -> dict:
    return {"requests": requests_, "batches": requests_, "spent_s": spent_s, "busy_s": 0.0, "batch_sizes": {}}


def door(requests_: int, arriving_s: float, returning_s: float) -> dict:
    return {"requests": requests_, "arriving_s": arriving_s, "returning_s": returning_s}


def test_a_stage_that_gets_20_ms_slower_shows_in_that_stage_and_in_no_other():
    """The least disturbed of windows that take turns, for each stage."""
    found = {slow: [] for slow in ("none", *STAGES)}
    with running_server("tests.variants.server_staged", "--accelerator", "cpu") as server:
        for slow in list(found) * 5:
            body, before = json.dumps({"n": 1, "slow": slow}).encode(), server.stats()["workers"]
            run_job(Job(f"{server.url}/predict", [body], 1, 0.5, 0.0))
            found[slow].append(spent_ms(list(map(grown_worker, before, server.stats()["workers"]))))
    usual = {stage: min(window[stage] for window in found["none"]) for stage in STAGES}
    for slow in STAGES:
        slower = {stage: min(window[stage] for window in found[slow]) - usual[stage] for stage in STAGES}
        assert slower.pop(slow) == pytest.approx(20, abs=2)
        assert list(slower.values()) == pytest.approx([0, 0, 0], abs=2)


def test_the_way_to_the_queue_begins_when_the_client_sends():
    """A request that says it was sent 300 ms ago has been on its way for as long."""
    with running_server("tests.variants.server_steady", "--accelerator", "cpu") as server:

        def least(headers: Callable[[], dict[str, str]]) -> float:
            """Of three requests, for a machine may stall."""
            return min(one(headers()) for _ in range(3))

        def one(headers: dict[str, str]) -> float:
            before = server.stats()["http"][0]
            requests.post(f"{server.url}/predict", json={"n": 1}, headers=headers, timeout=5)
            return grown_door(before, server.stats()["http"][0])["arriving_s"]

        def sent(ago_s: float) -> dict[str, str]:
            return {"X-Request-Start": f"t={time.time() - ago_s:.6f}"}

        assert least(lambda: sent(ago_s=0.3)) == pytest.approx(0.3, abs=0.15)
        assert least(lambda: sent(ago_s=-500)) < 0.15  # another machine's clock
        assert least(lambda: {"X-Request-Start": "yesterday"}) < 0.15
        assert least(dict) < 0.15


def test_the_parts_of_a_request_add_up_and_what_is_left_is_said_to_be_unexplained():
    workers = [worker(10, waiting=0.1, decode=0.02), worker(30, waiting=0.3, decode=0.06)]  # 10 ms and 2 ms each
    doors = [door(40, 0.12, 0.8)]  # 3 ms to the queue, 20 ms from there until answered
    found = anatomy(workers, doors, 24.0, Floor(1.0, 0.5, 2.0))
    assert found.waiting_ms == pytest.approx({"arriving": 2.0, "queue": 9.5, "returning": 6.0})
    assert found.stages_ms == pytest.approx({"floor": 3.5, "waiting": 17.5, "decode": 2.0, "unexplained": 1.0})


def test_a_floor_is_never_more_than_what_was_spent_outside():
    found = anatomy([worker(10, waiting=0.0)], [door(10, 0.01, 0.02)], 3.0, Floor(5.0, 5.0, 5.0))
    assert found.stages_ms["floor"] == pytest.approx(3.0)
    assert found.waiting_ms == pytest.approx({"arriving": 0.0, "queue": 0.0, "returning": 0.0})


def test_without_a_floor_everything_outside_is_unexplained():
    found = anatomy([worker(10, waiting=0.1, decode=0.1)], [], 25.0, None)
    assert found.stages_ms == pytest.approx({"floor": None, "waiting": 10.0, "decode": 10.0, "unexplained": 5.0})
    assert found.waiting_ms is None


def test_a_server_that_tells_nothing_has_no_anatomy():
    assert anatomy([], [], 25.0, Floor(1.0, 1.0, 1.0)) is None


@pytest.mark.parametrize("path", STORED, ids=("mnist", "llm"))
def test_in_the_published_results_all_parts_but_the_unexplained_explain_at_least_nine_tenths(path):
    for variant in read(path).variants.values():
        for row in variant.levels:
            assert row.stages_ms["floor"] > 0
            assert abs(row.stages_ms["unexplained"]) <= 0.1 * row.latency_ms["mean"]


def test_the_null_server_answers_what_it_is_told_and_is_set_up_as_the_variant_is():
    flags = ("--max-batch-size", "8", "--batch-timeout", "0.01", "--workers-per-device", "2", "--answer", '{"a": [1]}')
    with running_server("harness.serving.no_op_server", "--accelerator", "cpu", *flags) as server:
        assert requests.post(f"{server.url}/predict", json={"x": 1}, timeout=5).json() == {"a": [1]}
        assert shape_of(server.info) == (8, 0.01, 2)


def test_the_null_server_is_asked_for_one_lone_request_and_for_the_most():
    assert [each.concurrency for each in null_levels([4, 64, 8])] == [1, 64]
    assert [each.concurrency for each in null_levels([1])] == [1]


def anatomised(busy_percent: float = 20.0, machine_percent: float = 100.0, **stages: float):
    row = level(load(), concurrency=4)
    cpu = row.cpu_percent | {"machine": machine_percent, "stolen": 0.0}
    return replace(row, stages_ms={"floor": 1.0, "waiting": 2.0, "decode": 1.0, "predict": 4.0, "unexplained": 0.5}
                   | stages, worker_busy_percent=busy_percent, cpu_percent=cpu)  # fmt: skip


def found(nothing: float = 10_000.0, **row) -> Results:
    one = results()
    variant = replace(one.variants["baseline"], api_benchmarks=[anatomised(**row)],
                      null_server=NullServer(0.4, 0.1, 0.5, 4, rate([nothing])))  # fmt: skip
    faster = replace(variant, builds_on="baseline", api_benchmarks=[anatomised(**(row | {"waiting": 0.0}))])
    return replace(one, variants={"baseline": variant, "batching": faster})


def test_what_limits_a_variant_follows_from_the_numbers():
    assert "limited by LitServe's HTTP and queues: 91 %" in limit(found(nothing=110.0), "baseline")
    assert "workers: each is busy 95 % of the time, mostly with predict" in limit(found(busy_percent=95), "baseline")
    assert "2 cores are busy, mostly with its workers, there with predict" in limit(
        found(machine_percent=190.0), "baseline"
    )
    assert "neither cores nor workers fully busy: 47 % of a request's time is predict" in limit(found(), "baseline")
    assert limit(results(), "baseline") is None  # a server that tells nothing


def test_an_open_loop_that_kept_up_is_not_limited_and_neither_is_what_answered_nothing():
    one = found(nothing=110.0)
    kept_up = replace(one.variants["baseline"].levels[0], concurrency=None, rate=100.0)
    silent = replace(kept_up, stages_ms=None)
    for row in (kept_up, silent):
        variant = replace(one.variants["baseline"], api_benchmarks=[row])
        assert limit(replace(one, variants={"baseline": variant}), "baseline") is None


def test_a_difference_is_told_only_where_the_same_parts_are_known():
    one = found()
    unknown = replace(one.variants["batching"].levels[0], waiting_ms={"arriving": 1.0, "queue": 1.0, "returning": 0.0})
    batching = replace(one.variants["batching"], api_benchmarks=[unknown])
    assert pairs(replace(one, variants=one.variants | {"batching": batching})) == []


def test_a_batching_servers_floor_takes_the_way_through_the_queue_from_one_that_does_not_batch():
    nulls = Nulls()
    for shape, waiting_s in ((Shape(1, 0.0, 1), 0.002), (Shape(64, 0.01, 1), 0.09)):  # of 10 requests
        totals = worker(10, waiting=waiting_s)
        before = {"workers": [empty(totals)], "http": [empty(door(10, 0.0, 0.0))]}
        after = {"workers": [totals | {"busy_s": {}}], "http": [door(10, 0.01, waiting_s + 0.02)]}
        nulls.add(shape, LoadLevel(1, None), Measurement(load(), None, before, after, None))
    assert nulls.floor(Shape(1, 0.0, 1)) == pytest.approx((1.0, 0.2, 2.0))
    assert nulls.floor(Shape(64, 0.01, 1)) == pytest.approx((1.0, 0.2, 2.0))
    assert nulls.floor(Shape(64, 0.01, 4)) is None
    with pytest.raises(ServerFailedError, match="no answer"):
        nulls.add(Shape(1, 0.0, 1), LoadLevel(1, None), Measurement(load(failures=300), None, None, None, None))


def empty(totals: dict) -> dict:
    """The totals before anything has happened."""
    return {name: dict.fromkeys(value, 0) if isinstance(value, dict) else 0 for name, value in totals.items()} | {
        "busy_s": {}
    }


def test_every_rung_of_the_ladder_is_a_share_of_the_one_above():
    rungs = ladder(found(nothing=1000.0), "baseline")
    assert [round(rung.per_second) for rung in rungs] == [20000, 3050, 1000, 100]
    assert [rung.share and round(rung.share, 3) for rung in rungs] == [None, 0.152, 0.328, 0.1]


def test_what_a_variant_saved_and_cost_adds_up_to_the_difference_of_the_latencies():
    (pair,) = pairs(found(predict=5.0))
    name, against, old, new = pair
    assert (name, against) == ("batching", "baseline")
    changes = difference_ms(old, new)
    assert sum(changes.values()) == pytest.approx(sum(parts_ms(new).values()) - sum(parts_ms(old).values()))
    assert story(found(), *pair) == "batching against baseline at 4: saved 2.0 ms of waiting"


def test_the_pictures_show_what_is_known_and_are_left_out_otherwise():
    assert set(anatomy_figures(found())) == {"anatomy/stages.png", "anatomy/differences.png", "anatomy/ladder.png"}
    assert set(anatomy_figures(results())) == {"anatomy/ladder.png"}  # the model alone is known
