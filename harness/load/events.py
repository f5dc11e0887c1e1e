"""Server-sent events in an answer, each with the moment its last byte arrived.

Source: WHATWG HTML, "Server-sent events": an event ends with an empty line, its payload follows
"data:".
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence

Arrivals = Sequence[tuple[int, float]]
EventsOf = Callable[[bytes, Arrivals], list[tuple[float, bytes]]]


def events(body: bytes, arrivals: Arrivals) -> list[tuple[float, bytes]]:
    """(moment, payload) of every complete event.

    Args:
        body: the whole answer.
        arrivals: (bytes of the body received so far, moment) of every piece, in order.
    """
    received = [size for size, _ in arrivals]
    between = b"\r\n\r\n" if b"\r\n\r\n" in body else b"\n\n"
    complete, start = [], 0
    while (end := body.find(between, start)) >= 0:
        after = end + len(between)
        if payload := data_of(body[start:end]):  # comments are events without data
            complete.append((arrivals[bisect_left(received, after)][1], payload))
        start = after
    return complete


def pieces(body: bytes, arrivals: Arrivals) -> list[tuple[float, bytes]]:
    """(moment, bytes) of every piece as it arrived, for a body that streams without events."""
    ends = [0, *(size for size, _ in arrivals)]
    return [
        (moment, body[start:end])
        for start, (end, moment) in zip(ends, arrivals, strict=False)
        if end > start
    ]


def data_of(event: bytes) -> bytes:
    """The payload of one event; empty if it has none."""
    lines = [line for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(line[5:].removeprefix(b" ") for line in lines)
