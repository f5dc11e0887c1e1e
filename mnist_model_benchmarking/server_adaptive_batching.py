"""Adaptive batching: a batch is what has come by the time the worker is free; nobody waits for it.

python mnist_model_benchmarking/server_adaptive_batching.py --port 8000
"""

import logging
import time
from contextlib import suppress
from queue import Empty
from typing import Any

import litserve
from fastapi import HTTPException
from litserve.loops.base import _StopLoopError, collate_requests
from litserve.loops.simple_loops import BatchedLoop
from litserve.utils import LitAPIStatus as STATUS
from litserve.utils import LoopResponseType, dump_exception
from torch import Tensor

from harness.serving.serve import serve
from mnist_model_benchmarking.server_batching import BATCHING, BatchingAPI

REGULAR = LoopResponseType.REGULAR
logger = logging.getLogger("litserve.adaptive_batching")


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

    A batch_timeout of 0 makes `collate_requests` take what is there, up to the limit. Hooks are
    called as they are, without LitServe's `context`: it would look up the signature of each for
    every request, and make a lone one slower than the baseline's.
    """

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Any, transport: Any
    ) -> tuple[list, list]:
        return collate_requests(self, lit_api, WaitingQueue(request_queue), transport)

    def run_batched_loop(
        self, lit_api: litserve.LitAPI, request_queue: Any, transport: Any, *_: Any
    ) -> None:
        with suppress(_StopLoopError):
            while True:
                requests, late = self.get_batch_requests(lit_api, request_queue, transport)
                for process, uid in late:
                    error = dump_exception(HTTPException(504, "Request timed out"))
                    self.put_response(transport, process, uid, error, STATUS.ERROR, REGULAR)
                if requests:
                    self.answer(lit_api, requests, transport)

    def answer(self, lit_api: litserve.LitAPI, requests: list[tuple], transport: Any) -> None:
        """Serve one batch, (HTTP process, uid, body) each; what is raised answers all of it."""
        try:
            batch = lit_api.batch([lit_api.decode_request(body) for *_, body in requests])
            outputs = lit_api.unbatch(lit_api.predict(batch))
            pairs = zip(outputs, requests, strict=True)
            answers = [(lit_api.encode_response(output), STATUS.OK) for output, _ in pairs]
        except Exception as error:
            logger.exception("the batch failed")
            answers = [(dump_exception(error), STATUS.ERROR)] * len(requests)
        for (process, uid, _), (answer, status) in zip(requests, answers, strict=True):
            self.put_response(transport, process, uid, answer, status, REGULAR)


class AdaptiveBatchingAPI(BatchingAPI):
    """A lone request needs no collating; else nothing changes but the loop that calls it."""

    def batch(self, requests: list[Tensor]) -> tuple[Tensor, list[int]]:
        return (requests[0], [len(requests[0])]) if len(requests) == 1 else super().batch(requests)


if __name__ == "__main__":
    limit = BATCHING["max_batch_size"]
    serve(AdaptiveBatchingAPI(max_batch_size=limit, loop=AdaptiveLoop()))
