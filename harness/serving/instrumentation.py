"""The instrumented worker: a LitAPI around any LitAPI that times its stages, counts its batches.

It also keeps requests apart: a request whose decoding fails gets its own 4xx and never disturbs the
rest of its batch (LitServe answers the whole batch with the error of one, LitServe#340).
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import litserve
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from litserve.callbacks import CallbackRunner
from litserve.loops import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType, PickleableHTTPException

from harness.process.groups import die_with_parent
from harness.serving.abandoned import CLIENT_LEFT
from harness.serving.counters import Counters, WorkerCounter
from harness.serving.served_api import CannotServeError, served
from harness.serving.side_by_side import SideBySideLoop

logger = logging.getLogger("litserve.instrumentation")

SOONER_S = 0.02  # than LitServe, which looks at the clock once more when a request is noted


class ArrivalQueue:
    """LitServe's request queue, noting when each request it hands out had entered it.

    Whoever asks for more has sent the answers of the last batch: time to count it, for no request
    waits for that.
    """

    def __init__(self, queue: Any, api: Any) -> None:
        self.queue, self.api = queue, api

    def get(self, *arguments: Any, **options: Any) -> tuple:
        self.api.count_batch()
        return self.next_item(lambda: self.queue.get(*arguments, **options))

    def get_nowait(self) -> tuple:
        return self.next_item(self.queue.get_nowait)

    def next_item(self, take: Callable[[], tuple]) -> tuple:
        return self.noted(take())

    def noted(self, item: tuple) -> tuple:
        if item[2] is not None:  # LitServe's stop message has no arrival
            self.api.arrivals.append(item[2])
        return item


class WantedQueue(ArrivalQueue):
    """One that answers, and never hands out, a request that has waited for too long or whose client
    has left: its wait is not that of a batch.

    Args:
        respond: sends an error: number of its HTTP process, name of the request, the error.
    """

    def __init__(
        self, queue: Any, api: "InstrumentedAPI", respond: Callable[[int, Any, Exception], None]
    ) -> None:
        super().__init__(queue, api)
        self.respond = respond

    def next_item(self, take: Callable[[], tuple]) -> tuple:
        while True:
            item = take()
            http_process, uid, arrival, _ = item
            reason = arrival and self.reason_against(uid, arrival)
            if not reason:
                return self.noted(item)
            self.respond(http_process, uid, reason)

    def reason_against(self, uid: Any, arrival: float) -> HTTPException | None:
        """Why a request is not to be served any more."""
        if uid in self.api.counters.abandoned:
            return PickleableHTTPException(CLIENT_LEFT, "the client has left")
        limit_s = self.api.request_timeout
        if limit_s and 0 < limit_s - SOONER_S < self.api.clock() - arrival:
            return PickleableHTTPException(504, "Request timed out")  # LitServe's own words
        return None


class InstrumentedLoop(LitLoop):
    """A loop, LitServe's or the API's own, its request queue replaced by one that notes arrivals.

    The server's callbacks are for its HTTP processes: here LitServe would call them six times per
    batch for nothing.
    """

    def __init__(self, loop: LitLoop) -> None:
        super().__init__()
        self.loop = loop

    def pre_setup(self, lit_api: "InstrumentedAPI", spec: Any = None) -> None:
        self.loop.pre_setup(lit_api, spec)

    def __call__(
        self,
        lit_api: "InstrumentedAPI",
        device: str,
        worker_id: int,
        request_queue: Any,
        transport: Any,
        status: Any,
        _: CallbackRunner,
    ) -> None:
        def respond(http_process: int, uid: Any, error: Exception) -> None:
            kind = LoopResponseType.STREAMING if lit_api.stream else LoopResponseType.REGULAR
            self.put_response(transport, http_process, uid, error, LitAPIStatus.ERROR, kind)

        queue = WantedQueue(request_queue, lit_api, respond)
        self.loop._restart_workers = self._restart_workers  # LitServe tells the outer one only
        self.loop(lit_api, device, worker_id, queue, transport, status, CallbackRunner())


class Stage:
    """Adds the time spent inside `with` to one stage of the batch at work."""

    __slots__ = ("began", "busy_s", "clock", "name")

    def __init__(self, name: str, busy_s: dict[str, float], clock: Callable[[], float]) -> None:
        self.name, self.busy_s, self.clock = name, busy_s, clock

    def __enter__(self) -> None:
        self.began = self.clock()

    def __exit__(self, kind: type | None, error: BaseException | None, _: Any) -> None:
        self.busy_s[self.name] += self.clock() - self.began
        if isinstance(error, Exception) and not isinstance(error, HTTPException):
            # LitServe pickles what is raised, or ends the server: keep only what can be pickled
            raise RuntimeError(f"{kind.__name__} in {self.name}: {error}") from error


class InstrumentedAPI(litserve.LitAPI):
    """A LitAPI that serves one request at a time, instrumented.

    `request` is always a JSON object: FastAPI itself refuses anything else before it reaches a
    worker. An item of a batch that is an HTTPException is the answer to its request: it skips the
    stages that remain.

    Args:
        clock: seconds; it must be the one that LitServe stamps arrivals with, but for tests.
    """

    stages: tuple[str, ...] = ("decode", "collate", "predict", "encode")

    def __init__(
        self,
        api: litserve.LitAPI,
        counters: Counters,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(
            max_batch_size=api.max_batch_size,
            batch_timeout=api.batch_timeout,
            loop=InstrumentedLoop(api.loop),
            spec=api.spec,
        )
        self.api, self.counters, self.clock = api, counters, clock
        self.arrivals: list[float] = []
        self.decoding = self.uncounted = False
        self.idle = dict.fromkeys(self.stages, 0.0)
        self.busy_s = dict(self.idle)
        self.stage = {name: Stage(name, self.busy_s, clock) for name in self.stages}

    def pre_setup(self, spec: Any = None) -> None:
        super().pre_setup(spec)
        if not self.spec:  # a spec has looked at this object, and would add its paths a second time
            self.api.pre_setup()

    def setup(self, device: str) -> None:
        die_with_parent()
        try:
            self.api.setup(device)
        except CannotServeError as error:
            logging.getLogger("litserve.loops.loops").disabled = True  # it would log the traceback
            print(error, file=sys.stderr, flush=True)
            raise
        self.counter = WorkerCounter(self.counters, int(os.environ["LITSERVE_WORKER_ID"]))
        self.counter.set_up({name: getattr(self.api, name) for name in self.counters.setup_metrics})

    def count_batch(self) -> None:
        """Add the batch that is done, if there is one, to the totals."""
        if self.uncounted:
            self.counter.batch_done(self.size, self.rejected, self.busy_s, self.queue_wait_s)
            self.uncounted = False

    def begin_batch(self) -> None:
        """Start the clocks of the batch whose requests LitServe has just taken from its queue."""
        self.queue_wait_s = self.clock() * len(self.arrivals) - sum(self.arrivals)
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
            is_error = isinstance(output, HTTPException)
            answer = self.refused(output) if is_error else self.api.encode_response(output)
        self.answered += 1
        self.uncounted = self.answered == self.size
        return answer

    def refused(self, error: HTTPException) -> JSONResponse:
        """The error as a response of its own: raised, it would answer the whole batch."""
        self.rejected += 1
        return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


class InstrumentedBatchAPI(InstrumentedAPI):
    """A LitAPI that serves batches, instrumented.

    `decode_request` may return a Future, which lets an API decode the requests of a batch side by
    side.
    """

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
            return [
                item if isinstance(item, HTTPException) else next(outputs) for item in self.items
            ]


class InstrumentedStreamAPI(InstrumentedAPI):
    """A LitAPI that streams answers to one request at a time, instrumented; its `predict` yields
    one output at a time.

    A refused request needs no care here: nobody shares its batch, and LitServe passes an
    HTTPException on.
    """

    stages = ("decode", "first_output", "next_outputs", "encode")

    def decode_request(self, request: dict) -> Any:
        self.begin_batch()
        try:
            with self.stage["decode"]:
                return self.api.decode_request(request)
        except HTTPException:
            self.counter.batch_done(1, 1, self.busy_s, self.queue_wait_s)
            raise

    def predict(self, item: Any) -> Iterator[Any]:
        outputs, stage = self.api.predict(item), "first_output"
        try:
            while True:
                with self.stage[stage]:
                    output = next(outputs, None)
                if output is None:
                    return
                yield output
                stage = "next_outputs"
        finally:
            outputs.close()

    def encode_response(self, outputs: Iterator[Any]) -> Iterator[Any]:
        """What is not spent on making outputs is spent on encoding and sending them."""
        began, busy_s = self.clock(), self.busy_s
        try:
            yield from self.api.encode_response(outputs)
        finally:
            making_s = busy_s["first_output"] + busy_s["next_outputs"]
            busy_s["encode"] = self.clock() - began - making_s
            self.counter.batch_done(1, 0, busy_s, self.queue_wait_s)


class SharedTime:
    """Seconds at work, by stage, of a worker that serves `inside` requests side by side.

    All of them wait for whatever it does, so each spends that time whole; an equal share of it is
    each one's own, so that the shares of all are the time the worker was busy.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.inside, self.since = clock, 0, clock()
        self.spent_s = dict.fromkeys(("decode", "outputs", "encode"), 0.0)
        self.share_s = self.spent_s.copy()

    def spend(self, stage: str) -> None:
        """What has passed since the last call was spent in this stage."""
        now = self.clock()
        if self.inside:
            self.spent_s[stage] += now - self.since
            self.share_s[stage] += (now - self.since) / self.inside
        self.since = now

    def totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """What a request would have spent so far, and its share, had it been inside all along."""
        return self.spent_s.copy(), self.share_s.copy()


