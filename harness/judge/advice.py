"""What the verdicts mean for a reader: from which load on a variant wins, what to use for what.

A variant is recommended only where its verdict against the baseline is "faster"; where the epochs
cannot tell, the advice says so.
"""

from harness.judge.statistics import NO_DIFFERENCE, NOT_ENOUGH
from harness.results.run import Comparison, Results

LONE, LIGHT, ONLY = "lone requests", "the lightest load", "the only load"
MANY, BALANCED = "many concurrent requests", "a balance of both"
ByLoad = dict[str, Comparison]


def advice(results: Results) -> list[str]:
    """One sentence per variant that wins somewhere, then one per use; empty without verdicts."""
    names = results.variants
    baseline = next((name for name in names if names[name].builds_on is None), None)
    by_variant: dict[str, ByLoad] = {}
    for verdict in results.verdicts:
        if verdict.against == baseline and verdict.comparison.ci95:
            by_variant.setdefault(verdict.variant, {})[verdict.load] = verdict.comparison
    loads = list(dict.fromkeys(load for by_load in by_variant.values() for load in by_load))
    if not loads:
        return []
    light = LONE if loads[0] == "1" else LIGHT if len(loads) > 1 else ONLY
    uses = [f"{light} (at {loads[0]}): {best(baseline, loads[0], by_variant)}"]
    if len(loads) > 1:
        uses.append(f"{MANY} (at {loads[-1]}): {best(baseline, loads[-1], by_variant)}")
        uses.append(f"{BALANCED}: {balanced(baseline, loads, by_variant)}")
    wins = [crossover(name, baseline, loads, by_load) for name, by_load in by_variant.items()]
    return [sentence for sentence in wins if sentence] + uses


def crossover(name: str, baseline: str, loads: list[str], by_load: ByLoad) -> str | None:
    """Where a variant is faster than the baseline; "from ... up" only if nothing contradicts."""
    wins = [load for load in loads if load in by_load and by_load[load].verdict == "faster"]
    if not wins:
        return None
    if wins == loads and len(loads) > 1:
        return f"{name} beats {baseline} at every load measured"
    if len(wins) > 1 and wins == loads[loads.index(wins[0]) :]:
        return f"{name} beats {baseline} from {wins[0]} up"
    return f"{name} beats {baseline} at {', '.join(wins)}"


def best(baseline: str, load: str, by_variant: dict[str, ByLoad]) -> str:
    """What to use at one load: the fastest of those that are faster, and who may equal it."""
    here = {name: by_load[load] for name, by_load in by_variant.items() if load in by_load}
    winners = {name: each for name, each in here.items() if each.verdict == "faster"}
    unsure = [n for n, each in here.items() if each.verdict == NOT_ENOUGH and each.percent > 0]
    doubt = f"; whether {' or '.join(unsure)} is faster, more epochs would tell" if unsure else ""
    if not winners:
        return f"{baseline}; nothing measured is faster{doubt}"
    top = max(winners, key=lambda name: winners[name].percent)
    reach = [n for n, each in winners.items() if each.ci95[1] >= winners[top].percent and n != top]
    level_with = f", about level with {' and '.join(reach)}" if reach else ""
    return f"{top}, {winners[top].text}{level_with}{doubt}"


def balanced(baseline: str, loads: list[str], by_variant: dict[str, ByLoad]) -> str:
    """A variant that is faster somewhere and slower nowhere; the one that is faster most often."""
    fit = {
        name: sum(each.verdict == "faster" for each in by_load.values())
        for name, by_load in by_variant.items()
        if set(by_load) == set(loads)
        and all(each.verdict in ("faster", NO_DIFFERENCE) for each in by_load.values())
    }
    top = max(fit, key=fit.get, default=None)
    if top is None or fit[top] == 0:
        return f"{baseline}; no variant is faster at one load and slower at none"
    return f"{top}, faster at {fit[top]} of {len(loads)} loads and slower at none"
