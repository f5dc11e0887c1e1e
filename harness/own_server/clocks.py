"""Clocks in the worker of a script that is not ours: its LitAPI stays as it is, its methods are
timed where LitServe calls them.

Unlike harness.serving.instrumentation, nothing here changes what the script answers: what it raises
reaches LitServe as it was, and fails a whole batch if it did so before.
"""

import inspect
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps
from typing import Any, ClassVar

import litserve
from litserve.loops.base import _handle_async_function
from litserve.loops.simple_loops import BatchedLoop, SingleLoop
from litserve.loops.streaming_loops import BatchedStreamingLoop, StreamingLoop

from harness.serving.counters import WorkerCounter

FIRST, NEXT = "first_output", "next_outputs"


class TakenRequests:
    """LitServe's request queue, telling the clocks of every request that is taken from it, but of
    those that LitServe drops then, because they have waited for too long.
    """

    def __init__(self, queue: Any, clocks: "Clocks") -> None:
        self.queue, self.clocks = queue, clocks

    def get(self, *arguments: Any, **options: Any) -> tuple:
        self.clocks.count_batch()
        return self.noted(self.queue.get(*arguments, **options))

    def get_nowait(self) -> tuple:
        return self.get(block=False)

    def noted(self, item: tuple) -> tuple:
        arrival = item[2]
        if arrival is not None and not self.clocks.drops(arrival):  # a stop message has none
            self.clocks.arrived(arrival)
        return item

    def __getattr__(self, name: str) -> Any:
        return getattr(self.queue, name)


class Clocks:
    """What can be told of any loop: how many requests it takes, and how long they have waited.

    Args:
        api: whose methods are timed.
        counter: where the totals are kept.
        clock: seconds; it must be the one that LitServe stamps arrivals with, but for tests.

    Attributes:
        stages: that can be clocked, in order.
    """

    stages: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        api: litserve.LitAPI,
        counter: WorkerCounter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.api, self.counter, self.clock = api, counter, clock

    def drops(self, _arrival: float) -> bool:
        return False

    def arrived(self, arrival: float) -> None:
        self.counter.request_taken(self.clock() - arrival)

    def count_batch(self) -> None:
        """Called before the loop asks for a request."""

    def install(self) -> None:
        """Time the API's methods, whatever its setup has made of them."""


class StageClocks(Clocks):
    """What LitServe's own loops have in common."""

    methods: ClassVar[dict[str, str]] = {}  # of the API, each with the stage it is timed as

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.arrivals: deque[float] = deque()
        self.queue_wait_s = 0.0
        self.busy_s = dict.fromkeys(self.stages, 0.0)

    def drops(self, arrival: float) -> bool:
        limit_s = self.api.request_timeout
        return limit_s not in (None, False, -1) and self.clock() - arrival > limit_s

    def arrived(self, arrival: float) -> None:
        self.arrivals.append(arrival)

    def install(self) -> None:
        for name, stage in self.methods.items():
            self.replace(name, self.timed, stage)
        if FIRST in self.stages:
            self.replace("encode_response", self.encoding)

    def replace(self, name: str, made: Callable[..., Callable], *rest: Any) -> None:
        """Put what is made of a method in its place; LitServe looks at signatures per call."""
        method = getattr(self.api, name)
        clocked = wraps(method)(made(method, *rest))
        clocked.__signature__ = inspect.signature(method)
        setattr(self.api, name, clocked)


class SingleClocks(StageClocks):
    """One batch, or one request, after the other: whoever asks for more is done with the last."""

    stages = ("decode", "predict", "encode")
    methods: ClassVar = {
        "decode_request": "decode",
        "predict": "predict",
        "encode_response": "encode",
    }

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.at_work = self.failed = False
        self.size = 0

    def begin(self) -> None:
        """Start the batch, whose requests have all been taken, if it has not started yet."""
        if not self.at_work:
            self.at_work, self.failed, self.size = True, False, len(self.arrivals)
            self.queue_wait_s = self.clock() * self.size - sum(self.arrivals)
            self.arrivals.clear()
            self.busy_s.update(dict.fromkeys(self.stages, 0.0))

    def count_batch(self) -> None:
        if self.at_work and self.size:
            rejected = self.size if self.failed else 0
            self.counter.batch_done(self.size, rejected, self.busy_s, self.queue_wait_s)
        self.at_work = False

    def timed(self, method: Callable, stage: str) -> Callable:
        def clocked(*arguments: Any, **options: Any) -> Any:
            self.begin()
            began = self.clock()
            try:
                return method(*arguments, **options)
            except BaseException:
                self.failed = True
                raise
            finally:
                self.busy_s[stage] += self.clock() - began

        return clocked

    def encoding(self, encode: Callable) -> Callable:
        """What is not spent on making outputs is spent on encoding and sending them."""

        def clocked(outputs: Any, **options: Any) -> Iterator[Any]:
            began, making_s = self.clock(), self.making_s()
            try:
                yield from encode(self.making(outputs), **options)
            except BaseException:
                self.failed = True
                raise
            finally:
                self.busy_s["encode"] += self.clock() - began - (self.making_s() - making_s)

        return clocked

    def making_s(self) -> float:
        return self.busy_s[FIRST] + self.busy_s[NEXT]

    def making(self, outputs: Any) -> Iterator[Any]:
        """The outputs, the time until each is there added to its stage."""
        iterator, stage = iter(outputs), FIRST
        while True:
            began = self.clock()
            try:
                output = next(iterator)
            except StopIteration:
                return
            finally:
                self.busy_s[stage] += self.clock() - began
            yield output
            stage = NEXT


