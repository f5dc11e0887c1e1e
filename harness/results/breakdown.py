"""Where the time of a request went: stages in the worker, waiting, and the floor that LitServe itself costs."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from harness.serving.counters import WAITING

Totals = dict[str, Any]  # of one worker or one HTTP process, as harness.serving.counters tells them


class Floor(NamedTuple):
    """Milliseconds that a lone request spends on its way to LitServe's queue, through it, and back from its worker."""

    arriving_ms: float
    queue_ms: float
    returning_ms: float


class Anatomy(NamedTuple):
    """A mean request in milliseconds.

    Attributes:
        stages_ms: floor, waiting, the stages in the worker, unexplained; adds up to the client's mean latency.
        waiting_ms: what `waiting` consists of, all of it beyond the floor: arriving (before LitServe's queue), queue
            (in it, for a worker or for company in a batch) and returning (from the worker to the client).
    """

    stages_ms: dict[str, float | None]
    waiting_ms: dict[str, float] | None


def grown_worker(old: Totals, new: Totals) -> Totals:
    """The difference of two running totals of one worker."""
    sizes = {int(size): count - old["batch_sizes"].get(size, 0) for size, count in new["batch_sizes"].items()}
    return {
        "requests": new["requests"] - old["requests"],
        "batches": new["batches"] - old["batches"],
        "spent_s": {stage: spent - old["spent_s"][stage] for stage, spent in new["spent_s"].items()},
        "busy_s": sum(new["busy_s"].values()) - sum(old["busy_s"].values()),
        "batch_sizes": {size: count for size, count in sizes.items() if count},
    }


def grown_door(old: Totals, new: Totals) -> Totals:
    """The difference of two running totals of one HTTP process."""
    return {name: new[name] - old[name] for name in ("requests", "arriving_s", "returning_s")}


def anatomy(
    workers: list[Totals], doors: list[Totals], latency_ms: float | None, floor: Floor | None
) -> Anatomy | None:
    """Where the time went, from what workers and HTTP processes did in one window or several; None if nothing is known.

    Without a floor all but the time in the queue and in the worker is unexplained.
    """
    spent = spent_ms(workers)
    if not spent or latency_ms is None:
        return None
    outside = outside_ms(workers, doors)
    if floor is None or outside is None:
        return Anatomy({"floor": None, **spent, "unexplained": latency_ms - sum(spent.values())}, None)
    # a launch may be quicker than those of the server that does nothing: its floor is then what it took
    own = Floor(*map(min, outside, floor))
    waited = (whole - least for whole, least in zip(outside, own, strict=True))
    waiting = dict(zip(("arriving", "queue", "returning"), waited, strict=True))
    spent.pop(WAITING)
    stages = {"floor": sum(own), WAITING: sum(waiting.values()), **spent}
    return Anatomy({**stages, "unexplained": latency_ms - sum(stages.values())}, waiting)


def spent_ms(workers: list[Totals]) -> dict[str, float]:
    """Mean milliseconds of a request in LitServe's queue and in each stage of a worker; empty if there was none."""
    requests = total(workers, "requests")
    if not requests:
        return {}
    return {
        stage: 1000 * sum(worker["spent_s"][stage] for worker in workers) / requests for stage in workers[0]["spent_s"]
    }


def outside_ms(workers: list[Totals], doors: list[Totals]) -> Floor | None:
    """What a mean request spent outside its worker: before, in and after LitServe's queue; None if nobody knows."""
    passed, spent = total(doors, "requests"), spent_ms(workers)
    if not passed or not spent:
        return None
    arriving_ms, back_ms = (1000 * total(doors, name) / passed for name in ("arriving_s", "returning_s"))
    return Floor(arriving_ms, spent[WAITING], back_ms - sum(spent.values()))


def total(rows: Iterable[Totals], name: str) -> float:
    """The sum of one figure over all workers or HTTP processes."""
    return sum(row[name] for row in rows)
