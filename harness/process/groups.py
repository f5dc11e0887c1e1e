"""Process families: children die with their parent, a group is ended whole, SIGTERM ends a run the way Ctrl-C does."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator

import psutil


def die_with_parent() -> None:
    """Watch, on a thread, for the death of the multiprocessing parent; then end this process and all its siblings.

    A LitServe parent that is killed leaves its workers, queue manager and HTTP process behind, still answering.
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
    """Kill a process group and wait until it is gone.

    A measured server has nothing to finish or to save; LitServe's own way out takes one to two seconds of every turn.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    group_ends(group, 10)


def group_ends(group: int, within_s: float) -> bool:
    """Whether every process of the group has ended in time; zombies that nobody reaps count as ended."""
    deadline = time.monotonic() + within_s
    while any_alive(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def any_alive(group: int) -> bool:
    """Whether a process of this group exists that is not a zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
    return False


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end a run the way Ctrl-C does: keep what is done, leave no process."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
