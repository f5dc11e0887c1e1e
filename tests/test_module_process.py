"""A function in a process of its own: what it returns, raises, notices; how its death is known."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.process.module_process import (
    LastingProcess,
    ModuleProcess,
    ProcessDiedError,
    notify_caller,
)

MODULE = "tests.test_module_process"
kept: list[int] = []


def keep(number: int) -> list[int]:
    """What this process was given so far."""
    kept.append(number)
    return kept


def environment(name: str) -> str | None:
    return os.environ.get(name)


def refuse(words: str) -> None:
    raise LookupError(words)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(mark: str) -> list[int]:
    """The first process that is asked this dies, the next one answers."""
    if not Path(mark).exists():
        Path(mark).touch()
        die()
    return kept


def notice(times: int) -> str:
    for number in range(times):
        notify_caller(number)
    return "done"


def notice_and_wait(seconds: float = 0.0) -> float:
    """Tells it so late; returns when the caller had done what it does about it."""
    time.sleep(seconds)
    notify_caller("now", hold=True)
    return time.monotonic()


def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "late"


def unpicklable() -> threading.Lock:
    return threading.Lock()


@pytest.fixture
def process():
    with ModuleProcess(MODULE, {"MARK": "here"}) as process:
        yield process


def test_the_process_keeps_what_its_functions_keep_and_this_one_does_not(process):
    assert process("keep", 1) == [1]
    assert process("keep", 2) == [1, 2]
    assert kept == []


def test_its_environment_is_set_before_the_module_is_imported(process):
    assert process("environment", "MARK") == "here"
    assert "MARK" not in os.environ


def test_what_a_function_raises_is_raised_here_and_the_process_lives_on(process):
    with pytest.raises(LookupError, match="no such thing"):
        process("refuse", "no such thing")
    assert process("keep", 3) == [3]


def test_an_answer_that_cannot_be_sent_is_an_error_and_no_silence(process):
    with pytest.raises(RuntimeError, match=r"unpicklable: .*lock"):
        process("unpicklable")


def test_notices_arrive_while_the_function_runs(process):
    noticed = []
    assert process("notice", 3, on_notice=noticed.append) == "done"
    assert noticed == [0, 1, 2]


def test_a_notice_can_wait_for_what_is_done_about_it_and_leaves_nothing_in_the_way(process):
    done = []

    def at_leisure(_: str) -> None:
        time.sleep(0.3)
        done.append(time.monotonic())

    went_on = process("notice_and_wait", on_notice=at_leisure)
    assert len(done) == 1
    assert went_on >= done[0]  # one clock for all processes
    assert process("keep", 5) == [5]


def test_a_process_that_dies_is_noticed_at_once(process):
    began = time.monotonic()
    with pytest.raises(ProcessDiedError, match=r"die: its process ended with -9"):
        process("die")
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessDiedError):
        process("keep", 1)


def test_a_function_that_takes_too_long_is_given_up_and_closing_ends_it():
    with ModuleProcess("time") as process:
        with pytest.raises(TimeoutError, match=r"time.sleep gave no answer"):
            process("sleep", 60, timeout_s=0.1)
        pid = process.process.pid
    assert not psutil.pid_exists(pid)


def test_the_late_answer_of_a_call_that_was_given_up_is_not_taken_for_another(process):
    with pytest.raises(TimeoutError):
        process("slow", 0.5, timeout_s=0.05)
    assert process("keep", 4) == [4]


def test_a_late_notice_of_a_call_that_was_given_up_does_not_take_the_next_call_for_its_answer(
    process,
):
    with pytest.raises(TimeoutError):
        process("notice_and_wait", 0.5, timeout_s=0.05)
    assert process("keep", 4, timeout_s=20) == [4]


def test_what_a_notice_raises_leaves_nothing_in_the_way(process):
    with pytest.raises(ZeroDivisionError):
        process("notice_and_wait", on_notice=lambda _: 1 / 0)
    assert process("keep", 4, timeout_s=20) == [4]


def test_a_process_that_dies_is_replaced_told_what_it_knew_and_asked_once_more(tmp_path):
    with LastingProcess(MODULE, {"MARK": "here"}) as process:
        process.tell("keep", 1)
        process("keep", 2)
        assert process("die_once", str(tmp_path / "mark")) == [1]
        assert process("environment", "MARK") == "here"


def test_what_is_silent_twice_fails_alone():
    with LastingProcess("time") as process:
        with pytest.raises(TimeoutError):
            process("sleep", 60, timeout_s=1.0)
        began = time.monotonic()
        process("sleep", 0, timeout_s=20)
        assert time.monotonic() - began < 20


def test_what_kills_its_process_twice_fails_alone():
    with LastingProcess(MODULE) as process:
        for number in (1, 2):
            with pytest.raises(ProcessDiedError, match=r"die: its process ended with -9"):
                process("die")
            assert process("keep", number) == [number]


KILLED = """
import os, signal, sys, time
from harness.process.module_process import ModuleProcess
if __name__ == "__main__":
    process = ModuleProcess("time")
    process("monotonic")
    print(process.process.pid, flush=True)
    if sys.argv[1] == "kill":
        process.pipe.send((2, "sleep", (600,)))
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    print(process("monotonic") > 0)
"""


def caller(tmp_path, how: str) -> list[str]:
    """What a process prints that has a module's in it, and ends or gets signals meanwhile."""
    (tmp_path / "run.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, tmp_path / "run.py", how]
    done = subprocess.run(
        command, capture_output=True, env=environment, start_new_session=True, timeout=60
    )
    return done.stdout.decode().split()


def test_a_busy_process_does_not_outlive_a_caller_that_is_killed(tmp_path):
    pid = int(caller(tmp_path, "kill")[0])
    deadline = time.monotonic() + 15
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_signal_to_the_callers_whole_group_does_not_reach_it(tmp_path):
    assert caller(tmp_path, "term")[1] == "True"
