"""What the verdicts mean for a script: every setting under every load; the lines to put into it."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from harness.judge.verdicts import FASTER, MARGIN_PERCENT, SAME, SLOWER, UNDECIDED, signed
from harness.results.schema import Comparison, Results, VariantResult

ORDER = FASTER, SAME, UNDECIDED, SLOWER
OF_SERVER = (  # LitServer(...) takes them in LitServe 0.2; all others are the LitAPI's
    "accelerator",
    "devices",
    "workers_per_device",
    "timeout",
    "fast_queue",
    "max_payload_size",
    "track_requests",
    "restart_workers",
)
OF_RUN = "num_api_servers", "log_level", "access_log"
TO_MEASURE = "--grid measures every combination"


def sentences(results: Results) -> list[str]:
    """One per load: what each setting does, the fastest value first."""
    return [
        f"for {load_words(results, load)}: {text}"
        for load in results.loads
        if (text := "; ".join(of_settings(results, load)))
    ]


def load_words(results: Results, load: str) -> str:
    """An offered load for people."""
    if results.settings.get("rate"):
        return f"{load} offered"
    return "one at a time" if load == "1" else f"{load} at a time"


def of_settings(results: Results, load: str) -> list[str]:
    """A phrase per setting, or per set of them that was changed together, under this load."""
    by_setting: dict[tuple[str, ...], dict[str, Comparison]] = {}
    for name, comparison in comparisons(results, load).items():
        changed = tuple(results.variants[name].own.changes)
        by_setting.setdefault(changed, {})[name] = comparison
    return [of_values(", ".join(changed), each) for changed, each in by_setting.items()]


def of_values(setting: str, known: dict[str, Comparison]) -> str:
    """What the values of a setting do, the fastest first; of those that are all the same, once."""
    if len(known) > 1 and {each.verdict for each in known.values()} == {SAME}:
        values = ", ".join(name.partition("=")[2] for name in known)
        text = next(iter(known.values())).text.partition(" [")[0]
        return f"{setting}: {text} ({values})" if "," not in setting else f"{setting}: {text}"

    def rank(name: str) -> tuple[int, float]:
        word = known[name].verdict
        return ORDER.index(word) if word in ORDER else len(ORDER), -(known[name].percent or 0)

    return ", ".join(f"{name}, {known[name].text}" for name in sorted(known, key=rank))


def comparisons(results: Results, load: str) -> dict[str, Comparison]:
    """By variant, its comparison with the script as written under this load; a difference that is
    known to lie within the margin is none that one would change a script for.
    """
    return {
        each.variant: within_margin(each.comparison)
        for each in results.verdicts
        if each.against == results.baseline and each.load == load
    }


def within_margin(comparison: Comparison) -> Comparison:
    """The comparison, called the same where all of its interval lies within the margin."""
    decided = comparison.verdict in (FASTER, SLOWER) and comparison.ci95
    if not decided or max(map(abs, decided)) >= MARGIN_PERCENT:
        return comparison
    low, high = map(signed, decided)
    return replace(
        comparison, verdict=SAME, text=f"{SAME} within {MARGIN_PERCENT:g} % [{low}, {high}]"
    )


def lines_to_add(results: Results) -> list[str]:
    """What to put into the script, and for which load; only what is known to be faster there."""
    if not any(comparisons(results, load) for load in results.loads):
        return []
    winners: dict[str, list[str]] = {}
    for load in results.loads:
        if name := fastest(comparisons(results, load)):
            winners.setdefault(name, []).append(load)
    if not winners:
        return [
            "nothing to change in the script: no setting is known to be faster by more than "
            f"{MARGIN_PERCENT:g} %"
        ]
    said = [line for name, loads in winners.items() for line in of_winner(results, name, loads)]
    return said + untried(results)


def fastest(known: dict[str, Comparison]) -> str | None:
    """The variant that is known to be faster than the script as written, and by most."""
    faster = {
        name: each.percent
        for name, each in known.items()
        if each.verdict == FASTER and each.percent > MARGIN_PERCENT
    }
    return max(faster, key=faster.get, default=None)


def of_winner(results: Results, name: str, loads: list[str]) -> list[str]:
    """The lines of one variant, introduced by the loads for which they are, and those against."""
    against = [
        f"{comparison.text} for {load_words(results, load)}"
        for load in results.loads
        if (comparison := comparisons(results, load).get(name)) and comparison.verdict == SLOWER
    ]
    use = ", ".join(load_words(results, load) for load in loads)
    but = f" (but {', '.join(against)})" if against else ""
    return [f"to put into the script, for {use}{but}:", *code(results.variants[name])]


def code(variant: VariantResult) -> list[str]:
    """The calls that make a variant of the script as written, indented."""
    changes, info = dict(variant.own.changes), variant.server
    if int(info.get("workers_per_device") or 1) > 1 and "api_servers" in info:
        # LitServe would start one HTTP process per worker, which is not what was measured
        changes.setdefault("num_api_servers", str(info["api_servers"]))
    api = {name: value for name, value in changes.items() if name not in (*OF_SERVER, *OF_RUN)}
    api_class = info.get("api") or "MyAPI"
    calls = {
        f"{api_class}(": arguments(api, api),
        "LitServer(api, ": arguments(changes, OF_SERVER),
        "server.run(": arguments(changes, OF_RUN),
    }
    return [f"    {head}{values})" for head, values in calls.items() if values]


def arguments(changes: dict[str, str], names: Iterable[str]) -> str:
    """Those of the changes that have one of these names, as keyword arguments."""
    return ", ".join(f"{name}={literal(changes[name])}" for name in names if name in changes)


def literal(value: str) -> str:
    """A value as Python writes it."""
    if value.lower() in ("true", "false", "none"):
        return value.capitalize()
    with suppress(ValueError):
        float(value)
        return value
    return repr(value)


def untried(results: Results) -> list[str]:
    """That settings which each are faster somewhere were not measured together, if that is so."""
    winners = {
        tuple(results.variants[name].own.changes)
        for load in results.loads
        for name, each in comparisons(results, load).items()
        if each.verdict == FASTER
    }
    alone = [changed for changed in winners if len(changed) == 1]
    if len(winners) < 2 or len(alone) < len(winners):
        return []
    names = " and ".join(sorted(name for (name,) in alone))
    return [f"{names} are faster each by itself; together they were not measured: {TO_MEASURE}"]