class TimedOutputs:
    """The outputs of one request among several, from its being decoded to its end."""

    def __init__(self, api: "InstrumentedSideBySideAPI", queue_wait_s: float) -> None:
        self.api, self.queue_wait_s = api, queue_wait_s
        self.item = self.outputs = self.at_first = None
        self.counted = False
        api.time.spend("encode")
        api.time.inside += 1
        self.at_start = api.time.totals()

    @property
    def ready(self) -> bool:
        return self.outputs.ready

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        output = next(self.outputs)
        self.at_first = self.at_first or self.api.time.totals()
        return output

    def close(self, rejected: int = 0) -> None:
        """The answer is complete, or not wanted: count it, once."""
        if self.outputs is not None:
            self.outputs.close()
        if not self.counted:
            self.counted = True
            self.api.time.spend("encode")
            ended = self.api.time.totals()
            times = zip(self.at_start, self.at_first or ended, ended, strict=True)
            spent_s, busy_s = (by_stage(*each) for each in times)
            self.api.counter.shared_request_done(rejected, self.queue_wait_s, spent_s, busy_s)
            self.api.time.inside -= 1


def by_stage(
    start: dict[str, float], first: dict[str, float], end: dict[str, float]
) -> dict[str, float]:
    """Seconds of one request by stage, of running totals at its start, first output and end."""
    return {
        "decode": end["decode"] - start["decode"],
        "first_output": first["outputs"] - start["outputs"],
        "next_outputs": end["outputs"] - first["outputs"],
        "encode": end["encode"] - start["encode"],
    }


