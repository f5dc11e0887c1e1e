"""Process groups are ended whole, and what has ended is not waited for."""

import subprocess
import sys
import time

import psutil

from harness.process.groups import end_group, group_members, is_alive

ONLY_A_THREAD_IS_LEFT = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("begun", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_group_is_ended_whole_whether_or_not_anybody_reaps_it():
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
    while len(members := group_members(leader.pid)) < 3:
        time.sleep(0.01)
    assert all(map(is_alive, members))
    end_group(leader.pid)
    assert not any(map(is_alive, members))
    assert psutil.Process(leader.pid).status() == psutil.STATUS_ZOMBIE  # not reaped by us
    leader.wait()


def test_a_process_lives_as_long_as_one_of_its_threads():
    """Its ports and memory do too."""
    command = [sys.executable, "-c", ONLY_A_THREAD_IS_LEFT]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    process.stdout.readline()
    seen = psutil.Process(process.pid)
    while seen.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert is_alive(seen)
    end_group(process.pid)
    assert not is_alive(seen)
    process.communicate()
    assert not is_alive(seen)
