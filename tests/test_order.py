"""Orders that balance who stands where, and who follows whom; which blocks are begun."""

import math
import random
from argparse import Namespace
from collections import Counter
from itertools import islice, pairwise

import pytest

from harness.measure import epochs
from harness.measure.order import balanced_orders, williams
from harness.measure.window import OfferedLoad, Record
from tests.builders import load_result, window


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


LOADS = [OfferedLoad(1), OfferedLoad(16)]
BLOCK_S = {"1": 1.0, "16": 30.0}
Begun = list[tuple[str, bool]]


@pytest.fixture
def campaign_of(monkeypatch):
    """Makes a campaign of so many epochs whose blocks take their seconds of a clock that stands
    still otherwise, and what it has begun: each block's load, and whether it was in time.
    """
    now, begun = [0.0], []
    monkeypatch.setattr(epochs, "time", Namespace(monotonic=lambda: now[0]))

    def measure_block(_epoch, _running, offered, _order, in_time):
        begun.append((offered.name, in_time))
        now[0] += BLOCK_S[offered.name]

    def made(of_epochs: int) -> tuple[epochs.Campaign, Begun]:
        plan, nothing = Namespace(seed=0, epochs=of_epochs, loads=LOADS), [lambda *_: None] * 3
        campaign = epochs.Campaign(plan, lambda *_: None, None, None, *nothing, lambda: LOADS)
        campaign.began = 0.0
        campaign.measure_block, campaign.measure_ceilings = measure_block, lambda *_: None
        return campaign, begun

    return made


def blocks_until(campaign: epochs.Campaign, epoch: int, deadline: float) -> None:
    campaign.measure_blocks(epoch, LOADS, {"a": None, "b": None}, {}, deadline)


@pytest.mark.parametrize(("of_epochs", "high_blocks"), [(3, 1), (2, 2)])
def test_after_the_least_of_blocks_none_is_begun_that_would_not_end_in_time(
    campaign_of, of_epochs, high_blocks
):
    """13 s beyond the least are for 1 alone."""
    campaign, begun = campaign_of(of_epochs)
    blocks_until(campaign, 0, 31.0 * high_blocks + 13)
    assert Counter(begun) == {("16", True): high_blocks, ("1", True): 13 + high_blocks}


def test_blocks_that_have_to_be_begun_know_whether_they_end_in_time(campaign_of):
    """In the first epoch there is time for both, in the second not for 16, then for none."""
    campaign, begun = campaign_of(3)
    for epoch, deadline in enumerate([31.0, 42.0, 42.0]):
        blocks_until(campaign, epoch, deadline)
    assert ("16", False) in begun[2:]
    assert [name for name, in_time in begun if in_time].count("16") == 1
    assert sorted(begun[-2:]) == [("1", False), ("16", False)]


def test_a_variant_lacks_latencies_until_two_blocks_have_told_them_of_any_of_its_servers(
    campaign_of,
):
    campaign, _ = campaign_of(3)
    server, control = (epochs.ServerSpec(name, "paced", "", ()) for name in ("paced", "control"))
    records = {name: Record("paced") for name in ("paced", "control")}
    campaign.measured.records = {"another": Record("another"), **records}
    load = LOADS[1]

    def told_in(block: int, name: str, **changes: float) -> None:
        campaign.measured.records[name].add(load, window(load_result(**changes), block=block))

    told_in(0, "paced", full_since=math.inf)  # its queue never was full
    told_in(0, "another")
    assert campaign.lacks_latencies(server, load)
    told_in(0, "paced")
    assert not campaign.lacks_latencies(control, load)  # this block has told already
    campaign.block = 1
    assert campaign.lacks_latencies(control, load)
    assert campaign.lacks_latencies(server, LOADS[0])
    told_in(1, "control")
    campaign.block = 2
    assert not campaign.lacks_latencies(server, load)
    assert not campaign.lacks_latencies(control, load)
