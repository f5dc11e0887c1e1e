"""Why: what keeps a variant from being faster; what a change saved and cost in a mean request."""

from typing import NamedTuple

from harness.measure.utilisation import ROLES, WORKERS
from harness.results.breakdown import OUTSIDE_WORKER, UNEXPLAINED
from harness.results.rows import Row
from harness.results.run import Results, VariantResult

ROLE_NAMES = {
    "http": "its HTTP process",
    "queue": "LitServe's queue manager",
    "workers": "its workers",
}
KEPT_UP = 0.95  # of the offered rate
NEAR = 0.75  # of a ceiling: what is so close to it is limited by it
WORTH_TELLING = 0.1  # of the sum of all differences


class Step(NamedTuple):
    """A variant and the one it builds on, at the highest load with both breakdowns known."""

    variant: str
    against: str
    old: Row
    new: Row


def part_name(part: str) -> str:
    """A part of the breakdown for people."""
    return part.replace("_", " ")


def reasons(results: Results) -> list[str]:
    """What limits each variant, then what each saved and cost against the one it builds on."""
    limits = [limit(results, name) for name in results.variants]
    saved_and_cost = [change(results, step) for step in steps(results)]
    return [sentence for sentence in limits if sentence] + saved_and_cost


def limit(results: Results, name: str) -> str | None:
    """One sentence: what keeps a variant from being faster at its highest load; None if unknown.

    An open loop that kept up with what was offered was not limited by anything.
    """
    variant = results.variants[name]
    row = variant.rows[-1] if variant.rows else None
    if row is None or not row.breakdown_ms:
        return None
    served = row.requests_per_second.mean
    if row.offered_rate is not None and served >= KEPT_UP * row.offered_rate:
        return None
    return f"{name} at {row.load.name} {limited_by(row, variant, results.machine['usable_cores'])}"


def limited_by(row: Row, variant: VariantResult, cores: int) -> str:
    """The nearest limit: LitServe itself, the machine's cores, the workers, or none of them."""
    served, no_op = row.requests_per_second.mean, variant.no_op_server
    in_worker = {part: ms for part, ms in row.breakdown_ms.items() if part not in OUTSIDE_WORKER}
    stage = part_name(max(in_worker, key=in_worker.get))
    # a lone request is held up by nobody else: what it is most occupied with is said below
    if no_op and row.concurrency == no_op.concurrency > 1:
        share = served / no_op.requests_per_second.mean
        if share >= NEAR:
            return (
                f"is limited by LitServe's HTTP and queues: {100 * share:.0f} % of the no-op server"
            )
    busy = (row.cpu_percent["machine"] or 0) + (row.cpu_percent["stolen"] or 0)
    if row.cpu_percent["server"] is not None and busy >= 90 * cores:
        role = max(ROLES, key=lambda role: row.cpu_s_per_1000_requests[role] or 0)
        spender = ROLE_NAMES[role] + (f", there with {stage}" if role == WORKERS else "")
        return f"is limited by the machine: all its {cores} cores are busy, mostly with {spender}"
    worker_percent = row.worker_busy_percent or 0
    if worker_percent >= 100 * NEAR:
        return (
            f"is limited by its workers: each is busy {worker_percent:.0f} % of the time, mostly "
            f"with {stage}"
        )
    longest = max(row.breakdown_ms, key=row.breakdown_ms.get)
    share = row.breakdown_ms[longest] / sum(row.breakdown_ms.values())
    return (
        f"keeps neither cores nor workers fully busy: {100 * share:.0f} % of a request's time is "
        f"{part_name(longest)}"
    )


def difference_ms(old: Row, new: Row) -> dict[str, float]:
    """What changed in a mean request, part by part; adds up to the difference of the latencies."""
    return {part: new.breakdown_ms[part] - spent for part, spent in old.breakdown_ms.items()}


def steps(results: Results) -> list[Step]:
    """Every variant that can be explained by the one it builds on: both have the same parts."""
    steps = []
    for name, variant in results.variants.items():
        under = results.variants.get(variant.builds_on)
        before = {row.load: row for row in under.rows if row.breakdown_ms} if under else {}
        shared = [
            Step(name, variant.builds_on, before[row.load], row)
            for row in variant.rows
            if row.load in before
            and row.breakdown_ms
            and row.breakdown_ms.keys() == before[row.load].breakdown_ms.keys()
        ]
        steps += shared[-1:]
    return steps


def change(results: Results, step: Step) -> str:
    """What a variant saved and cost in a mean request, largest first; without trifles."""
    changes = difference_ms(step.old, step.new)
    del changes[UNEXPLAINED]  # nothing that a variant could save or cost
    large = WORTH_TELLING * sum(abs(change) for change in changes.values())
    order = sorted(changes, key=lambda part: -abs(changes[part]))
    parts = [part for part in order if abs(changes[part]) > large]
    saved = [f"{-changes[part]:.1f} ms of {part_name(part)}" for part in parts if changes[part] < 0]
    cost = [f"{changes[part]:.1f} ms of {part_name(part)}" for part in parts if changes[part] > 0]
    words = [f"saved {', '.join(saved)}"] if saved else []
    words += [f"cost {', '.join(cost)}"] if cost else []
    load = step.new.load.name
    names = step.variant, step.against, load
    verdicts = {(v.variant, v.against, v.load): f" ({v.comparison.text})" for v in results.verdicts}
    head = f"{step.variant} against {step.against} at {load}{verdicts.get(names, '')}"
    return f"{head}: {' and '.join(words) or 'no difference'}"
