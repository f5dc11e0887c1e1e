"""Process groups: ended whole, children die with their parent, signals end a run like Ctrl-C."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import psutil

END_LIMIT_S = 10
INTERRUPTS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP


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
    process. What is ignored, as nohup has SIGHUP, stays ignored.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with handled(interrupt, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off what would interrupt the `with` block until it is over: an impatient second Ctrl-C
    must not leave processes behind.
    """
    came: list[int] = []
    # blocked in this thread, a signal would reach one of numpy's, and interrupt here all the same
    with handled(lambda number, _: came.append(number), *INTERRUPTS):
        yield
    if came:
        signal.raise_signal(came[0])


@contextlib.contextmanager
def handled(handler: Callable[[int, object], None], *numbers: int) -> Iterator[None]:
    """Let the handler take these signals, but for those that are ignored."""
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)
