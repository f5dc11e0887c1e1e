"""What happens inside a worker, measured: a LitAPI around any LitAPI that times its stages and counts its batches.

It also keeps requests apart: a request whose decoding fails gets its own 4xx and never disturbs the rest of its batch
(LitServe answers the whole batch with the error of one, LitServe#340).
"""

import logging
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import litserve
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from litserve.callbacks import CallbackRunner
from litserve.loops.simple_loops import BatchedLoop, SingleLoop
from litserve.loops.streaming_loops import StreamingLoop

from harness.serving.counters import Counters
from harness.process.groups import die_with_parent

logger = logging.getLogger("litserve.measured")


class ArrivalQueue:
    """LitServe's request queue, noting when each request it hands out had entered it.

    Whoever asks for more has sent the answers of the last batch: time to add it to the totals, for no request waits.
    """

    def __init__(self, queue: Any, api: "MeasuredAPI") -> None:
        self.queue, self.api = queue, api

    def get(self, *arguments: Any, **options: Any) -> tuple:
        self.api.book()
        return self.noted(self.queue.get(*arguments, **options))

    def get_nowait(self) -> tuple:
        return self.noted(self.queue.get_nowait())

    def noted(self, item: tuple) -> tuple:
        if item[2] is not None:  # LitServe's stop message has no arrival
            self.api.arrivals.append(item[2])
        return item


class ClockedLoop:
    """One of LitServe's own loops, its request queue replaced by one that notes arrivals.

    The server's callbacks are for its HTTP processes: here LitServe would call them six times per batch for nothing.
    """

    def __call__(
        self, lit_api: "MeasuredAPI", device: str, worker_id: int, request_queue: Any, transport: Any, status: Any,
        _: CallbackRunner,
    ) -> None:  # fmt: skip
        queue = ArrivalQueue(request_queue, lit_api)
        super().__call__(lit_api, device, worker_id, queue, transport, status, CallbackRunner())


class ClockedSingleLoop(ClockedLoop, SingleLoop):
    """LitServe's loop for one request at a time."""


class ClockedBatchedLoop(ClockedLoop, BatchedLoop):
    """LitServe's loop for batches."""


class ClockedStreamingLoop(ClockedLoop, StreamingLoop):
    """LitServe's loop for one request at a time, its answer sent piece by piece."""


class Stage:
    """Adds the time spent inside `with` to one stage of the batch at work."""

    __slots__ = ("began", "busy_s", "name")

    def __init__(self, busy_s: dict[str, float], name: str) -> None:
        self.busy_s, self.name = busy_s, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        self.busy_s[self.name] += time.perf_counter() - self.began
        if isinstance(error, Exception) and not isinstance(error, HTTPException):
            # LitServe pickles what is raised and ends the server if it cannot: keep only what always can be
            raise RuntimeError(f"{kind.__name__} in {self.name}: {error}") from error


