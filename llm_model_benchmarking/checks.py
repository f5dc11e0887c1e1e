"""Judging a streamed answer: complete, as long as asked, and how far it follows the baseline's."""

import json
from typing import Any

from harness.load.events import events


class ChatCheck:
    """A streamed answer is correct if complete and as long as asked; its quality is its agreement.

    The load generator's process gets a copy: it must need nothing that is large or slow to import.

    Args:
        expected: ids of the baseline's greedy answers, by request.
        tokens: how long every answer has to be.
    """

    def __init__(self, expected: list[list[int]], tokens: int) -> None:
        self.expected, self.tokens = expected, tokens

    def __call__(self, body: bytes, index: int) -> tuple[bool, float | None]:
        """Whether the answer to request `index` is correct, and its agreement if it has ids."""
        *payloads, last = [payload for _, payload in events(body, [(len(body), 0.0)])] or [b""]
        chunks = [chunk_of(payload) for payload in payloads]
        choices = [choice for chunk in chunks for choice in choices_of(chunk)]
        reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
        usages = [chunk["usage"] for chunk in chunks if isinstance(chunk.get("usage"), dict)]
        if {} in chunks or not reasons or not usages:
            return False, None
        # some servers tell usage in every chunk: so far
        as_long = usages[-1].get("completion_tokens") == self.tokens
        correct = last == b"[DONE]" and as_long and reasons[0] == "length"
        ids = [id_ for choice in choices for id_ in choice.get("token_ids") or []]
        return correct, agreement(ids, self.expected[index]) if ids else None


def agreement(ids: list[int], expected: list[int]) -> float:
    """Share of `expected` that `ids` follow before the first difference."""
    same = [mine == theirs for mine, theirs in zip(ids, expected, strict=False)]
    return (same.index(False) if False in same else len(same)) / len(expected)


def carries_token(event: bytes) -> int:
    """How many tokens a server-sent event brings, parts of a character included: as many as it has
    ids, else one if it has text.
    """
    choices = choices_of(chunk_of(event))
    if not choices:
        return 0
    delta = choices[0].get("delta") or {}
    ids = choices[0].get("token_ids")
    return len(ids) if ids else bool(delta.get("content"))


def tokens_told(body: bytes) -> int | None:
    """How many tokens a whole answer says it has; None if it does not say."""
    for _, payload in reversed(events(body, [(len(body), 0.0)])):
        if isinstance(usage := chunk_of(payload).get("usage"), dict):
            return usage.get("completion_tokens")
    return None


def chunk_of(event: bytes) -> dict[str, Any]:
    """The JSON object of an event; empty if it is none."""
    try:
        chunk = json.loads(event)
    except (ValueError, RecursionError):
        return {}
    return chunk if isinstance(chunk, dict) else {}


def choices_of(chunk: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chunk; a chunk of usage alone has none."""
    choices = chunk.get("choices")
    return [each for each in choices if isinstance(each, dict)] if isinstance(choices, list) else []
