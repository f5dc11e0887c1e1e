"""Orders in which every server is measured once, and follows every other one equally often."""

import random
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import TypeVar

T = TypeVar("T")


def balanced_orders(items: Sequence[T], order: random.Random) -> Iterator[list[T]]:
    """Rows of a Williams square over the items, shuffled, again and again.

    In so many rows as there are items (twice as many for an odd number), each item stands once in
    every place and directly after each other one equally often (Williams 1949).
    """
    labels = order.sample(list(items), len(items))
    rows = [[labels[at] for at in row] for row in williams(len(labels))]
    order.shuffle(rows)
    return cycle(rows)


def williams(count: int) -> list[list[int]]:
    """The rows of a Williams square of so many treatments: `count`, or twice as many if odd."""
    # 0, n - 1, 1, n - 2, 2, ...: neighbours differ by every amount once
    first = [at // 2 if at % 2 == 0 else count - 1 - at // 2 for at in range(count)]
    rows = [[(each + shift) % count for each in first] for shift in range(count)]
    return rows + ([row[::-1] for row in rows] if count % 2 else [])
