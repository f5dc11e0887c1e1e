"""Judging answers of a server of which nothing is known but what it answered without load."""

import json
import math
from typing import Any

from harness.load.events import events

RELATIVE, ABSOLUTE = 1e-3, 1e-6  # what numbers may differ by: batches round in another order
DONE = b"[DONE]"  # how streams that follow OpenAI's protocol end


class AnswerCheck:
    """An answer is correct if it is whole and, where one is expected, the same as that.

    The load generator's process gets a copy: it must need nothing that is large or slow to import.

    Args:
        expected: the unloaded server's answer, by request; None where any will do.
        ending: how every answer has to end.
        streams_events: whether answers are server-sent events.
    """

    def __init__(
        self, expected: list[bytes | None], ending: bytes = b"", streams_events: bool = False
    ) -> None:
        self.expected, self.ending, self.streams_events = expected, ending, streams_events

    def __call__(self, body: bytes, index: int) -> tuple[bool, None]:
        """Whether the answer to request `index` is correct."""
        expected = self.expected[index]
        if expected is not None:
            return same_answer(body, expected, self.streams_events), None
        return ends_with(body, self.ending), None


def ends_with(body: bytes, ending: bytes) -> bool:
    """Whether an answer is whole, which nothing but its end can tell."""
    return (body.rstrip() if ending == DONE else body).endswith(ending)


def ending_of(answers: list[bytes]) -> bytes:
    """How all of these whole answers end; empty if they have nothing in common."""
    return next(
        ending
        for ending in (DONE, b"\n\n", b"\n", b"")
        if all(ends_with(answer, ending) for answer in answers)
    )


def same_answer(body: bytes, other: bytes, streams_events: bool = False) -> bool:
    """Whether two answers say the same: JSON whatever the order of its keys, numbers about."""
    if body == other:
        return True
    return same(parsed(body, streams_events), parsed(other, streams_events))


def parsed(body: bytes, streams_events: bool) -> Any:
    """What an answer holds: a JSON document, one per event or line, or else its bytes."""
    if streams_events:
        payloads = [payload for _, payload in events(body, [(len(body), 0.0)])]
        return [document(payload) for payload in payloads]
    try:
        return json.loads(body)
    except ValueError:
        return [document(line) for line in body.splitlines()]


def document(text: bytes) -> Any:
    """A JSON document, or else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are the same; numbers that are not both whole within a tolerance."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    if numbers and (isinstance(one, float) or isinstance(other, float)):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return one == other


def carries_output(event: bytes) -> bool:
    """Whether an event of a stream is more than its end."""
    return event != DONE
