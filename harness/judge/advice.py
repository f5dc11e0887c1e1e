"""What the verdicts mean for a reader: what to use for what, and what is not known yet.

A variant is recommended only where its verdict against the baseline is "faster"; for all loads
together, where it is known to lose nowhere more than the margin besides. Undecided is never taken
for equal, and both are named.
"""

from collections.abc import Callable

from scipy.stats import gmean

from harness.judge.capacity import is_capacity
from harness.judge.estimation import Estimate, equivalent
from harness.judge.verdicts import (
    FASTER,
    MARGIN_PERCENT,
    NOT_COUNTED,
    SAME,
    SLOWER,
    UNDECIDED,
    is_no_loss,
)
from harness.results.schema import Comparison, Verdict

LONE, LIGHT, ONLY = "lone requests", "the lightest load", "the only load"
MANY, BALANCED = "many concurrent requests", "a balance of both"
ByVariant = dict[str, Comparison]
Compare = Callable[[str, str, str], Estimate | None]


def advice(verdicts: list[Verdict], baseline: str | None, compare: Compare) -> list[str]:
    """One sentence per variant that wins somewhere, then one per use, capacity last; empty without
    verdicts.

    Args:
        verdicts: of the run.
        baseline: what the others are compared with.
        compare: (variant, against, load) to how much faster it is.
    """
    by_load: dict[str, ByVariant] = {}
    for verdict in verdicts:
        if verdict.against == baseline and verdict.comparison.ci95:
            by_load.setdefault(verdict.load, {})[verdict.variant] = verdict.comparison
    carried = {load: by_load.pop(load) for load in list(by_load) if is_capacity(load)}
    uses = [f"best for {load}: {best(baseline, load, carried, compare)}" for load in carried]
    return uses_of(baseline, by_load, compare) + uses if by_load else uses


def uses_of(baseline: str, by_load: dict[str, ByVariant], compare: Compare) -> list[str]:
    """What to use under which of the loads that were measured."""
    loads = list(by_load)
    names = list(dict.fromkeys(name for each in by_load.values() for name in each))
    wins = [crossover(name, baseline, by_load) for name in names]
    light = LONE if loads[0] == "1" else LIGHT if len(loads) > 1 else ONLY
    uses = [f"best for {light} (at {loads[0]}): {best(baseline, loads[0], by_load, compare)}"]
    if len(loads) > 1:
        uses.append(
            f"best for {MANY} (at {loads[-1]}): {best(baseline, loads[-1], by_load, compare)}"
        )
        uses.append(f"best for {BALANCED}: {balanced(baseline, by_load, compare)}")
    return [sentence for sentence in wins if sentence] + uses


def crossover(name: str, baseline: str, by_load: dict[str, ByVariant]) -> str | None:
    """Where a variant is faster than the baseline; "from ... up" only if nothing contradicts."""
    loads = list(by_load)
    wins = [
        load for load in loads if name in by_load[load] and by_load[load][name].verdict == FASTER
    ]
    if not wins:
        return None
    if wins == loads and len(loads) > 1:
        return f"{name} beats {baseline} at every load measured"
    if len(wins) > 1 and wins == loads[loads.index(wins[0]) :]:
        return f"{name} beats {baseline} from {wins[0]} up"
    return f"{name} beats {baseline} at {', '.join(wins)}"


def best(baseline: str, load: str, by_load: dict[str, ByVariant], compare: Compare) -> str:
    """What to use at one load, what is the same, and what is not known well enough to say."""
    here = by_load[load]
    winners = [name for name in here if here[name].verdict == FASTER]
    top = max(winners, key=lambda name: here[name].percent, default=baseline)
    others = {
        name: here[name].verdict if top == baseline else standing(compare(name, top, load))
        for name in here
        if name != top
    }
    return f"{top}{f', {here[top].text}' if top in here else ''} {rivals(others)}"


def standing(estimate: Estimate | None) -> str:
    """Of a variant against the one that is chosen: the same, slower, or neither for certain."""
    if estimate is None:
        return UNDECIDED
    if equivalent(estimate, MARGIN_PERCENT / 100):
        return SAME
    return SLOWER if estimate.interval()[1] < 0 else UNDECIDED


def rivals(standings: dict[str, str]) -> str:
    """What the choice is not known to beat."""
    same, undecided = (
        ", ".join(name for name, own in standings.items() if own == word) or "none"
        for word in (SAME, UNDECIDED)
    )
    return f"(same within {MARGIN_PERCENT:g} %: {same}; undecided: {undecided})"


def since_revision(verdicts: list[Verdict]) -> list[str]:
    """A sentence per variant: what became of it since the revision it is compared with."""
    by_variant: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_variant.setdefault(verdict.variant, []).append(verdict)
    return [f"{name}: {'; '.join(changes(own))}" for name, own in by_variant.items()]


def changes(verdicts: list[Verdict]) -> list[str]:
    """What is certain first, load by load; then where it is the same, and where nobody knows."""
    words = {SAME: f"{SAME} within {MARGIN_PERCENT:g} %"}
    words |= {UNDECIDED: UNDECIDED, NOT_COUNTED: f"{NOT_COUNTED} for wrong answers"}
    certain = [
        f"{each.comparison.text} at {each.load}"
        for each in verdicts
        if each.comparison.verdict not in words
    ]
    loads = {
        word: [each.load for each in verdicts if each.comparison.verdict == word] for word in words
    }
    return certain + [f"{words[word]} at {', '.join(at)}" for word, at in loads.items() if at]


def balanced(baseline: str, by_load: dict[str, ByVariant], compare: Compare) -> str:
    """Of the variants that are faster somewhere, and known to be slower nowhere by more than the
    margin, the one that is faster at the most loads; of several, that with the highest geometric
    mean of its rates.

    What is known to be slower than that one at any load is left out: it is no better choice.
    """
    names = list(dict.fromkeys(name for each in by_load.values() for name in each))
    own = {name: [here[name] for here in by_load.values() if name in here] for name in names}
    words = {name: [each.verdict for each in own[name]] for name in names}
    gains = {
        name: (each.count(FASTER), gmean([1 + one.percent / 100 for one in own[name]]))
        for name, each in words.items()
        if len(each) == len(by_load) and FASTER in each and all(map(is_no_loss, own[name]))
    }
    if not gains:
        open_ = [n for n, each in words.items() if UNDECIDED in each and SLOWER not in each]
        return f"{baseline}; no variant is known to be faster somewhere and slower nowhere" + (
            f" (undecided: {', '.join(open_)})" if open_ else ""
        )
    top = max(gains, key=gains.get)
    others = {
        name: overall([standing(compare(name, top, load)) for load in by_load])
        for name, each in words.items()
        if name != top and len(each) == len(by_load) and SLOWER not in each
    }
    count, at = gains[top][0], "every load"
    if count < len(by_load):
        alike = "the same"
        if set(words[top]) - {FASTER, SAME}:
            alike = f"not slower by {MARGIN_PERCENT:g} %"
        at = f"{count} of {len(by_load)} loads and {alike} at the others"
    return f"{top}, faster at {at} {rivals(others)}"


def overall(standings: list[str]) -> str:
    """One variant's standings at all loads in a word."""
    return next((word for word in (SLOWER, UNDECIDED) if word in standings), SAME)
