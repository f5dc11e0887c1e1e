"""What became of each variant since the revision of --against: a row per load, as in a comparison.

Both were measured in the same blocks, so that the verdicts' own intervals are what is judged.
"""

from harness.judge.capacity import is_capacity
from harness.judge.comparison import (
    REGRESSION,
    UNKNOWN,
    RowPair,
    fail_more,
    judged,
    missing,
    more_fail,
)
from harness.results.rows import Row
from harness.results.schema import Results, VariantResult, Verdict


def revision_rows(results: Results, threshold_percent: float) -> list[RowPair]:
    """Every variant of today beside itself at the other revision, under every load."""
    others = set(results.builds_on.values())
    pairs = []
    for name, now in results.variants.items():
        if name in others:
            continue
        before = results.variants.get(now.builds_on)
        pairs += failure(name, before, now)
        if before:
            old, new = ({row.load.name: row for row in each.rows} for each in (before, now))
            pairs += [
                revision_pair(
                    verdict,
                    old.get(verdict.load),
                    new.get(verdict.load),
                    threshold_percent,
                    results.measured_s / 60,
                )
                for verdict in results.verdicts
                if verdict.variant == name
                and (verdict.load in old.keys() & new.keys() or is_capacity(verdict.load))
            ]
    return pairs


def failure(name: str, before: VariantResult | None, now: VariantResult) -> list[RowPair]:
    """A row for a variant that could not be measured to the end at one of the revisions; a new one
    has to work, and what already failed says nothing.
    """
    if before and before.error:
        outcome, text = UNKNOWN, f"inconclusive: the other revision's fails: {first(before.error)}"
    elif now.error:
        outcome, text = REGRESSION, missing(now.error)
    else:
        return []
    return [RowPair(name, "all", None, None, None, None, outcome, text)]


def first(error: str) -> str:
    """The first line of an error; its log comes after it."""
    return error.splitlines()[0]


def revision_pair(
    verdict: Verdict, before: Row | None, now: Row | None, threshold_percent: float, minutes: float
) -> RowPair:
    """One row: its failed requests first, then how much slower it may be."""
    made, where = verdict.comparison, (verdict.variant, verdict.load, before, now)
    if before and now and more_fail(before, now):
        return RowPair(*where, None, None, REGRESSION, fail_more(before, now))
    if made.ci95 is None:
        return RowPair(*where, None, None, UNKNOWN, made.text)
    outcome, text = judged(
        made.percent, *made.ci95, made.resolution_percent, threshold_percent, minutes
    )
    return RowPair(*where, made.percent, made.ci95, outcome, text)
