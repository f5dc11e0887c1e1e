"""The guardian: a process that ends what a killed run has started, frozen servers included.

A stopped process cannot watch for the death of the one that launched it. The guardian reads process
groups and directories from a pipe; when the pipe closes, because the run has ended however it did,
it kills and removes them.

    python -m harness.process.guardian      # started by harness.process.launch, once per run
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from harness.process.module_command import module_command, module_environment


@cache
def guardian() -> subprocess.Popen:
    """The guardian of this process, in a session of its own: no Ctrl-C reaches it."""
    return subprocess.Popen(
        module_command("harness.process.guardian"),
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=module_environment(),
    )


@contextlib.contextmanager
def guarded(left: int | Path) -> Iterator[None]:
    """Have this process group killed, or this absolute directory removed, if this process ends
    before the `with` block does.
    """
    tell(f"+{left}")
    try:
        yield
    finally:
        tell(f"-{left}")  # a group's number may be another's soon


def tell(line: str) -> None:
    """Write one line to the guardian."""
    pipe = guardian().stdin
    pipe.write(f"{line}\n")
    pipe.flush()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: set[str] = set()
    for line in sys.stdin:
        change = left.add if line.startswith("+") else left.discard
        change(line[1:].rstrip("\n"))
    for group in filter(str.isdigit, left):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(group), signal.SIGKILL)
    for directory in left:
        if not directory.isdigit():
            shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
