"""Judging a streamed answer: complete, as long as asked, and how far it follows the baseline's."""

import json

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
        *chunks, last = [payload for _, payload in events(body, [(len(body), 0.0)])] or [b""]
        try:
            chunks = [json.loads(chunk) for chunk in chunks]
            choices = [choice for chunk in chunks for choice in chunk["choices"]]
            usage = next(chunk["usage"] for chunk in chunks if chunk.get("usage"))
            reason = next(choice["finish_reason"] for choice in choices if choice["finish_reason"])
            as_long = usage["completion_tokens"] == self.tokens
        except (ValueError, KeyError, TypeError, StopIteration):
            return False, None
        correct = last == b"[DONE]" and as_long and reason == "length"
        ids = [id_ for choice in choices for id_ in choice.get("token_ids") or []]
        return correct, agreement(ids, self.expected[index]) if ids else None


def agreement(ids: list[int], expected: list[int]) -> float:
    """Share of `expected` that `ids` follow before the first difference."""
    same = [mine == theirs for mine, theirs in zip(ids, expected, strict=False)]
    return (same.index(False) if False in same else len(same)) / len(expected)


def carries_token(event: bytes) -> bool:
    """Whether a server-sent event brings a token, if only a part of a character."""
    if event == b"[DONE]":
        return False
    choices = json.loads(event).get("choices")
    if not choices:
        return False
    delta = choices[0].get("delta", {})
    return bool(choices[0].get("token_ids") or delta.get("content"))
