"""Whole runs: epochs, blocks and windows, failures that stay visible, Ctrl-C, no wrong server."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import requests
from rich.console import Console

from harness import run as running
from harness.judge.judgement import judged
from harness.load.connection import wire_format
from harness.measure import capacity, epochs
from harness.measure.clocks import Clocks
from harness.measure.room import Memory
from harness.measure.utilisation import ProcessTree
from harness.process import launch
from harness.process.launch import ServerFailedError, attached_server, running_server
from harness.process.module_process import LastingProcess
from harness.results.file import save
from harness.run import CONTROL, run
from harness.show.console import capacities
from harness.suite import read_results
from tests.numbers.suite import NumbersSuite, NumbersVariant, suite

ROOT = Path(__file__).parent.parent
NAMES = ("steady", "dying", "stillborn")
STEADY = "tests.numbers.server_steady", "--accelerator", "cpu"


def options(tmp_path: Path, **changes) -> Namespace:
    values = {
        "variants": ["steady"],
        "concurrency": [1, 4],
        "epochs": 1,
        "minutes": 0.05,  # over before the first block: of every load two are measured anyway
        "precision": None,
        "rate": None,
        "accelerator": "cpu",
        "api_servers": 1,
        "output_dir": tmp_path,
        "seed": 0,
        "timeout": 3.0,
        "url": None,
        "slo_p99_ms": None,
    }
    return Namespace(**(values | changes))


@pytest.fixture(autouse=True)
def _in_the_projects_root(monkeypatch):
    """`python -m tests.numbers...` is found from here."""
    monkeypatch.chdir(ROOT)


def measured(tmp_path: Path, names: tuple[str, ...], **changes):
    log = io.StringIO()
    wanted = options(tmp_path, variants=list(names), **changes)
    results = run(suite(*names), wanted, Console(file=log, width=200))
    save(results, tmp_path / "benchmark_results.json")  # as the command line does
    return results, log.getvalue()


def test_a_variant_that_fails_is_reported_and_the_others_are_measured_and_saved(tmp_path):
    results, log = measured(tmp_path, NAMES)
    steady, dying, stillborn = (results.variants[name] for name in NAMES)
    assert results.complete
    assert results.notes == [running.ONE_EPOCH]
    assert steady.error is None
    assert [row.requests["ok"] > 10 for row in steady.rows] == [True, True]
    assert "no model for cpu" in stillborn.error
    assert stillborn.rows == []
    assert "about to die" in dying.error
    assert re.search(r"worker 0 \(pid \d+\) ended with exit code 9; the server ends", dying.error)
    assert "no model for cpu" in log
    assert read_results(tmp_path / "benchmark_results.json") == results


def test_where_there_is_no_terminal_every_step_is_a_line():
    console = Console(file=io.StringIO())
    with running.progress(console) as announce:
        announce("client", 0.0)
        announce("epoch 1, block 2: 4", 0.25)
    assert console.file.getvalue() == "  0:00 client\n  0:00 epoch 1, block 2: 4\n"


def test_a_frozen_server_uses_no_cpu_and_a_thawed_one_answers():
    with running_server(*STEADY) as server:
        tree = ProcessTree(server.pid, server.stats())
        up = epochs.Running(server, ExitStack(), tree, launched=True)
        up.freeze()
        before = sum(tree.cpu_s().values())
        with pytest.raises(requests.Timeout):
            requests.get(f"{server.url}/health", timeout=0.5)
        assert sum(tree.cpu_s().values()) - before < epochs.FROZEN_CPU_S
        up.thaw()
        assert launch.healthy(server.url)


def test_a_frozen_server_that_used_cpu_is_named():
    with running_server(*STEADY) as server:
        up = epochs.Running(server, ExitStack(), ProcessTree(server.pid, None), launched=True)
        up.freeze()
        up.frozen_cpu_s -= 1.0
        with pytest.raises(ServerFailedError, match=r"used 1.0\d s of CPU although it was frozen"):
            up.thaw()


@pytest.mark.parametrize(("dying", "other"), [("paced", "steady"), ("steady", "paced")])
def test_a_server_that_dies_between_its_windows_is_named_and_the_others_go_on(
    dying, other, tmp_path, monkeypatch
):
    thaw, thawed = epochs.Running.thaw, []

    def kill_second(self):
        if self.server.info["variant"] == dying:
            thawed.append(self.server.pid)
            if len(thawed) == 2:  # once to be warmed, then for its first window
                os.killpg(self.server.pid, signal.SIGKILL)
        thaw(self)

    monkeypatch.setattr(epochs.Running, "thaw", kill_second)
    results, log = measured(tmp_path, ("steady", "paced"), concurrency=[4])
    assert results.variants[dying].error
    assert len(re.findall(r"(\S+|A/A control) failed", log)) == 1  # not under two names
    assert results.variants[other].error is None
    assert len([w for w in results.windows if w.server == other]) >= 2


def test_a_single_epoch_launches_the_baseline_once_and_measures_it_twice(tmp_path, monkeypatch):
    launched, modules = epochs.launched, []

    def noting(module, *flags, **wishes):
        modules.append(module)
        return launched(module, *flags, **wishes)

    monkeypatch.setattr(epochs, "launched", noting)
    results, _ = measured(tmp_path, ("steady", "paced"), concurrency=[1])
    servers = [module for module in modules if module.startswith("tests.numbers")]
    assert sorted(servers) == ["tests.numbers.server_paced", "tests.numbers.server_steady"]
    windows = {name: sum(w.server == name for w in results.windows) for name in ("steady", CONTROL)}
    assert windows["steady"] == windows[CONTROL] >= 2
    assert results.aa_control["1"].ci95 is not None
    assert results.variants["steady"].startup_s > 0


def test_measuring_stops_once_every_verdict_is_as_precise_as_asked(tmp_path, monkeypatch):
    """After the first two epochs, or as many more as a machine takes that others use."""
    monkeypatch.setattr(running, "LEAST_EPOCHS", 2)
    wanted = {"precision": 30.0, "minutes": 4.0, "concurrency": [1]}
    results, _ = measured(tmp_path, ("paced", "slowed"), **wanted)

    def precise_after(epochs: int) -> bool:
        windows = [window for window in results.windows if window.epoch < epochs]
        verdicts = judged(replace(results, windows=windows)).verdicts
        return all(each.comparison.resolution_percent <= 30 for each in verdicts)

    measured_epochs = max(window.epoch for window in results.windows) + 1
    enough = (epochs for epochs in range(running.LEAST_EPOCHS, 17) if precise_after(epochs))
    assert measured_epochs == next(enough)
    assert all(v.comparison.resolution_percent <= 30 for v in results.verdicts)
    assert results.complete


def test_a_load_whose_verdicts_are_known_as_asked_is_left_alone_while_others_go_on(monkeypatch):
    run_ = running.Run(suite("paced", "slowed"), options(Path(), precision=5.0, minutes=0.1))
    monkeypatch.setattr(run_, "windows", lambda: [SimpleNamespace(epoch=each) for each in range(3)])

    def made(load: str, resolution: float | None) -> SimpleNamespace:
        return SimpleNamespace(load=load, comparison=SimpleNamespace(resolution_percent=resolution))

    known = [made("1", 4.0), made("1", 4.9), made("4", 3.0), made("4", 5.1)]
    monkeypatch.setattr(run_, "results", lambda: SimpleNamespace(verdicts=known))
    assert [load.name for load in run_.unsettled()] == ["4"]
    known[-1] = made("4", None)
    assert [load.name for load in run_.unsettled()] == ["4"]
    run_.measured.seconds = 5.0  # of 6, in three epochs
    assert run_.unsettled() == []
    run_.measured.seconds = 0.0
    known[-1] = made("4", 5.0)
    assert run_.unsettled() == []
    monkeypatch.setattr(run_, "windows", lambda: [SimpleNamespace(epoch=each) for each in range(2)])
    assert len(run_.unsettled()) == 2  # a few epochs at least
    known[-1] = made("4", 5.1)
    assert run_.at_the_end(SimpleNamespace(verdicts=known, windows=[])) == []  # not over yet
    run_.over = True
    (sentence,) = run_.at_the_end(SimpleNamespace(verdicts=known, windows=[]))
    assert sentence == "--precision 5 was not reached at 4: give it more --minutes"


def test_servers_that_memory_does_not_hold_are_measured_later_each_beside_a_baseline(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        running,
        "room",
        lambda _: SimpleNamespace(
            has_room=lambda *_: False,
            taken={},
            free=lambda: Memory(1, 0),
            reserve=Memory(0, 0),
            note=lambda *_: None,
        ),
    )
    names = ("steady", "paced", "slowed")
    results, _ = measured(tmp_path, names, concurrency=[1], epochs=2)
    blocks = {}
    for window in results.windows:
        blocks.setdefault(window.block, set()).add(window.server)
    pairs = {frozenset(servers) for servers in blocks.values()}
    others = ("paced", "slowed", CONTROL)
    assert pairs == {frozenset(["steady", other]) for other in others}
    assert [v.comparison.ci95 is not None for v in results.verdicts] == [True, True]
    assert not any(each.error for each in results.variants.values())


def test_a_no_op_server_for_which_memory_has_no_room_is_left_out(tmp_path, monkeypatch):
    full = SimpleNamespace(free=lambda: Memory(1, 0), has_room=lambda name: False)
    monkeypatch.setattr(epochs, "Room", lambda free, reserve: full)
    results, log = measured(tmp_path, ("steady",), concurrency=[1])
    assert "no-op server failed: memory has no room for one with --max-batch-size" in log
    steady = results.variants["steady"]
    assert (steady.error, steady.no_op_server) == (None, None)
    assert steady.rows[0].requests["ok"] > 10


def test_servers_start_alone_until_it_is_known_what_they_take_and_then_two_at_a_time(
    tmp_path, monkeypatch
):
    starting, most, startups_s, beside_warming = [], [], [], []
    launched, ready, warm = epochs.launched, launch.Launch.ready, epochs.Campaign.warm

    def noting_launch(module, *flags, **wishes):
        if module.startswith("tests.numbers"):
            starting.append(module)
            most.append(len(starting))
        return launched(module, *flags, **wishes)

    def noting_ready(self):
        server = ready(self)
        if self.module in starting:
            starting.remove(self.module)
            startups_s.append(server.startup_s)
        return server

    def noting_warm(*campaign):
        beside_warming.append(len(starting))
        warm(*campaign)

    monkeypatch.setattr(epochs, "launched", noting_launch)
    monkeypatch.setattr(launch.Launch, "ready", noting_ready)
    monkeypatch.setattr(epochs.Campaign, "warm", noting_warm)
    monkeypatch.setattr("random.Random.sample", lambda _, items, count: list(items)[:count])
    results, _ = measured(tmp_path, ("steady", "paced", "slowed"), concurrency=[1], epochs=2)
    assert len(results.windows) >= 2 * 4
    assert most == [1, 1, 1, 1, 1, 2, 2, 2]  # with the A/A control four in each epoch
    assert beside_warming == [0] * 8
    assert [results.variants[name].startup_s for name in ("paced", "slowed")] == startups_s[1:3]


def test_a_server_is_warmed_at_every_load_and_once_its_speed_is_known_at_the_highest_only(
    tmp_path, monkeypatch
):
    lasting, warmed = epochs.lasting, []

    def noting(run_load):
        def run_noted(job, *more):
            if job.duration_s == epochs.WARM_S:
                warmed.append((job.url, job.concurrency))
            return run_load(job, *more)

        return lasting(run_noted)

    monkeypatch.setattr(epochs, "lasting", noting)
    results, _ = measured(tmp_path, ("steady",), concurrency=[1, 2, 4], epochs=2)
    launches = [
        [concurrency for at, concurrency in warmed if at == url]
        for url in dict.fromkeys(url for url, _ in warmed)
    ]
    assert launches == [[1, 2, 4], [4]]
    assert len({(each.epoch, each.load) for each in results.windows}) == 2 * 3


def test_what_fails_for_want_of_memory_is_tried_again_with_fewer_beside_it(tmp_path, monkeypatch):
    ready, tries = launch.Launch.ready, []

    def crowded(self):
        if self.module.endswith("slowed"):
            tries.append(self.module)
            if len(tries) < 3:
                raise ServerFailedError("CUDA out of memory")
        return ready(self)

    monkeypatch.setattr(launch.Launch, "ready", crowded)
    monkeypatch.setattr("random.Random.sample", lambda _, items, count: list(items)[:count])
    names = ("steady", "paced", "slowed")
    results, _ = measured(tmp_path, names, concurrency=[1])
    assert "CUDA out of memory" in results.variants["slowed"].error  # with the baseline alone, too
    assert len(tries) == 2
    assert results.variants["slowed"].rows == []
    assert results.variants["paced"].rows[0].requests["ok"] > 5


def test_what_the_workers_did_before_the_window_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "WARMUP_S", 0.8)
    results, _ = measured(tmp_path, ("steady",), concurrency=[4])
    (row,) = results.variants["steady"].rows
    served_in_batches = sum(size * count for size, count in row.batch_sizes.items())
    assert served_in_batches < 2 * row.requests["sent"]  # with the warm-up it would be three times


def test_what_fails_without_a_server_is_an_error_and_the_server_is_measured(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(NumbersSuite, "in_process", fail)
    monkeypatch.setattr(NumbersSuite, "prepare", fail)
    monkeypatch.setattr(NumbersSuite, "variant", lambda *_: NumbersVariant(prepared=False))
    results, log = measured(tmp_path, ("steady",), concurrency=[4])
    steady = results.variants["steady"]
    assert results.complete
    assert steady.error == "without a server: out of memory"
    assert steady.in_process_per_second is None
    assert steady.rows[0].requests["ok"] > 10
    assert "what needs no server failed: out of memory" in log


def test_open_loop_rows_are_offered_rates_and_what_is_turned_away_is_told(tmp_path):
    results, _ = measured(tmp_path, ("steady",), rate=[50.0, 3000.0])
    row, overload = results.variants["steady"].rows
    assert (row.offered_rate, row.concurrency, row.load.name) == (50.0, None, "50/s")
    assert row.requests_per_second.mean == pytest.approx(50, rel=0.6)
    assert row.client.mean_send_delay_ms is not None
    assert overload.requests["ok"] > 0
    assert overload.http_statuses["503"] == overload.requests["http_error"] > 0
    assert any("failed requests" in warning for warning in overload.warnings)


def test_a_server_that_already_runs_is_measured_and_left_running(tmp_path):
    with running_server(*STEADY) as server:
        results, _ = measured(tmp_path, ("steady",), url=server.url, concurrency=[4])
        assert launch.healthy(server.url)
    assert results.variants["steady"].startup_s is None
    assert results.variants["steady"].rows[0].cpu_percent["workers"] > 0
    assert results.variants["steady"].rows[0].requests["ok"] > 10


def test_another_server_on_the_chosen_port_is_never_measured(monkeypatch):
    """The port is taken between choosing and binding, by a server that looks healthy."""
    with running_server(*STEADY) as orphan:
        monkeypatch.setattr(launch, "free_port", lambda: int(orphan.url.rpartition(":")[2]))
        with (
            pytest.raises(ServerFailedError, match=r"another server answers|cannot listen on"),
            running_server(*STEADY),
        ):
            pytest.fail("the orphan was taken for the server that was launched")


def test_a_server_that_is_replaced_during_the_run_is_noticed():
    with running_server(*STEADY) as server:
        impostor = launch.Server(server.url, "another run", None, None, {}, None)
        with pytest.raises(ServerFailedError, match="another server answers"):
            impostor.stats()


def test_a_url_where_nobody_answers_is_one_sentence():
    with pytest.raises(ServerFailedError, match="is the server up"):
        attached_server("http://127.0.0.1:9")


def test_too_many_requests_at_once_get_503_and_when_to_come_back():
    with running_server(*STEADY) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        body = b'{"n": 1, "sleep_s": 1}'
        request = b"\r\n".join(wire_format(f"{server.url}/predict", body))
        held = [socket.create_connection(address) for _ in range(4)]  # the server's limit
        for connection in held:
            connection.sendall(request)
        time.sleep(0.3)
        refused = requests.post(f"{server.url}/predict", json={"n": 2}, timeout=5)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert launch.healthy(server.url)
        for connection in held:
            connection.close()


RUN = """
import signal
import sys
from pathlib import Path
from rich.console import Console
from harness.run import run
from tests.numbers.suite import suite
from tests.test_runs import options
if __name__ == "__main__":
    # the tests may run in the background, where SIGINT is ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as without nohup
    wanted = options(Path(sys.argv[1]), concurrency=[4], minutes=20)
    results = run(suite("steady"), wanted, Console())
    print("kept", len(results.windows))
