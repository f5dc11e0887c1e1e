"""Process groups: ended whole, children die with their parent, signals end a run like Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil

END_LIMIT_S = 10


def die_with_parent() -> None:
    """Watch, on a thread, for the death of the multiprocessing parent; then end this process and
    its siblings.

    A LitServe parent that is killed leaves its workers, queue manager and HTTP process behind,
    still answering.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    siblings = psutil.Process(parent.pid).children(recursive=True)

    def watch() -> None:
        parent.join()
        for process in siblings:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil checks that the pid still belongs to the same process
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()


def end_group(group: int) -> None:
    """Kill a process group and wait until it has ended, but not until somebody has noticed: in a
    container, init may take seconds to reap the dead, or never do it.

    A measured server has nothing to finish or to save; LitServe's own way out takes one to two
    seconds of a launch.
    """
    members, deadline = group_members(group), time.monotonic() + END_LIMIT_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    while any(map(is_alive, members)) and time.monotonic() < deadline:
        time.sleep(0.005)


def is_alive(process: psutil.Process) -> bool:
    """Whether any thread of a process has not ended yet."""
    with contextlib.suppress(psutil.NoSuchProcess):
        ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return process.is_running() and not ended
    return False


def group_members(group: int) -> list[psutil.Process]:
    """The living processes of a group."""
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group:
                members.append(process)
    return members


@contextlib.contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a run the way Ctrl-C does: keep what is done, leave no
    process.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = signal.SIGTERM, signal.SIGHUP
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C: an impatient second one must not leave processes behind."""
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
