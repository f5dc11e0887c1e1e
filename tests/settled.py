"""Totals of a server, read once they stand still: requests are counted after their answers."""

import time
from collections.abc import Callable
from typing import TypeVar

Totals = TypeVar("Totals")
LONGEST_S = 30.0


def settled(
    read: Callable[[], Totals],
    complete: Callable[[Totals], bool] = lambda _: True,
    still_s: float = 0.3,
) -> Totals:
    """What `read` returns once that is complete and the same again; after LONGEST_S as it is.

    Args:
        complete: whether all is counted that is expected, as far as one knows.
        still_s: until it is read again: a process that has to count may wait for a core.
    """
    deadline, before, now = time.monotonic() + LONGEST_S, None, read()
    while (now != before or not complete(now)) and time.monotonic() < deadline:
        time.sleep(still_s)
        before, now = now, read()
    return now