class InstrumentedSideBySideAPI(InstrumentedAPI):
    """A LitAPI that streams the answers to several requests side by side, instrumented; it is
    called by harness.serving.side_by_side.
    """

    stages = InstrumentedStreamAPI.stages

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.time = SharedTime(self.clock)

    def decode_request(self, request: dict) -> TimedOutputs:
        queue_wait_s = sum(self.clock() - arrival for arrival in self.arrivals)  # of this one
        self.arrivals.clear()
        outputs = TimedOutputs(self, queue_wait_s)
        try:
            outputs.item = self.api.decode_request(request)
        except Exception:
            self.time.spend("decode")
            outputs.close(rejected=1)
            raise
        self.time.spend("decode")
        return outputs

    def begin(self, outputs: TimedOutputs) -> TimedOutputs:
        try:
            outputs.outputs = self.api.begin(outputs.item)
        except Exception:
            outputs.close()
            raise
        return outputs

    def advance(self) -> None:
        self.time.spend("encode")
        self.api.advance()
        self.time.spend("outputs")

    def predict(self, outputs: TimedOutputs) -> Iterator[Any]:
        yield from self.begin(outputs)

    def encode_response(self, outputs: TimedOutputs) -> Iterator[Any]:
        yield from self.api.encode_response(outputs)


def settled(item: Any) -> Any:
    """The item, once it is known to be good; of a Future that failed, the HTTPException that is the
    answer.
    """
    error = item.exception() if isinstance(item, Future) else None  # waits for the Future
    return item if error is None else http_error(error)


def http_error(error: BaseException) -> HTTPException:
    """The answer to a request that could not be decoded."""
    if isinstance(error, HTTPException):
        return error
    logger.error("decoding failed", exc_info=error)  # a defect met by one must not fail its batch
    return HTTPException(500, "the server failed to decode this request")


def instrumented(
    api: litserve.LitAPI, workers: int, api_servers: int
) -> tuple[InstrumentedAPI, Counters]:
    """`api`, instrumented, in the form that LitServe calls it in; and where its totals are kept."""
    batches = api.max_batch_size > 1
    wrapper = InstrumentedBatchAPI if batches else InstrumentedAPI
    if api.stream:
        side_by_side = isinstance(api.loop, SideBySideLoop)
        wrapper = InstrumentedSideBySideAPI if side_by_side else InstrumentedStreamAPI
    counters = Counters(
        workers, api_servers, api.max_batch_size, wrapper.stages, served(api).setup_metrics
    )
    return wrapper(api, counters), counters
