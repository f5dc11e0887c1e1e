"""From the windows of no-op servers to what LitServe costs and allows a variant by itself."""

from harness.measure.no_op import LONE, NoOpWindows, Shape
from harness.results.breakdown import OutsideWorker, outside_worker
from harness.results.run import NoOpServer
from harness.results.summary import rate


def no_op_server(windows: NoOpWindows, shape: Shape | None) -> NoOpServer | None:
    """What is known of the no-op server of this shape; None if nothing is."""
    cost = lone_cost(windows, shape)
    if cost is None:
        return None
    busiest, measured = max(windows[shape].items(), key=lambda item: item[0].concurrency)
    rates = rate([window.load.requests_per_second for window in measured])
    return NoOpServer(*cost, busiest.concurrency, rates)


def lone_cost(windows: NoOpWindows, shape: Shape | None) -> OutsideWorker | None:
    """What LitServe costs a lone request in this shape; None if it was not measured.

    In a batching server a lone request waits in the queue for company that does not come: that is
    the shape's doing, not LitServe's. Its queue wait is taken from a server that does not batch.
    """
    own = measured_cost(windows, shape) if shape in windows else None
    if own is None or shape.max_batch_size == 1:
        return own
    others = [measured_cost(windows, other) for other in windows if other.max_batch_size == 1]
    waits = [cost.queue_wait_ms for cost in others if cost]
    return own._replace(queue_wait_ms=min(waits, default=0.0))


def measured_cost(windows: NoOpWindows, shape: Shape) -> OutsideWorker | None:
    """What a lone request spent outside of the worker."""
    lone = windows[shape][LONE]
    workers = [worker for window in lone for worker in window.workers]
    return outside_worker(workers, [process for window in lone for process in window.http])
