"""Why: what a mean request consists of, the ceilings above a variant, what limits it, what a change saved and cost."""

from typing import NamedTuple

from harness.serving.counters import WAITING
from harness.results.run import ImageVariant, Results, VariantResult
from harness.results.rows import Level
from harness.measure.utilisation import ROLES, WORKERS

NAMES = {
    "floor": "LitServe itself", "arriving": "waiting to be taken in", "queue": "waiting for a worker or a batch",
    "returning": "waiting on the way back", "decode_steps": "decode steps",
}  # fmt: skip
ROLE_NAMES = {"http": "its HTTP process", "queue": "LitServe's queue manager", "workers": "its workers"}
KEPT_UP = 0.95  # of the rate offered
NEAR = 0.75  # of a ceiling: what is so close to it is limited by it
WORTH_TELLING = 0.1  # of the sum of all differences


class Rung(NamedTuple):
    """One ceiling: what it is, how much it lets through per second, as a share of the rung above."""

    name: str
    per_second: float
    share: float | None


def parts_ms(level: Level) -> dict[str, float]:
    """The stages of a mean request in milliseconds, `waiting` taken apart where that is known; empty without stages."""
    if not level.stages_ms:
        return {}
    parts = {}
    for stage, spent in level.stages_ms.items():
        if stage == WAITING and level.waiting_ms:
            parts |= level.waiting_ms
        elif spent is not None:
            parts[stage] = spent
    return parts


def name_of(part: str) -> str:
    """A part for people."""
    return NAMES.get(part, part)


def best_level(variant: VariantResult) -> Level | None:
    """The load at which it produced most."""
    return max(variant.levels, key=lambda level: level.output.mean, default=None)


def ladder(results: Results, name: str) -> list[Rung]:
    """The ceilings above an image variant, from the highest idea down to what was served; images per second."""
    variant = results.variants[name]
    best = best_level(variant)
    launched_here = variant.startup_s is not None  # another machine's server has other ceilings
    if not isinstance(variant, ImageVariant) or best is None or not launched_here:
        return []
    found: list[tuple[str, float]] = []
    if variant.baseline_throughput:
        rates = variant.baseline_throughput.images_per_second
        size = variant.baseline_throughput.batch_sizes[rates.index(max(rates))]
        found.append((f"the model alone, batches of {size}", max(rates)))
    if variant.decode_and_model_images_per_second:
        found.append(("decode + model, one core", variant.decode_and_model_images_per_second.mean))
    if variant.null_server:
        nothing = variant.null_server.requests_per_second.mean * results.settings.get("images_per_request", 1)
        found.append((f"LitServe doing nothing, {variant.null_server.concurrency} in flight", nothing))
    found.append((f"served, at {best.name}", best.output.mean))
    above = [None, *(rate for _, rate in found)]
    return [Rung(what, rate, rate / over if over else None) for (what, rate), over in zip(found, above, strict=False)]


def limit(results: Results, name: str) -> str | None:
    """One sentence: what keeps a variant from being faster at its highest load; None if nothing is known about that.

    An open loop that kept up with what was offered was not limited by anything.
    """
    variant = results.variants[name]
    level = variant.levels[-1] if variant.levels else None
    if level is None or not level.stages_ms:
        return None
    served, told, null = level.requests_per_second.mean, f"{name} at {level.name}", variant.null_server
    if level.rate is not None and served >= KEPT_UP * level.rate:
        return None
    # a lone request is held up by nobody else, and what it is most occupied with is told below
    if null and level.concurrency == null.concurrency > 1 and served >= NEAR * null.requests_per_second.mean:
        share = 100 * served / null.requests_per_second.mean
        return f"{told} is limited by LitServe's HTTP and queues: {share:.0f} % of what they carry with no work at all"
    stage = name_of(max(worked_ms(level), key=worked_ms(level).get))
    cores, machine = results.machine["usable_cores"], level.cpu_percent["machine"] or 0
    if level.cpu_percent["server"] is not None and machine + (level.cpu_percent["stolen"] or 0) >= 90 * cores:
        role = max(ROLES, key=lambda role: level.cpu_s_per_1000_requests[role] or 0)
        spender = ROLE_NAMES[role] + (f", there with {stage}" if role == WORKERS else "")
        return f"{told} is limited by the machine: all its {cores} cores are busy, mostly with {spender}"
    busy = level.worker_busy_percent or 0
    if busy >= 100 * NEAR:
        return f"{told} is limited by its workers: each is busy {busy:.0f} % of the time, mostly with {stage}"
    parts = parts_ms(level)
    longest = max(parts, key=parts.get)
    share = 100 * parts[longest] / sum(parts.values())
    return f"{told} keeps neither cores nor workers fully busy: {share:.0f} % of a request's time is {name_of(longest)}"


def worked_ms(level: Level) -> dict[str, float]:
    """The stages in the worker."""
    outside = ("floor", WAITING, "unexplained")
    return {stage: spent for stage, spent in level.stages_ms.items() if stage not in outside}


def difference_ms(old: Level, new: Level) -> dict[str, float]:
    """What changed in a mean request, part by part; adds up to the difference of the mean latencies."""
    before, after = parts_ms(old), parts_ms(new)
    return {part: after.get(part, 0.0) - before.get(part, 0.0) for part in dict.fromkeys([*before, *after])}


def pairs(results: Results) -> list[tuple[str, str, Level, Level]]:
    """(variant, what it builds on, that one's level, its own) at the highest load of both whose parts are known."""
    found = []
    for name, variant in results.variants.items():
        under = results.variants.get(variant.builds_on)
        before = {level.name: level for level in under.levels if parts_ms(level)} if under else {}
        shared = [
            (before[level.name], level)
            for level in variant.levels
            if level.name in before and parts_ms(level).keys() == parts_ms(before[level.name]).keys()
        ]
        if shared:
            found.append((name, variant.builds_on, *shared[-1]))
    return found


def story(results: Results, name: str, against: str, old: Level, new: Level) -> str:
    """What a variant saved and what it cost in a mean request, largest first, beside the verdict; without trifles."""
    changes = difference_ms(old, new)
    large = WORTH_TELLING * sum(abs(change) for change in changes.values())
    told = sorted((part for part in changes if abs(changes[part]) > large), key=lambda part: -abs(changes[part]))
    saved = [f"{-changes[part]:.1f} ms of {name_of(part)}" for part in told if changes[part] < 0]
    cost = [f"{changes[part]:.1f} ms of {name_of(part)}" for part in told if changes[part] > 0]
    words = [f"saved {', '.join(saved)}"] if saved else []
    words += [f"cost {', '.join(cost)}"] if cost else []
    compared = {(v.variant, v.against, v.level): f" ({v.text})" for v in results.verdicts}
    verdict = compared.get((name, against, new.name), "")
    return f"{name} against {against} at {new.name}{verdict}: {' and '.join(words) or 'no difference'}"


def reasons(results: Results) -> list[str]:
    """What limits each variant, then what each saved and cost against the one it builds on."""
    limits = [limit(results, name) for name in results.variants]
    return [sentence for sentence in limits if sentence] + [story(results, *pair) for pair in pairs(results)]
