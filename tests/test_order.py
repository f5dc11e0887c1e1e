"""Orders that balance who stands where, and who follows whom; which blocks are begun."""

import random
from argparse import Namespace
from collections import Counter
from itertools import islice, pairwise

import pytest

from harness.measure import epochs
from harness.measure.order import balanced_orders, williams
from harness.measure.window import OfferedLoad


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


@pytest.mark.parametrize(("of_epochs", "high_blocks"), [(3, 1), (2, 2)])
def test_after_the_least_of_blocks_none_is_begun_that_would_not_end_in_time(
    monkeypatch, of_epochs, high_blocks
):
    """Blocks take a second at 1, thirty at 16: 13 s beyond the least are for 1 alone."""
    seconds, now, begun = {"1": 1.0, "16": 30.0}, [0.0], []
    loads = [OfferedLoad(1), OfferedLoad(16)]
    plan = Namespace(seed=0, epochs=of_epochs, loads=loads)
    nothing = [lambda *_: None] * 3
    campaign = epochs.Campaign(plan, lambda *_: None, None, None, *nothing, lambda: loads)
    monkeypatch.setattr(epochs, "time", Namespace(monotonic=lambda: now[0]))

    def measure_block(_epoch, _running, offered, _order):
        begun.append(offered.name)
        now[0] += seconds[offered.name]

    campaign.began = 0.0
    campaign.measure_block, campaign.measure_ceilings = measure_block, lambda *_: None
    campaign.measure_blocks(0, loads, {"a": None, "b": None}, {}, 31.0 * high_blocks + 13)
    assert begun.count("16") == high_blocks
    assert begun.count("1") == 13 + high_blocks
    assert now[0] == 31 * high_blocks + 13
