"""From the windows of no-op servers to what LitServe costs and allows a variant by itself."""

from collections.abc import Mapping

from harness.measure.no_op import LONE, Shape
from harness.measure.window import OfferedLoad, Record, Window, mean
from harness.results.breakdown import OutsideWorker, outside_worker
from harness.results.schema import NoOpServer


def no_op_server(
    records: Mapping[Shape, Record], shape: Shape | None, most: OfferedLoad
) -> NoOpServer | None:
    """What is known of the no-op server of this shape, `most` being its highest load; or None."""
    cost = lone_cost(records, shape)
    windows = records[shape].at(most.name) if cost else []
    if not windows:
        return None
    rate = mean(window.load.requests_per_second for window in windows)
    return NoOpServer(*cost, most.concurrency, rate)


def lone_cost(records: Mapping[Shape, Record], shape: Shape | None) -> OutsideWorker | None:
    """What LitServe costs a lone request in this shape; None if it was not measured.

    In a batching server a lone request waits in the queue for company that does not come: that is
    the shape's doing, not LitServe's. Its queue wait is taken from a server that does not batch.
    """
    own = measured_cost(records[shape].at(LONE.name)) if shape in records else None
    if own is None or shape.max_batch_size == 1:
        return own
    others = [records[other].at(LONE.name) for other in records if other.max_batch_size == 1]
    waits = [cost.queue_wait_ms for windows in others if (cost := measured_cost(windows))]
    return own._replace(queue_wait_ms=min(waits, default=0.0))


def measured_cost(lone: list[Window]) -> OutsideWorker | None:
    """What a lone request spent outside of the worker."""
    workers = [worker for window in lone for worker in window.workers]
    return outside_worker(workers, [process for window in lone for process in window.http])
