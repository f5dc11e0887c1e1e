"""Intervals of percentiles: they hold the truth about as often as they say, and are repeatable."""

import numpy
import pytest

from harness.load.latency import PERCENTILES, latency_ms
from harness.results.percentiles import RESAMPLES, latency_ci95_ms, resampled, times_drawn

NAMES = ["mean", *(f"p{each}" for each in PERCENTILES)]
Windows = list[tuple[int, int, numpy.ndarray]]


def windows(
    random: numpy.random.Generator,
    epochs: int = 5,
    blocks: int = 6,
    count: int = 200,
    launch_sd: float = 0.05,
) -> Windows:
    """Exponential latencies whose median is a millisecond, times the luck of each launch."""
    luck = numpy.exp(random.normal(0, launch_sd, epochs))
    return [
        (
            block // blocks,
            block,
            luck[block // blocks] * random.exponential(1e-3 / numpy.log(2), count),
        )
        for block in range(epochs * blocks)
    ]


@pytest.mark.parametrize(("epochs", "least"), [(5, 85), (3, 80)])
def test_an_interval_holds_the_true_median_nearly_as_often_as_it_says(epochs, least):
    """With few epochs less often: they do not show all that launches can differ by."""
    random = numpy.random.default_rng(1)
    intervals = [latency_ci95_ms(windows(random, epochs))["p50"] for _ in range(100)]
    assert least <= sum(low <= 1 <= high for low, high in intervals) < 100


def test_one_epoch_knows_nothing_of_what_launches_differ_by():
    random = numpy.random.default_rng(1)
    intervals = [
        latency_ci95_ms(windows(random, epochs=1, launch_sd=0.2))["p50"] for _ in range(100)
    ]
    assert sum(low <= 1 <= high for low, high in intervals) < 50


def test_an_interval_is_as_wide_as_that_of_a_plain_bootstrap_and_what_few_blocks_lack():
    random = numpy.random.default_rng(2)
    measured = windows(random, epochs=4, blocks=3, count=150)
    epochs = [[each for at, _, each in measured if at == epoch] for epoch in range(4)]

    def plain_resample() -> list[float]:
        drawn = [epochs[at] for at in random.integers(4, size=4)]
        pooled = numpy.concatenate([e[at] for e in drawn for at in random.integers(3, size=3)])
        return list(latency_ms(pooled).values())

    expected = numpy.percentile([plain_resample() for _ in range(2000)], [2.5, 97.5], axis=0)
    made = numpy.array(list(latency_ci95_ms(measured).values())).T
    few = 2.201 / 1.960 * (12 / 11) ** 0.5  # Student's of 11 degrees of freedom, tabulated
    pooled = numpy.concatenate([each for *_, each in measured])
    value = numpy.array(list(latency_ms(pooled).values()))
    assert made == pytest.approx(value + few * (expected - value), rel=0.02)


def test_two_blocks_tell_little():
    """The bootstrap of two spans no more than the two."""
    random, held, widths = numpy.random.default_rng(8), 0, []
    for _ in range(200):
        measured = windows(random, epochs=1, blocks=2, count=16, launch_sd=0)
        low, high = latency_ci95_ms(measured)["mean"]
        held += low <= 1 / numpy.log(2) <= high
        widths.append(high - low)
    assert 0.9 <= held / 200 <= 0.99
    of_thirty = windows(random, epochs=5, blocks=6, count=16, launch_sd=0)
    low, high = latency_ci95_ms(of_thirty)["mean"]
    assert numpy.median(widths) > 8 * (high - low)


def test_a_resample_is_what_its_blocks_are_when_strung_together():
    random = numpy.random.default_rng(3)
    blocks = [random.exponential(0.01, count) for count in (700, 900, 1, 800)]
    drawn = times_drawn([1, 3])
    assert drawn.shape == (RESAMPLES, 4)
    together = [
        latency_ms(
            numpy.concatenate([b for b, n in zip(blocks, times, strict=True) for _ in range(n)])
        )
        for times in drawn[:50]
    ]
    expected = [[row[name] for name in NAMES] for row in together]
    assert 1000 * resampled(blocks, drawn[:50]) == pytest.approx(numpy.array(expected))


def test_as_many_blocks_are_drawn_in_each_epoch_as_it_has():
    drawn = times_drawn([2, 3])
    first, second = drawn[:, :2].sum(axis=1) / 2, drawn[:, 2:].sum(axis=1) / 3
    assert set(first + second) == {2}
    assert set(first) == {0, 1, 2}
    assert drawn.mean(axis=0) == pytest.approx(numpy.ones(5), abs=0.15)


def test_the_same_measurements_give_the_same_intervals():
    measured = windows(numpy.random.default_rng(4))
    assert latency_ci95_ms(measured) == latency_ci95_ms(list(measured))


def test_the_windows_of_one_block_belong_together():
    """The baseline and its A/A control: what the machine did to the block it did to both."""
    random = numpy.random.default_rng(5)
    measured = windows(random, count=400)
    halves = [(*where, half) for *where, each in measured for half in (each[:200], each[200:])]
    assert latency_ci95_ms(halves) == latency_ci95_ms(measured)


def test_an_interval_holds_its_own_value():
    measured = windows(numpy.random.default_rng(6), epochs=1, blocks=2, launch_sd=0)
    measured[1] = (0, 1, 100 * measured[1][2])
    values = latency_ms(numpy.concatenate([each for *_, each in measured]))
    for name, interval in latency_ci95_ms(measured).items():
        if values[name] is not None:
            assert interval[0] <= values[name] <= interval[1]


def test_what_is_not_backed_has_no_interval():
    few = windows(numpy.random.default_rng(7), epochs=2, blocks=2, count=20)
    intervals = latency_ci95_ms(few)
    assert list(intervals) == NAMES
    assert [name for name, interval in intervals.items() if interval] == ["mean", "p50", "p90"]


@pytest.mark.parametrize(
    "measured",
    [[], [(0, 0, [])], [(0, 0, [0.01] * 1000)], [(0, 0, [0.01] * 1000), (0, 1, [])]],
    ids=["nothing", "no answer", "one block", "one block with answers"],
)
def test_without_a_second_block_there_is_no_interval(measured):
    assert latency_ci95_ms(measured) == dict.fromkeys(NAMES)
