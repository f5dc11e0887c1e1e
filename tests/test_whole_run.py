"""A whole run of two variants in two epochs: its blocks, its control, where its time went."""

import statistics
from pathlib import Path

import pytest

from harness.run import CONTROL
from tests.test_runs import measured

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run of two variants in two epochs, and what it printed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder = tmp_path_factory.mktemp("run")
        return measured(folder, ("steady", "paced"), epochs=2, minutes=0.3)


@pytest.mark.alone
def test_every_block_holds_every_server_once_and_the_baseline_twice(whole_run):
    results, _ = whole_run
    blocks = {}
    for window in results.windows:
        blocks.setdefault((window.epoch, window.block, window.load), []).append(window.server)
    assert all(sorted(servers) == ["A/A control", "paced", "steady"] for servers in blocks.values())
    assert len({tuple(servers) for servers in blocks.values()}) > 2
    assert {epoch for epoch, _, _ in blocks} == {0, 1}
    loads = [load for _, _, load in blocks]
    assert abs(loads.count("1") - loads.count("4")) <= 2
    assert {window.variant for window in results.windows} == {"steady", "paced"}


@pytest.mark.alone
def test_two_servers_of_the_baseline_are_the_proof_of_the_instrument(whole_run):
    results, log = whole_run
    assert set(results.aa_control) == {"1", "4"}
    assert all(each.ci95 for each in results.aa_control.values())
    assert CONTROL not in results.variants
    (first, *_) = results.verdicts
    assert (first.variant, first.against, first.comparison.verdict) == ("paced", "steady", "slower")
    assert results.best["4"].variant == "steady"
    assert "failed" not in log


@pytest.mark.alone
def test_the_breakdown_explains_the_latency_and_cpu_has_roles(whole_run):
    """All but a tenth of it in most windows, for a machine may stall in one."""
    results, _ = whole_run
    steady = results.variants["steady"]
    for row in steady.rows:
        parts = [
            window.breakdown_ms
            for window in results.windows
            if (window.variant, window.load) == ("steady", row.load.name)
        ]
        unexplained = [abs(each["unexplained"]) / sum(each.values()) for each in parts]
        assert statistics.median(unexplained) < 0.1
        assert sum(row.breakdown_ms.values()) == pytest.approx(row.latency_ms["mean"])
        assert row.latency_ci95_ms["p50"]
        assert row.cpu_percent["http"] > 0
        assert row.cpu_s_per_1000_requests["workers"] > 0
        assert row.mean_batch_size == 1
        assert row.server_memory_bytes > 1e7
    assert row.server_memory_bytes == sum(
        role.proportional_bytes for role in steady.memory.values()
    )
    assert steady.memory["workers"].private_bytes > 1e6
    assert steady.no_op_server.requests_per_second > 0
    assert 0 < steady.no_op_server.ingress_ms < 50
    assert steady.in_process_per_second == 1000
