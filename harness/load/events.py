"""Server-sent events in an answer, each with the moment its last byte arrived.

Source: WHATWG HTML, "Server-sent events": an event ends with an empty line, its payload follows
"data:".
"""

from bisect import bisect_left
from collections.abc import Sequence


def events(body: bytes, arrivals: Sequence[tuple[int, float]]) -> list[tuple[float, bytes]]:
    """(moment, payload) of every complete event.

    Args:
        body: the whole answer.
        arrivals: (bytes of the body received so far, moment) of every piece, in order.
    """
    received = [size for size, _ in arrivals]
    complete, start = [], 0
    while (end := body.find(b"\n\n", start)) >= 0:
        if payload := data_of(body[start:end]):  # comments are events without data
            complete.append((arrivals[bisect_left(received, end + 2)][1], payload))
        start = end + 2
    return complete


def data_of(event: bytes) -> bytes:
    """The payload of one event; empty if it has none."""
    lines = [line for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