class MeasuredAPI(litserve.LitAPI):
    """A LitAPI that serves one request at a time, measured.

    `request` is always a JSON object: FastAPI itself refuses anything else before it reaches a worker. An item of a
    batch that is an HTTPException is the answer to its request: it skips the stages that remain.
    """

    loop_type: type = ClockedSingleLoop
    stages: tuple[str, ...] = ("decode", "collate", "predict", "encode")

    def __init__(self, api: litserve.LitAPI, counters: Counters) -> None:
        super().__init__(
            max_batch_size=api.max_batch_size, batch_timeout=api.batch_timeout, loop=self.loop_type(), spec=api.spec
        )
        self.api, self.counters = api, counters
        self.arrivals: list[float] = []
        self.decoding = self.unbooked = False
        self.idle = dict.fromkeys(self.stages, 0.0)
        self.busy_s = dict(self.idle)
        self.stage = {name: Stage(self.busy_s, name) for name in self.stages}

    def pre_setup(self, spec: Any = None) -> None:
        super().pre_setup(spec)
        if not self.spec:  # a spec has looked at this object and would register its paths a second time
            self.api.pre_setup()

    def setup(self, device: str) -> None:
        die_with_parent()
        self.api.setup(device)
        self.row = self.counters.row(int(os.environ["LITSERVE_WORKER_ID"]))
        self.row.set_up({name: getattr(self.api, name) for name in self.counters.figures})

    def book(self) -> None:
        """Add the batch that is done, if there is one, to the totals."""
        if self.unbooked:
            self.row.batch_done(self.size, self.rejected, self.busy_s, self.waited_s)
            self.unbooked = False

    def begin_batch(self) -> None:
        """Start the clocks of the batch whose requests LitServe has just taken from its queue."""
        now = time.monotonic()  # the clock that LitServe stamps arrivals with
        self.waited_s = now * len(self.arrivals) - sum(self.arrivals)
        self.arrivals.clear()
        self.busy_s.update(self.idle)
        self.size = self.rejected = self.answered = 0
        self.decoding = True

    def decode_request(self, request: dict) -> Any:
        if not self.decoding:
            self.begin_batch()
        self.size += 1
        with self.stage["decode"]:
            try:
                return self.api.decode_request(request)
            except Exception as error:
                return http_error(error)

    def predict(self, item: Any) -> Any:
        self.decoding = False
        with self.stage["predict"]:
            return item if isinstance(item, HTTPException) else self.api.predict(item)

    def encode_response(self, output: Any) -> Any:
        with self.stage["encode"]:
            answer = self.refused(output) if isinstance(output, HTTPException) else self.api.encode_response(output)
        self.answered += 1
        self.unbooked = self.answered == self.size
        return answer

    def refused(self, error: HTTPException) -> JSONResponse:
        """The error as a response of its own: raised, it would answer the whole batch."""
        self.rejected += 1
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class MeasuredBatchAPI(MeasuredAPI):
    """A LitAPI that serves batches, measured.

    `decode_request` may return a Future, which lets an API decode the requests of a batch side by side.
    """

    loop_type = ClockedBatchedLoop

    def batch(self, inputs: list) -> Any:
        self.decoding = False
        with self.stage["decode"]:
            self.items = [settled(item) for item in inputs]
        good = [item for item in self.items if not isinstance(item, HTTPException)]
        with self.stage["collate"]:
            return self.api.batch(good) if good else None

    def predict(self, batch: Any) -> Any:
        with self.stage["predict"]:
            return None if batch is None else self.api.predict(batch)

    def unbatch(self, output: Any) -> list:
        with self.stage["encode"]:
            outputs = iter([] if output is None else self.api.unbatch(output))
            return [item if isinstance(item, HTTPException) else next(outputs) for item in self.items]


class MeasuredStreamAPI(MeasuredAPI):
    """A LitAPI that streams answers to one request at a time, measured; its `predict` yields one token at a time.

    A refused request needs no care here: nobody shares its batch, and LitServe passes an HTTPException on.
    """

    loop_type = ClockedStreamingLoop
    stages = ("tokenise", "prefill", "decode_steps", "send")

    def decode_request(self, request: dict) -> Any:
        self.begin_batch()
        try:
            with self.stage["tokenise"]:
                return self.api.decode_request(request)
        except HTTPException:
            self.row.batch_done(1, 1, self.busy_s, self.waited_s)
            raise

    def predict(self, prompt: Any) -> Iterator[Any]:
        tokens, stage = self.api.predict(prompt), "prefill"
        try:
            while True:
                with self.stage[stage]:
                    token = next(tokens, None)
                if token is None:
                    return
                yield token
                stage = "decode_steps"
        finally:
            tokens.close()

    def encode_response(self, outputs: Iterator[Any]) -> Iterator[Any]:
        """All the time that is not spent on tokens is spent on turning them into text and sending it."""
        began = time.perf_counter()
        try:
            yield from self.api.encode_response(outputs)
        finally:
            self.busy_s["send"] = time.perf_counter() - began - self.busy_s["prefill"] - self.busy_s["decode_steps"]
            self.row.batch_done(1, 0, self.busy_s, self.waited_s)


def settled(item: Any) -> Any:
    """The item, once it is known to be good: a Future that has a result, or the HTTPException that is the answer."""
    error = item.exception() if isinstance(item, Future) else None  # waits for the Future
    return item if error is None else http_error(error)


def http_error(error: BaseException) -> HTTPException:
    """The answer to a request that could not be decoded."""
    if isinstance(error, HTTPException):
        return error
    logger.error("decoding failed", exc_info=error)  # a defect met by one request must not fail its whole batch
    return HTTPException(500, "the server failed to decode this request")


def measured(api: litserve.LitAPI, workers: int, api_servers: int) -> tuple[MeasuredAPI, Counters]:
    """`api`, measured, in the form that LitServe calls it in; and where its totals are kept."""
    wrapper = MeasuredStreamAPI if api.stream else MeasuredBatchAPI if api.max_batch_size > 1 else MeasuredAPI
    counters = Counters(workers, api.max_batch_size, wrapper.stages, getattr(api, "figures", ()), api_servers)
    return wrapper(api, counters), counters
