"""Why: parts of a request that add up, and sentences that follow from the numbers."""

from dataclasses import replace

import pytest

from harness.judge.bottlenecks import change, difference_ms, limit, reasons, steps
from harness.measure.no_op import Shape
from harness.measure.window import OfferedLoad, Record
from harness.results.breakdown import breakdown_ms
from harness.results.no_op import lone_cost
from harness.results.no_op import no_op_server as no_op_result
from harness.results.schema import Results, WindowRecord
from tests.builders import (
    BREAKDOWN,
    explained_row,
    http,
    no_op_server,
    results,
    row,
    variant,
    window,
    window_record,
    worker,
)


def test_the_parts_of_a_request_add_up_and_what_is_left_is_said_to_be_unexplained():
    workers = [worker(10, queue_wait=0.1, decode=0.02), worker(30, queue_wait=0.3, decode=0.06)]
    processes = [http(40, 0.12, 0.8)]  # 3 ms to the queue, 20 ms from there until answered
    parts = breakdown_ms(workers, processes, 24.0, {})
    expected = {"ingress": 3, "queue_wait": 10, "decode": 2, "response_path": 8, "unexplained": 1}
    assert parts == pytest.approx(expected)
    assert list(parts) == list(expected)


def test_stages_bear_the_suites_own_names():
    parts = breakdown_ms([worker(10, queue_wait=0.1, decode=0.1)], [], 25.0, {"decode": "read"})
    assert parts == pytest.approx({"queue_wait": 10.0, "read": 10.0, "unexplained": 5.0})


def test_a_server_that_tells_nothing_has_no_breakdown():
    assert breakdown_ms([], [], 25.0, {}) is None


def explained(no_op: float = 10_000.0, **changes) -> Results:
    """A baseline whose breakdown is known, and a variant without queue wait."""
    steady = variant(explained_row(**changes), no_op_server=no_op_server(no_op))
    faster = explained_row(**(changes | {"queue_wait": 0.0}))
    return results({"steady": steady, "batching": variant(faster, builds_on="steady")})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"no_op": 110.0}, "limited by LitServe's HTTP and queues: 91 % of the no-op server"),
        ({"busy_percent": 95}, "workers: each is busy 95 % of the time, mostly with predict"),
        ({"machine_percent": 190.0}, "all its 2 cores are busy, mostly with its workers, there"),
        ({}, "neither cores nor workers fully busy: 40 % of a request's time is predict"),
    ],
)
def test_what_limits_a_variant_follows_from_the_numbers(changes, words):
    assert words in limit(explained(**changes), "steady")


def test_what_kept_up_or_tells_nothing_is_not_limited():
    kept_up = replace(explained_row(), concurrency=None, offered_rate=100.0)
    for unlimited in (kept_up, replace(explained_row(), breakdown_ms=None)):
        assert limit(results({"steady": variant(unlimited)}), "steady") is None
    assert limit(results(), "steady") is None


def test_a_difference_is_told_only_where_the_same_parts_are_known():
    one = explained()
    fewer = explained_row()
    del fewer.breakdown_ms["ingress"]
    unknown = variant(fewer, builds_on="steady")
    assert steps(replace(one, variants=one.variants | {"batching": unknown})) == []
    assert steps(results({"steady": variant(row()), "b": variant(row(), builds_on="steady")})) == []


def measured_parts(part: str, *changes: float, load: str = "4") -> list[WindowRecord]:
    """Raw windows of both variants: in each block, the second's `part` differs by so much."""
    windows = []
    for block, change_ms in enumerate(changes):
        where = {"block": block, "load": load}
        other = BREAKDOWN | {part: BREAKDOWN[part] + change_ms}
        windows.append(window_record("steady", 100.0, breakdown_ms=BREAKDOWN, **where))
        windows.append(window_record("batching", 100.0, breakdown_ms=other, **where))
    return windows


def test_what_a_variant_saved_and_cost_adds_up_to_the_difference_of_the_latencies():
    (step,) = steps(explained())
    differences = difference_ms(step.old, step.new)
    latencies = [sum(each.breakdown_ms.values()) for each in (step.new, step.old)]
    assert sum(differences.values()) == pytest.approx(latencies[0] - latencies[1])


@pytest.mark.parametrize(
    ("blocks_at_4", "blocks_at_16", "told"), [(3, 2, "4"), (3, 3, "16"), (2, 2, "16")]
)
def test_a_step_is_told_at_the_highest_load_of_which_enough_blocks_tell(
    blocks_at_4, blocks_at_16, told
):
    one = explained()
    both = {
        name: replace(each, rows=[replace(each.rows[0], concurrency=load) for load in (4, 16)])
        for name, each in one.variants.items()
    }
    windows = measured_parts("queue_wait", *[-2.0] * blocks_at_4)
    windows += measured_parts("queue_wait", *[-2.0] * blocks_at_16, load="16")
    (step,) = steps(replace(one, variants=both, windows=windows))
    assert step.new.load.name == told


def test_a_change_is_told_if_the_blocks_agree_on_it():
    whole = replace(explained(), windows=measured_parts("queue_wait", -2.0, -2.1, -1.9, -2.0))
    (step,) = steps(whole)
    assert change(whole, step) == "batching against steady at 4: saved 2.0 ms of queue wait"
    assert reasons(whole)[-1] == change(whole, step)


def test_a_change_that_may_be_chance_is_not_told():
    whole = replace(explained(), windows=measured_parts("queue_wait", -6.0, 3.0, -4.0, 2.0))
    (step,) = steps(whole)
    assert "no part of a request is certain to have changed" in change(whole, step)
    one_block = replace(explained(), windows=measured_parts("queue_wait", -2.0))
    assert "no part" in change(one_block, step)


def test_what_is_unexplained_is_neither_saved_nor_cost():
    whole = replace(explained(), windows=measured_parts("unexplained", 2.0, 2.1, 1.9))
    (step,) = steps(whole)
    assert "no part" in change(whole, step)


def test_a_batching_no_op_server_takes_its_queue_wait_from_one_that_does_not_batch():
    records = {}
    for shape, waited_s in ((Shape(1, 0.0, 1), 0.002), (Shape(64, 0.01, 1), 0.09)):  # of ten
        workers = [worker(10, queue_wait=waited_s)]
        measured = window(workers=workers, http=[http(10, 0.01, waited_s + 0.02)])
        records[shape] = Record("no-op server")
        records[shape].add(OfferedLoad(1), measured)
        records[shape].add(OfferedLoad(64), measured)
    assert lone_cost(records, Shape(1, 0.0, 1)) == pytest.approx((1.0, 0.2, 2.0))
    assert lone_cost(records, Shape(64, 0.01, 1)) == pytest.approx((1.0, 0.2, 2.0))
    assert lone_cost(records, Shape(64, 0.01, 4)) is None
    assert no_op_result(records, Shape(64, 0.01, 1), OfferedLoad(64)).concurrency == 64
    assert no_op_result(records, None, OfferedLoad(64)) is None
    assert no_op_result(records, Shape(64, 0.01, 1), OfferedLoad(8)) is None
