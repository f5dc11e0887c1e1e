"""Adaptive batching: a batch is what has come by the time the worker is free; nobody waits for it.

python mnist_model_benchmarking/server_adaptive_batching.py --port 8000
"""

import time
from queue import Empty
from typing import Any

import litserve
from litserve.loops.base import collate_requests
from litserve.loops.simple_loops import BatchedLoop

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING, BatchingAPI


class WaitingQueue:
    """LitServe's request queue, whose first item is waited for, asleep and without an end."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self.asked = time.monotonic()
        self.first = queue.get()

    def get_nowait(self) -> tuple:
        """The next item; queue.Empty if there is none."""
        if self.first:
            first, self.first = self.first, None
            self.arrived = first[2]
            return first
        if self.arrived > self.asked:  # it found the queue empty: spare the question what is there
            raise Empty
        return self.queue.get_nowait()


class AdaptiveLoop(BatchedLoop):
    """LitServe's loop for batches without its window: the busier the worker, the larger they are.

    A batch_timeout of 0 makes `collate_requests` take what is there, up to the limit.
    """

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Any, transport: Any
    ) -> tuple[list, list]:
        return collate_requests(self, lit_api, WaitingQueue(request_queue), transport)


class AdaptiveBatchingAPI(BatchingAPI):
    """Nothing changes but the loop that calls it."""


if __name__ == "__main__":
    limit = BATCHING["max_batch_size"]
    serve(AdaptiveBatchingAPI(max_batch_size=limit, loop=AdaptiveLoop()))
