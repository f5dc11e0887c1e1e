"""The guardian: a process that ends what a killed run has started, frozen servers included.

A stopped process cannot watch for the death of the one that launched it. The guardian reads process
groups from a pipe; when the pipe closes, because the run has ended however it did, it kills them.

    python -m harness.process.guardian      # started by harness.process.launch, once per run
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

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
def guarded(group: int) -> Iterator[None]:
    """Have this process group killed if this process ends before the `with` block does."""
    tell(f"+{group}")
    try:
        yield
    finally:
        tell(f"-{group}")  # its number may be another group's soon


def tell(line: str) -> None:
    """Write one line to the guardian."""
    pipe = guardian().stdin
    pipe.write(f"{line}\n")
    pipe.flush()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        change = groups.add if line.startswith("+") else groups.discard
        change(int(line[1:]))
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
