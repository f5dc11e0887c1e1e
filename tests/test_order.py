"""Orders that balance who stands where, and who follows whom."""

import random
from collections import Counter
from itertools import islice, pairwise

import pytest

from harness.measure.order import balanced_orders, williams


@pytest.mark.parametrize("count", range(1, 10))
def test_everyone_stands_everywhere_and_follows_everyone_equally_often(count):
    rows = williams(count)
    assert all(sorted(row) == list(range(count)) for row in rows)
    places = Counter((place, each) for row in rows for place, each in enumerate(row))
    assert len(set(places.values())) == 1
    neighbours = Counter(pair for row in rows for pair in pairwise(row))
    assert len(neighbours) == count * (count - 1)
    assert len(set(neighbours.values())) <= 1


def test_orders_are_drawn_by_the_seed():
    def first(seed: int) -> list[list[str]]:
        return list(islice(balanced_orders("abcd", random.Random(seed)), 8))

    assert first(1) == first(1) != first(2)
    assert first(1)[:4] == first(1)[4:]