class BatchClocks(SingleClocks):
    """Batches; taking them apart again counts as encoding."""

    stages = ("decode", "collate", "predict", "encode")
    methods: ClassVar = SingleClocks.methods | {"batch": "collate", "unbatch": "encode"}


class StreamClocks(SingleClocks):
    """One request after the other, its answer sent piece by piece."""

    stages = ("decode", FIRST, NEXT, "encode")
    methods: ClassVar = {"decode_request": "decode", "predict": FIRST}


class BatchStreamClocks(SingleClocks):
    """Batches whose answers are sent piece by piece."""

    stages = ("decode", "collate", FIRST, NEXT, "encode")
    methods: ClassVar = StreamClocks.methods | {"batch": "collate"}


class AsyncClocks(StageClocks):
    """Requests side by side in one event loop, each of them a batch.

    A request spends in a stage what it takes, waiting included. busy_s has the seconds in which any
    request was in a stage, divided among those that were: their sum cannot pass the time.
    """

    stages = SingleClocks.stages
    methods: ClassVar = SingleClocks.methods

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.inside = dict.fromkeys(self.stages, 0)
        self.spent_s = dict.fromkeys(self.stages, 0.0)
        self.last = self.clock()

    def move(self, leaving: str | None, entering: str | None) -> None:
        """A request goes from one stage to another; None is outside of all."""
        now, inside = self.clock(), sum(self.inside.values())
        for stage, count in self.inside.items():
            if count:
                self.spent_s[stage] += count * (now - self.last)
                self.busy_s[stage] += count * (now - self.last) / inside
        self.last = now
        if leaving:
            self.inside[leaving] -= 1
        if entering:
            self.inside[entering] += 1

    def done(self, rejected: int) -> None:
        """Add a request to the totals, and what was spent since the last."""
        self.counter.batch_done(1, rejected, self.busy_s, self.queue_wait_s, self.spent_s)
        self.queue_wait_s = 0.0
        for totals in (self.busy_s, self.spent_s):
            totals.update(dict.fromkeys(self.stages, 0.0))

    def timed(self, method: Callable, stage: str) -> Callable:
        async def clocked(*arguments: Any, **options: Any) -> Any:
            if stage == "decode" and self.arrivals:  # the tasks begin in the order of taking
                self.queue_wait_s += self.clock() - self.arrivals.popleft()
            self.move(None, stage)
            try:
                result = await _handle_async_function(method, *arguments, **options)
            except BaseException:
                self.move(stage, None)
                self.done(rejected=1)
                raise
            self.move(stage, None)
            if stage == "encode":
                self.done(rejected=0)
            return result

        return clocked

    def encoding(self, encode: Callable) -> Callable:
        """What is not spent on making outputs is spent on encoding and sending them."""

        async def clocked(outputs: Any, **options: Any) -> AsyncIterator[Any]:
            failed = True
            self.move(None, "encode")
            try:
                made = self.making(outputs) if hasattr(outputs, "__aiter__") else outputs
                async for answer in await _handle_async_function(encode, made, **options):
                    yield answer
                failed = False
            finally:
                self.move("encode", None)
                self.done(rejected=int(failed))

        return clocked

    async def making(self, outputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The outputs, the time until each is there added to its stage."""
        iterator, stage = aiter(outputs), FIRST
        while True:
            self.move("encode", stage)
            try:
                output = await anext(iterator)
            except StopAsyncIteration:
                return
            finally:
                self.move(stage, "encode")
            yield output
            stage = NEXT


class AsyncStreamClocks(AsyncClocks):
    """Requests side by side, their answers sent piece by piece."""

    stages = StreamClocks.stages
    methods: ClassVar = StreamClocks.methods


CLOCKS = {  # by LitServe's loops, which are no subclasses of each other
    SingleLoop: SingleClocks,
    BatchedLoop: BatchClocks,
    StreamingLoop: StreamClocks,
    BatchedStreamingLoop: BatchStreamClocks,
}


def clocks_of(api: litserve.LitAPI) -> type[Clocks]:
    """The clocks that fit the loop of an API; of a loop of somebody's own, no stage is known."""
    fitting = (clocks for loop, clocks in CLOCKS.items() if isinstance(api.loop, loop))
    clocks = next(fitting, Clocks)
    if not api.enable_async:
        return clocks
    return {SingleClocks: AsyncClocks, StreamClocks: AsyncStreamClocks}.get(clocks, Clocks)
