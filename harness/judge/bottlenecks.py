"""Why: what keeps a variant from being faster; what a change saved and cost in a mean request."""

from statistics import fmean
from typing import NamedTuple

from scipy import stats

from harness.judge.estimation import CONFIDENCE
from harness.measure.utilisation import ROLES, WORKERS
from harness.results.breakdown import OUTSIDE_WORKER, UNEXPLAINED
from harness.results.rows import Row
from harness.results.schema import Results, VariantResult

ROLE_NAMES = {
    "http": "its HTTP process",
    "queue": "LitServe's queue manager",
    "workers": "its workers",
}
KEPT_UP = 0.95  # of the offered rate
NEAR = 0.75  # of a ceiling: what is so close to it is limited by it
TELLING_BLOCKS = 3  # of two, Student wants a difference nearly the same in both
WORTH_TELLING = 0.1  # of the sum of all differences


class Step(NamedTuple):
    """A variant and the one it builds on, at a load with both breakdowns known."""

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
        share = served / no_op.requests_per_second
        if share >= NEAR:
            what = (
                "at or above the no-op server's rate"
                if share >= 1
                else f"{100 * share:.0f} % of the no-op server"
            )
            return f"is limited by LitServe's HTTP and queues: {what}"
    busy = (row.cpu_percent["machine"] or 0) + (row.cpu_percent["stolen"] or 0)
    if row.cpu_percent["server"] is not None and busy >= 90 * cores:
        role = max(ROLES, key=lambda role: row.cpu_s_per_1000_requests[role] or 0)
        spender = ROLE_NAMES[role] + (
            f", there with {at_work(row, stage, cores)}" if role == WORKERS else ""
        )
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


def at_work(row: Row, stage: str, cores: int) -> str:
    """What workers spend their CPU on: a stage, unless all stages cannot account for most of it.

    While a worker is busy, it has as many threads at work as its share of the cores, at the most.
    """
    workers = len(row.worker_shares) or 1
    busy_s = (row.worker_busy_percent or 0) / 100 * workers * max(1, cores // workers)
    busy_s_per_1000 = 1000 * busy_s / row.requests_per_second.mean
    cpu_s = row.cpu_s_per_1000_requests[WORKERS] or 0
    return (
        stage if busy_s_per_1000 >= cpu_s / 2 else "work outside of its stages (threads, polling)"
    )


def difference_ms(old: Row, new: Row) -> dict[str, float]:
    """What changed in a mean request, part by part; adds up to the difference of the latencies."""
    return {part: new.breakdown_ms[part] - spent for part, spent in old.breakdown_ms.items()}


def steps(results: Results) -> list[Step]:
    """Every variant that can be explained by the one it builds on, as both have the same parts: at
    the highest load of which enough blocks tell, else at the highest of all.
    """
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
        told = [step for step in shared if len(blocks_of_both(results, step)) >= TELLING_BLOCKS]
        steps += (told or shared)[-1:]
    return steps


def change(results: Results, step: Step) -> str:
    """What a variant saved and cost in a mean request, largest first; only what is certain."""
    load = step.new.load.name
    changes = certain_ms(results, step)
    saved = [f"{-ms:.1f} ms of {part_name(part)}" for part, ms in changes.items() if ms < 0]
    cost = [f"{ms:.1f} ms of {part_name(part)}" for part, ms in changes.items() if ms > 0]
    words = [f"saved {', '.join(saved)}"] if saved else []
    words += [f"cost {', '.join(cost)}"] if cost else []
    verdicts = {(v.variant, v.against, v.load): f" ({v.comparison.text})" for v in results.verdicts}
    verdict = verdicts.get((step.variant, step.against, load), "")
    head = f"{step.variant} against {step.against} at {load}{verdict}"
    return f"{head}: {' and '.join(words) or 'no part of a request is certain to have changed'}"


def certain_ms(results: Results, step: Step) -> dict[str, float]:
    """What changed in each part, by block; largest first, without trifles, and what may be chance.

    A change is certain if the 95 % interval of its mean over the blocks that measured both does not
    hold zero.
    """
    blocks = blocks_of_both(results, step)
    if len(blocks) < 2:
        return {}
    differences = {
        part: [new[part] - old[part] for old, new in blocks]
        for part in step.old.breakdown_ms
        if part != UNEXPLAINED  # nothing that a variant could save or cost
    }
    means = {part: fmean(each) for part, each in differences.items()}
    large = WORTH_TELLING * sum(map(abs, means.values()))
    kept = [part for part in means if abs(means[part]) > large and is_certain(differences[part])]
    return {part: means[part] for part in sorted(kept, key=lambda part: -abs(means[part]))}


def blocks_of_both(results: Results, step: Step) -> list[tuple[dict[str, float], dict[str, float]]]:
    """What a mean request of each consists of, in every block that measured both."""
    load = step.new.load.name
    old, new = (parts_by_block(results, name, load) for name in (step.against, step.variant))
    return [(old[block], new[block]) for block in sorted(old.keys() & new.keys())]


def is_certain(differences: list[float]) -> bool:
    """Whether the 95 % interval of their mean does not hold zero (Student's t)."""
    return bool(stats.ttest_1samp(differences, 0).pvalue < 1 - CONFIDENCE)


def parts_by_block(results: Results, variant: str, load: str) -> dict[int, dict[str, float]]:
    """The breakdown of a variant's mean request in each block; of two servers, the first's."""
    windows = [w for w in results.windows if w.variant == variant and w.load == load]
    return {w.block: w.breakdown_ms for w in reversed(windows) if w.breakdown_ms}
