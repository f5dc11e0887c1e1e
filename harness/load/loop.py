"""What the closed and the open loop have in common: connections, timeouts, a window and an end."""

import asyncio
import itertools
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from harness.load.connection import Answer, Connection, StreamConnection, wire_format
from harness.load.job import TIMEOUT, Job

RECONNECT_PAUSE_S = 0.05
WATCH_S = 0.1  # between two looks at what takes too long
DRAIN_S, DRAIN_STEP_S = 0.5, 0.005  # after the window: a server that is frozen next is to be idle


class Moment(Enum):
    """What a job tells while it runs, for totals to be read: each once, in this order."""

    OPENED = "its window is open"
    FULL = "its queue is full, some time after the window has opened"  # or never
    CLOSED = "its window is over, and nothing cut off yet that still arrives in time"


class LoadLoop:
    """A job in progress.

    A subclass decides who sends when (start_sending, ready, refused, lost), what the end of a
    request means (ended), when the window is over though nothing ends (time_passed) and which
    answers belong to it (counted).

    Attributes:
        answers: how requests ended, in order.
        beside: those that do not count but were served inside the window, at least in part: due
            before it opened (open loop), complete a moment after it closed (closed loop).
        unfinished: streaming answers that were still arriving when the window closed.
        late_s: by how much each counted request was sent later than intended.
        opened, closed: the window, on the clock of the job.
        full_since: what ended after it has its latency from a full queue (see LoadResult).
        client_cpu_s: CPU seconds of this process during the window.
    """

    def __init__(
        self,
        job: Job,
        clock: Callable[[], float],
        on_moment: Callable[[Moment], None],
    ) -> None:
        self.job, self.clock, self.on_moment = job, clock, on_moment
        self.answers: list[Answer] = []
        self.beside: list[Answer] = []
        self.unfinished: list[Answer] = []
        self.late_s: list[float] = []
        self.opened = self.closed = self.client_cpu_s = math.nan
        self.full_since = -math.inf
        self.done = asyncio.get_running_loop().create_future()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task] = set()
        self.target = urlsplit(job.url)
        self.connection_type = StreamConnection if job.carries_output else Connection
        self.wire = [wire_format(job.url, body, job.headers) for body in job.bodies]
        self.indices = shuffled_cycle(len(job.bodies), job.seed)
        self.started = clock()
        self.unix_s = time.time() - self.started  # servers share Unix time, not this clock

    async def run(self) -> list[Answer]:
        """Run the job to its end; returns the answers that count."""
        self.begin(self.watch())
        self.start_sending()
        try:
            await self.done
            counted = self.counted()  # now, before what is cut off here comes in as failed
            known = {id(answer) for answer in counted}
            ended = [answer for answer in self.answers if answer.ended >= self.opened]
            self.beside = [answer for answer in ended if id(answer) not in known]
            if self.job.carries_output:
                self.unfinished = self.arriving()
            self.on_moment(Moment.CLOSED)
            if not self.job.carries_output:
                await self.drain()
        finally:
            for task in self.tasks:
                task.cancel()
            for connection in list(self.connections):
                connection.transport.abort()
        return counted

    def arriving(self) -> list[Answer]:
        """What has arrived so far of the answers that stream and are not complete."""
        streams = (connection.unfinished() for connection in self.connections)
        return [answer for answer in streams if answer]

    async def drain(self) -> None:
        """Wait a moment for the answers that are still due."""
        deadline = self.clock() + DRAIN_S
        while self.clock() < deadline and any(c.index is not None for c in self.connections):
            await asyncio.sleep(DRAIN_STEP_S)

    def progressed(self, now: float) -> None:
        """A part of a streaming answer has arrived."""

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task; a defect in it ends the run instead of vanishing."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.task_ended)

    def task_ended(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() and not self.done.done():
            self.done.set_exception(task.exception())

    async def connect(self) -> None:
        """Open one connection, trying again until it stands, and let it send."""
        loop, target = asyncio.get_running_loop(), (self.target.hostname, self.target.port or 80)
        while True:
            began = self.clock()
            try:
                opening = loop.create_connection(lambda: self.connection_type(self), *target)
                _, connection = await asyncio.wait_for(opening, self.job.timeout_s)
            except (OSError, TimeoutError):
                connection = None
            if connection and connection.transport:  # a server may hang up before we look
                self.connections.add(connection)
                self.ready(connection, self.clock())
                return
            self.refused(began)
            await asyncio.sleep(RECONNECT_PAUSE_S)

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)

    def open(self, moment: float) -> None:
        """Begin the window."""
        self.opened, self.cpu_at_opening = moment, time.process_time()
        self.on_moment(Moment.OPENED)

    def close(self, moment: float, cpu_at_closing: float | None = None) -> None:
        """End the window, and with it the job."""
        self.closed = moment
        self.client_cpu_s = (cpu_at_closing or time.process_time()) - self.cpu_at_opening
        self.done.set_result(None)

    async def watch(self) -> None:
        """Time out requests that take too long; end the window even if nothing ends any more."""
        while not self.done.done():
            await asyncio.sleep(min(WATCH_S, self.job.timeout_s / 4))
            now = self.clock()
            for connection in list(self.connections):
                if connection.index is not None and now - connection.sent > self.job.timeout_s:
                    connection.fail(TIMEOUT)
            if not self.done.done():
                self.time_passed(self.clock())

    def failed(self, outcome: str, intended: float, sent: float) -> None:
        """A request that no connection could carry has failed."""
        self.ended(Answer(self.clock(), intended, sent, outcome))


def shuffled_cycle(count: int, seed: int) -> Iterator[int]:
    """Every index below `count` once in a shuffled order, again and again."""
    return itertools.cycle(random.Random(seed).sample(range(count), count))