"""


GROUPS = [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGTERM, True)]
GROUPS += [(signal.SIGHUP, True)]


@pytest.mark.parametrize(("number", "whole_group"), GROUPS)
def test_an_interrupted_run_keeps_what_is_done_and_leaves_no_process(tmp_path, number, whole_group):
    (tmp_path / "run.py").write_text(RUN)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while not (tmp_path / "benchmark_results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1.5)  # into another block
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 3
    os.killpg(process.pid, number) if whole_group else process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert "kept" in output, errors
    assert "Traceback" not in errors
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    kept = read_results(tmp_path / "benchmark_results.json")
    assert kept.variants["steady"].error is None
    assert not kept.complete


LOADING = """
import signal
import sys
from pathlib import Path
from harness.cli import benchmark
from harness.process.module_process import LastingProcess
from tests.test_runs import options
def suite():
    with LastingProcess("time") as models:  # loads for ever
        print("loading", flush=True)
        models("sleep", 600)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as without nohup
    sys.exit(benchmark(suite, options(Path(sys.argv[1]), force=True, against=None)))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_interrupts_the_loading_of_models_ends_it_in_a_sentence(tmp_path, number):
    (tmp_path / "run.py").write_text(LOADING)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert process.stdout.readline() == "loading\n"
    time.sleep(1.0)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) > 1
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "interrupted before anything was measured\n"
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def test_what_interrupts_the_imports_of_a_benchmark_prints_no_traceback(tmp_path):
    late = "import signal; signal.signal(2, signal.default_int_handler)\nimport harness\n"
    (tmp_path / "run.py").write_text(
        f"{late}import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(9)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, tmp_path / "run.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_server_that_hangs_makes_a_row_of_timeouts_and_the_others_are_measured(tmp_path):
    names = ("steady", "hanging")
    results, _ = measured(tmp_path, names, concurrency=[4], timeout=1.0)
    (row,) = results.variants["hanging"].rows
    assert row.requests["timeout"] == row.requests["sent"] >= 4
    assert row.requests_per_second.mean == 0
    assert "no correct answer at 4" in results.variants["hanging"].error
    assert results.variants["steady"].error is None
    assert results.variants["steady"].rows[0].requests["ok"] > 10
    (row,) = (
        measured(tmp_path, ("hanging",), concurrency=[4], timeout=1.0)[0].variants["hanging"].rows
    )
    assert row.requests["timeout"] >= 4


def test_a_server_slower_than_its_windows_is_measured_over_whole_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(epochs, "LONGEST_WINDOW", 1)  # 0.25 s each
    bodies = [json.dumps({"n": number, "sleep_s": 1.0}).encode() for number in range(100)]
    slow = suite("steady")
    slow.bodies = bodies
    wanted = options(tmp_path, concurrency=[1], timeout=10.0)
    results = run(slow, wanted, Console(file=io.StringIO(), width=200))
    (row,) = results.variants["steady"].rows
    assert results.variants["steady"].error is None
    assert row.requests["ok"] == row.requests["sent"] >= 2
    assert row.requests_per_second.mean == pytest.approx(1.0, rel=0.1)


def test_only_what_kills_its_process_has_no_figure_without_a_server(tmp_path, monkeypatch):
    with LastingProcess("tests.test_module_process") as models:

        def in_process(_: NumbersSuite, variant: str) -> float:
            models("die") if variant == "paced" else models("keep", 1)
            return 5.0

        monkeypatch.setattr(NumbersSuite, "in_process", in_process)
        results, _ = measured(tmp_path, ("paced", "steady"), concurrency=[4])
    assert "die: its process ended with -9" in results.variants["paced"].error
    assert results.variants["paced"].rows[0].requests["ok"] > 5
    assert results.variants["steady"].error is None
    assert results.variants["steady"].in_process_per_second == 5.0


def test_a_load_process_that_dies_twice_costs_one_server_its_measuring(tmp_path, monkeypatch):
    run_job, failed = epochs.Campaign.window, []

    def window(self, server, job, epoch):
        if server.server.info["variant"] == "paced" and not failed:
            failed.append(server.server.pid)
            job = replace(job, check=end_process)
        return run_job(self, server, job, epoch)

    monkeypatch.setattr(epochs.Campaign, "window", window)
    results, log = measured(tmp_path, ("steady", "paced"), concurrency=[4])
    assert "the load generator failed twice" in results.variants["paced"].error, log
    assert results.variants["steady"].error is None
    assert results.complete


def end_process(*_: object) -> None:
    """A check that no process survives."""
    os._exit(7)


@pytest.mark.parametrize(("lasting", "minutes"), [(False, 1.0), (True, 1.0), (False, 0.001)])
def test_a_window_in_which_the_machine_slept_is_dropped_said_and_measured_again_in_time(
    monkeypatch, lasting, minutes
):
    made = running.Run(suite("steady"), options(Path(), minutes=minutes))
    said = []
    campaign = epochs.Campaign(
        made.plan, None, None, None, None, lambda *words: said.append(" ".join(words)), None, None
    )
    campaign.began = time.monotonic() - 0.1
    asleep = iter(
        [Clocks(0, 0, 0), Clocks(1, 6, 6), Clocks(6, 11, 11), Clocks(7, 12 + 3 * lasting, 12)]
    )
    monkeypatch.setattr(epochs, "read_clocks", lambda: next(asleep))
    windows = iter("ab")
    result = campaign.undisturbed(lambda: next(windows), "steady")
    assert result == ("b" if not lasting and minutes == 1.0 else None)
    assert len(campaign.measured.dropped) == len(said) == 1 + lasting
    assert "steady was measured while the machine was suspended for 5.0 s: dropped" in said[0]
    made.measured = campaign.measured
    (note,) = made.dropped()
    assert note.startswith(f"{1 + lasting} window(s) dropped: steady: the machine was suspended")


@pytest.mark.alone
def test_every_epoch_ends_with_capacity_blocks_of_all_servers_each_at_its_own_rate(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(capacity, "SLOS", 5)  # short windows: how well they know is not asked here
    wanted = {"concurrency": [4], "slo_p99_ms": 90.0, "epochs": 2, "minutes": 0.4}
    results, log = measured(tmp_path, ("paced", "slowed"), **wanted)
    assert "0.8 min, half of it for capacities at p99 90 ms, 2 epoch(s)" in log
    blocks: dict[tuple[int, int], list] = {}
    for window in results.capacity_windows:
        blocks.setdefault((window.epoch, window.block), []).append(window)
    servers = {tuple(sorted(each.server for each in block)) for block in blocks.values()}
    assert servers == {("A/A control", "paced", "slowed")}
    assert {epoch for epoch, _ in blocks} == {0, 1}
    assert len({each.offered_rate for block in blocks.values() for each in block}) > 5
    for epoch in (0, 1):
        ordinary = {window.block for window in results.windows if window.epoch == epoch}
        assert max(ordinary) < min(block for of, block in blocks if of == epoch)
    assert any(each.late == 0 < each.requests["ok"] for each in results.capacity_windows)
    assert any(each.late > 0 for each in results.capacity_windows)
    assert results.variants["paced"].error is None
    beyond = [each for each in results.capacity_windows if each.offered_rate > 75]
    assert all(each.late > 0 for each in beyond)  # 20 ms each are 50 requests/s at most
    rate = results.variants["paced"].capacity.requests_per_second
    assert rate is None or rate.mean < 50  # 20 ms each; a machine that stalls finds none in time
    assert judged(read_results(tmp_path / "benchmark_results.json")) == results


def test_windows_that_do_not_fit_into_the_time_are_not_begun_and_the_capacity_is_unknown(tmp_path):
    results, _ = measured(tmp_path, ("paced",), concurrency=[4], slo_p99_ms=3000.0)
    assert results.complete
    assert results.capacity_windows == []
    assert results.variants["paced"].rows
    assert capacities(results) == [
        "paced: capacity at p99 3000 ms: not known in the time there was"
    ]


def test_a_server_that_answers_no_lone_request_after_a_window_has_failed(tmp_path, monkeypatch):
    def impatient(job, after):
        return replace(capacity_lone(job, after), timeout_s=0.001)

    capacity_lone = epochs.lone_job
    monkeypatch.setattr(capacity, "SLOS", 5)
    monkeypatch.setattr(epochs, "lone_job", impatient)
    wanted = {"concurrency": [4], "slo_p99_ms": 90.0, "minutes": 0.15}
    results, log = measured(tmp_path, ("paced",), **wanted)
    assert "no correct answer after" in results.variants["paced"].error
    assert "requests/s were offered" in log
    assert results.variants["paced"].rows


KILLED = """
import sys
from pathlib import Path
from rich.console import Console
from harness.run import run
from tests.numbers.suite import suite
from tests.test_runs import options
if __name__ == "__main__":
    run(suite("steady", "paced"), options(Path(sys.argv[1]), variants=["steady", "paced"],
        concurrency=[4], minutes=20), Console())
"""


def test_a_killed_run_leaves_no_process_frozen_or_not(tmp_path):
    (tmp_path / "run.py").write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", tmp_path],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "benchmark_results.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = psutil.Process(process.pid).children(recursive=True)
    assert any(each.status() == psutil.STATUS_STOPPED for each in family)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive
