"""From the records of all variants to noise floors and verdicts: who is compared with whom, round by round."""

import math
from collections import defaultdict
from collections.abc import Callable

from harness.results.summary import Record
from harness.results.run import Verdict, verdict_of
from harness.judge.statistics import Comparison, compared, noise_floor
from harness.suite import Variant


def noise_floors(first: Record, second: Record, levels: list[str]) -> dict[str, float | None]:
    """Per level, what two launches of the same server differ by, in percent."""
    return {level: noise_floor(*paired([first], [second], level)) for level in levels}


def verdicts(
    variants: list[Variant],
    levels: list[str],
    records_of: Callable[[str], list[Record]],
    floors: dict[str, float | None],
) -> list[Verdict]:
    """Every variant against the first, the baseline, and against the one it builds on, per level."""
    found = []
    for variant in variants[1:]:
        for against in dict.fromkeys((variants[0].name, variant.builds_on)):
            mine, theirs = records_of(variant.name), records_of(against)
            if mine and theirs:
                found += [
                    verdict_of(variant.name, against, level, comparison(mine, theirs, level, floors.get(level)))
                    for level in levels
                ]
    return found


def comparison(mine: list[Record], theirs: list[Record], level: str, floor_percent: float | None) -> Comparison:
    """One comparison; none where answers were wrong, for their speed is worth nothing."""
    wrong = sum(record.wrong_answers(level) for record in mine + theirs)
    if wrong:
        return Comparison(None, None, 0, "not counted", f"not counted: {wrong} wrong answers")
    return compared(*paired(mine, theirs, level), floor_percent)


def paired(first: list[Record], second: list[Record], level: str) -> tuple[list[float], list[float]]:
    """The rates of the rounds that both have measured; of several turns in a round, their geometric mean."""
    a, b = rates_by_round(first, level), rates_by_round(second, level)
    both = sorted(a.keys() & b.keys())
    return [a[round_] for round_ in both], [b[round_] for round_ in both]


def rates_by_round(records: list[Record], level: str) -> dict[int, float]:
    """Requests per second of right answers; two baselines in a round halve the noise of what all are compared with."""
    turns = defaultdict(list)
    for record in records:
        for round_, rate in record.rates(level).items():
            turns[round_].append(rate)
    return {round_: math.prod(rates) ** (1 / len(rates)) for round_, rates in turns.items()}
