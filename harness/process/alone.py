"""One benchmark at a time on a machine: two would measure each other."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOCK = "litserve-benchmark.lock"  # in the temporary folder; the kernel unlocks it when we end


@contextlib.contextmanager
def alone_on_this_machine() -> Iterator[None]:
    """Keep other benchmarks out for as long as the `with` block lasts; OSError with one sentence
    if one is running.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = Path(tempfile.gettempdir()) / LOCK
    # another user's file is opened as it is: Linux lets nobody else create it in a shared folder
    flags = os.O_RDONLY | os.O_NOFOLLOW | (0 if path.exists() else os.O_CREAT)
    lock = os.open(path, flags, 0o644)  # no child inherits it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise OSError(
            "another benchmark runs on this machine, and each would slow the other down: wait for "
            "its end, or measure all the same with --force"
        ) from error
    try:
        yield
    finally:
        os.close(lock)
