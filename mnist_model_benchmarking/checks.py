"""Judging an answer of an MNIST server: every digit must be the one that the model sees."""

import json


class DigitCheck:
    """An answer is correct if all its digits are as expected; its quality is its accuracy.

    The load generator's process gets a copy: it must need nothing that is large or slow to import.

    Args:
        expected: the digits that the full-precision model sees, by request.
        labels: the true digits, by request.
    """

    def __init__(self, expected: list[list[int]], labels: list[list[int]]) -> None:
        self.expected, self.labels = expected, labels

    def __call__(self, body: bytes, index: int) -> tuple[bool, float]:
        """Whether the answer to request `index` is correct, and its share of true digits."""
        try:
            digits = [prediction["digit"] for prediction in json.loads(body)["predictions"]]
        except (ValueError, KeyError, TypeError):
            return False, 0.0
        labels = self.labels[index]
        true = sum(digit == label for digit, label in zip(digits, labels, strict=False))
        return digits == self.expected[index], true / len(labels)
