"""What the verdicts mean for a reader: from which load on a variant wins, and what to use for what. Nothing is added.

A variant is recommended only where its verdict against the baseline is "faster"; where the rounds cannot tell, the
advice says so.
"""

from harness.results.run import Results, Verdict

LONE, LIGHT, MANY, BALANCED = "lone requests", "the lightest load", "many concurrent requests", "a balance of both"


def advice(results: Results) -> list[str]:
    """One sentence per variant that wins somewhere, then one per use; empty without verdicts against the baseline."""
    baseline = next((name for name, variant in results.variants.items() if variant.builds_on is None), None)
    verdicts = [verdict for verdict in results.verdicts if verdict.against == baseline and verdict.ci95]
    levels = list(dict.fromkeys(verdict.level for verdict in verdicts))
    if not levels:
        return []
    by_variant = {
        name: {verdict.level: verdict for verdict in verdicts if verdict.variant == name}
        for name in dict.fromkeys(verdict.variant for verdict in verdicts)
    }
    told = [sentence for name, mine in by_variant.items() if (sentence := crossover(name, baseline, levels, mine))]
    light = LONE if levels[0] == "1" else LIGHT if len(levels) > 1 else "the only load"
    told.append(f"{light} (at {levels[0]}): {best(baseline, levels[0], by_variant)}")
    if len(levels) > 1:
        told.append(f"{MANY} (at {levels[-1]}): {best(baseline, levels[-1], by_variant)}")
        told.append(f"{BALANCED}: {balanced(baseline, levels, by_variant)}")
    return told


def crossover(name: str, baseline: str, levels: list[str], mine: dict[str, Verdict]) -> str | None:
    """Where a variant is faster than the baseline, if anywhere; "from ... up" only if nothing above contradicts."""
    wins = [level for level in levels if level in mine and mine[level].verdict == "faster"]
    if not wins:
        return None
    if wins == levels and len(levels) > 1:
        return f"{name} beats {baseline} at every load measured"
    if len(wins) > 1 and wins == levels[levels.index(wins[0]) :]:
        return f"{name} beats {baseline} from {wins[0]} up"
    return f"{name} beats {baseline} at {', '.join(wins)}"


def best(baseline: str, level: str, by_variant: dict[str, dict[str, Verdict]]) -> str:
    """What to use at one load: the fastest of those that are faster, all whose intervals reach its mean beside it."""
    here = {name: mine[level] for name, mine in by_variant.items() if level in mine}
    winners = {name: verdict for name, verdict in here.items() if verdict.verdict == "faster"}
    unsure = [name for name, verdict in here.items() if verdict.verdict == "not enough data" and verdict.percent > 0]
    doubt = f"; whether {' or '.join(unsure)} is faster, more rounds would tell" if unsure else ""
    if not winners:
        return f"{baseline}; nothing measured is faster{doubt}"
    top = max(winners, key=lambda name: winners[name].percent)
    level_with = [name for name, verdict in winners.items() if verdict.ci95[1] >= winners[top].percent and name != top]
    others = f", about level with {' and '.join(level_with)}" if level_with else ""
    return f"{top}, {winners[top].text}{others}{doubt}"


def balanced(baseline: str, levels: list[str], by_variant: dict[str, dict[str, Verdict]]) -> str:
    """A variant that is faster somewhere and slower nowhere; the one that is faster most often."""
    fit = {
        name: sum(verdict.verdict == "faster" for verdict in mine.values())
        for name, mine in by_variant.items()
        if set(mine) == set(levels) and all(v.verdict in ("faster", "no detectable difference") for v in mine.values())
    }
    top = max(fit, key=fit.get, default=None)
    if top is None or fit[top] == 0:
        return f"{baseline}; no variant is faster at one load and slower at none"
    return f"{top}, faster at {fit[top]} of {len(levels)} loads and slower at none"
