"""From the records of all servers to noise floors and verdicts: who is compared with whom, by
epoch.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

from harness.judge.statistics import compared, noise_floor
from harness.measure.window import Record
from harness.results.run import Comparison, Verdict


def noise_floors(first: Record, second: Record, loads: list[str]) -> dict[str, float | None]:
    """Per offered load, what two launches of the same server differ by, in percent."""
    return {load: noise_floor(*paired([first], [second], load)) for load in loads}


def verdicts(
    builds_on: Mapping[str, str | None],
    loads: list[str],
    records_of: Callable[[str], list[Record]],
    floors: Mapping[str, float | None],
) -> list[Verdict]:
    """Every variant against the first, the baseline, and against the one it builds on, per load.

    Args:
        builds_on: by variant, the one it is the difference to; the baseline first.
        loads: names of the offered loads.
        records_of: the records of a variant's servers; empty if it was not measured.
        floors: noise floor by load.
    """
    baseline, *others = builds_on
    pairs = [
        (name, against)
        for name in others
        for against in dict.fromkeys((baseline, builds_on[name]))
        if records_of(name) and records_of(against)
    ]
    return [
        Verdict(
            name, against, load, comparison(records_of(name), records_of(against), load, floors)
        )
        for name, against in pairs
        for load in loads
    ]


def comparison(
    mine: list[Record], theirs: list[Record], load: str, floors: Mapping[str, float | None]
) -> Comparison:
    """One comparison; none where answers were wrong, for their speed is worth nothing."""
    wrong = sum(record.wrong_answers(load) for record in mine + theirs)
    if wrong:
        return Comparison(None, None, 0, "not counted", f"not counted: {wrong} wrong answers")
    return compared(*paired(mine, theirs, load), floors.get(load))


def paired(first: list[Record], second: list[Record], load: str) -> tuple[list[float], list[float]]:
    """The rates of the epochs that both have measured."""
    a, b = rates_by_epoch(first, load), rates_by_epoch(second, load)
    both = sorted(a.keys() & b.keys())
    return [a[epoch] for epoch in both], [b[epoch] for epoch in both]


def rates_by_epoch(records: list[Record], load: str) -> dict[int, float]:
    """Correct answers per second; of two servers of a variant in an epoch, the geometric mean.

    The baseline's second server so halves the noise of what all others are compared with.
    """
    rates = defaultdict(list)
    for record in records:
        for epoch, rate in record.rates(load).items():
            rates[epoch].append(rate)
    return {epoch: math.prod(each) ** (1 / len(each)) for epoch, each in rates.items()}
