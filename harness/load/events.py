"""Server-sent events in an answer, each with the moment its last byte arrived.

Source: WHATWG HTML, "Server-sent events": an event ends with an empty line, its payload follows "data:".
"""

from bisect import bisect_left


def events(body: bytes, arrivals: list[tuple[int, float]]) -> list[tuple[float, bytes]]:
    """(moment, payload) of every complete event.

    Args:
        body: the whole answer.
        arrivals: (bytes of the body received so far, moment) of every piece, in order.
    """
    received = [size for size, _ in arrivals]
    found, start = [], 0
    while (end := body.find(b"\n\n", start)) >= 0:
        moment = arrivals[bisect_left(received, end + 2)][1]
        payload = b"\n".join(
            line[5:].removeprefix(b" ") for line in body[start:end].split(b"\n") if line.startswith(b"data:")
        )
        if payload:  # comments are events without data
            found.append((moment, payload))
        start = end + 2
    return found
