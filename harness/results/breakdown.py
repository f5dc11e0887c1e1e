"""The breakdown of a request: ingress, queue wait, worker stages, response path, unexplained."""

from collections.abc import Mapping
from typing import NamedTuple

from harness.measure.window import HttpWork, WorkerWork

INGRESS, QUEUE_WAIT, RESPONSE_PATH = "ingress", "queue_wait", "response_path"
UNEXPLAINED = "unexplained"
OUTSIDE_WORKER = INGRESS, QUEUE_WAIT, RESPONSE_PATH, UNEXPLAINED


class OutsideWorker(NamedTuple):
    """Milliseconds of a mean request outside of the worker: to the queue, in it, and back."""

    ingress_ms: float
    queue_wait_ms: float
    response_path_ms: float


def breakdown_ms(
    workers: list[WorkerWork],
    http: list[HttpWork],
    latency_ms: float | None,
    names: Mapping[str, str],
) -> dict[str, float] | None:
    """Where the time of a mean request went, in milliseconds; the parts add up to the latency.

    Without clocks in the HTTP processes, what happens there is unexplained. `names` are a suite's
    own for the stages in the worker.

    Returns None if nothing is known.
    """
    spent = spent_ms(workers)
    if not spent or latency_ms is None:
        return None
    outside = outside_worker(workers, http)
    queue_wait = spent.pop(QUEUE_WAIT)
    parts = {INGRESS: outside.ingress_ms} if outside else {}
    parts[QUEUE_WAIT] = queue_wait
    parts |= {names.get(stage, stage): milliseconds for stage, milliseconds in spent.items()}
    if outside:
        parts[RESPONSE_PATH] = outside.response_path_ms
    return parts | {UNEXPLAINED: latency_ms - sum(parts.values())}


def spent_ms(workers: list[WorkerWork]) -> dict[str, float]:
    """Mean milliseconds of a request in the queue and in each stage; empty without requests.

    Workers of an API that was not asked do not count: their stages may be others.
    """
    asked = [worker for worker in workers if worker.requests]
    requests = sum(worker.requests for worker in asked)
    return {
        stage: 1000 * sum(worker.spent_s.get(stage, 0.0) for worker in asked) / requests
        for stage in dict.fromkeys(stage for worker in asked for stage in worker.spent_s)
    }


def outside_worker(workers: list[WorkerWork], http: list[HttpWork]) -> OutsideWorker | None:
    """What a mean request spent before, in and after LitServe's queue; None if nobody knows.

    The HTTP process sees a request from the queue to its answer's end; what its worker did in that
    time is taken off, and the rest is the response path.
    """
    ended, spent = sum(process.requests for process in http), spent_ms(workers)
    if not ended or not spent:
        return None
    ingress_ms = 1000 * sum(process.ingress_s for process in http) / ended
    after_ms = 1000 * sum(process.after_ingress_s for process in http) / ended
    return OutsideWorker(ingress_ms, spent[QUEUE_WAIT], after_ms - sum(spent.values()))
