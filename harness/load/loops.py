"""The load generator's two loops, closed and open: who sends next, and when the window opens and closes."""

import asyncio
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from urllib.parse import urlsplit

from harness.load.connection import Answer, Connection, StreamConnection, wire_format
from harness.load.events import events
from harness.load.job import CONNECTION_ERROR, HTTP_ERROR, OK, TIMEOUT, WRONG_ANSWER, Job, Load

MOST_CONNECTIONS = 1024  # open loop: requests due beyond this wait for a connection, and their latency tells
RECONNECT_PAUSE_S = 0.05
SWEEP_S = 0.1


class Run:
    """A closed loop: every connection sends its next request when the answer to its last one is complete."""

    def __init__(self, job: Job, on_opening: Callable[[], None]) -> None:
        self.job, self.on_opening = job, on_opening
        self.opened = self.closed = math.nan
        self.answers: list[Answer] = []
        self.late_s: list[float] = []
        self.cpu_at_closing: float | None = None
        self.done = asyncio.get_running_loop().create_future()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task] = set()
        self.target = urlsplit(job.url)
        self.connection_type = StreamConnection if job.carries_output else Connection
        self.wire = [wire_format(job.url, body) for body in job.bodies]
        self.unix_s = time.time() - time.monotonic()  # requests say when they were due, by the clock that servers share
        self.indices = shuffled_cycle(len(job.bodies), job.seed)

    async def measure(self) -> Load:
        """Run the job to its end, then judge the answers."""
        self.started = time.monotonic()
        self.opens_at = self.alarm = self.started + self.job.warmup_s
        self.begin(self.sweep())
        self.start_sending()
        try:
            await self.done
        finally:
            for task in self.tasks:
                task.cancel()
            for connection in list(self.connections):
                connection.transport.abort()
        return self.judged()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task; a defect in it ends the run instead of vanishing."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.task_ended)

    def task_ended(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception() and not self.done.done():
            self.done.set_exception(task.exception())

    def start_sending(self) -> None:
        for _ in range(self.job.concurrency):
            self.begin(self.connect())

    async def connect(self) -> None:
        """Open one connection, trying again until it stands, and let it send."""
        loop = asyncio.get_running_loop()
        while True:
            began = time.monotonic()
            try:
                opening = loop.create_connection(
                    lambda: self.connection_type(self), self.target.hostname, self.target.port or 80
                )
                _, connection = await asyncio.wait_for(opening, self.job.timeout_s)
            except (OSError, TimeoutError):
                self.refused(began)
                await asyncio.sleep(RECONNECT_PAUSE_S)
            else:
                self.connections.add(connection)
                self.ready(connection, time.monotonic())
                return

    def refused(self, began: float) -> None:
        """A connection could not be opened: a request that would have been sent has failed."""
        self.ended(Answer(time.monotonic(), began, began, CONNECTION_ERROR, 0, 0, b"", []))

    def ready(self, connection: Connection, now: float) -> None:
        """A connection can carry a request."""
        if not self.done.done():
            connection.send(next(self.indices), now, now)

    def lost(self, connection: Connection) -> None:
        """A connection is gone: open another in its place."""
        self.connections.discard(connection)
        if not self.done.done():
            self.begin(self.connect())

    def ended(self, answer: Answer) -> None:
        """Keep an answer; the first one after the warm-up opens the window, one after its length closes it."""
        self.answers.append(answer)
        if answer.ended >= self.alarm and not self.done.done():
            self.open_or_close(answer.ended)

    def open_or_close(self, now: float) -> None:
        """The window opens and closes at the end of a request; what ended before it opened is forgotten."""
        if math.isnan(self.opened):
            if len(self.answers) <= self.job.concurrency:  # the first batch of answers may come at once
                return
            self.open(now)
            self.answers.clear()
            self.alarm = now + self.job.duration_s
        elif len(self.answers) >= self.job.min_requests:
            self.close(now)

    def open(self, now: float) -> None:
        self.opened, self.cpu_at_opening = now, time.process_time()
        self.on_opening()

    def close(self, now: float) -> None:
        """End the measurement."""
        self.closed = now
        self.client_cpu_s = (self.cpu_at_closing or time.process_time()) - self.cpu_at_opening
        self.done.set_result(None)

    async def sweep(self) -> None:
        """Time out requests that take too long, and end the window even if nothing ends any more."""
        while not self.done.done():
            await asyncio.sleep(min(SWEEP_S, self.job.timeout_s / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                if connection.index is not None and now - connection.sent > self.job.timeout_s:
                    connection.fail(TIMEOUT)
            if not self.done.done():
                self.end_in_time(time.monotonic())

    def end_in_time(self, now: float) -> None:
        """Close the window, a stall at its end included, if it has waited long enough for its least count."""
        if now - self.opened > 4 * self.job.duration_s:
            self.close(now)
        elif now - self.started > self.job.limit_s:
            self.open(now)
            self.close(now)

    def counted(self) -> list[Answer]:
        """The answers that belong to the window."""
        return [answer for answer in self.answers if answer.ended <= self.closed]

    def judged(self) -> Load:
        """Every counted answer compared with what it should be."""
        check = self.job.check or (lambda _body, _index: (True, 1.0))
        load = Load(self.opened, self.closed, client_cpu_s=self.client_cpu_s, late_s=self.late_s)
        for answer in self.counted():
            outcome, quality = answer.outcome, None
            if outcome == OK:
                right, quality = check(answer.body, answer.index)
                outcome = OK if right else WRONG_ANSWER
            elif outcome == HTTP_ERROR:
                load.statuses[answer.status] = load.statuses.get(answer.status, 0) + 1
            load.ended.append(answer.ended)
            load.latency_s.append(answer.ended - answer.intended)
            load.service_s.append(answer.ended - answer.sent)
            load.outcome.append(outcome)
            load.quality.append(quality)
            if self.job.carries_output:
                outputs = [at for at, event in events(answer.body, answer.arrivals) if self.job.carries_output(event)]
                load.first_s.append(outputs[0] - answer.intended if outputs else None)
                load.gaps_s.append([after - before for before, after in itertools.pairwise(outputs)])
        right = [ended for ended, outcome in zip(load.ended, load.outcome, strict=True) if outcome == OK]
        load.right_in_window = sum(load.opened <= ended <= load.closed for ended in right)
        return load


class OpenLoopRun(Run):
    """An open loop: requests start when they are due, on whichever connection is free, however slow the answers are.

    Requests due inside the window are counted; later ones keep the server as busy until the last of those has ended.
    """

    def start_sending(self) -> None:
        self.closes_at = self.opens_at + self.job.duration_s
        self.due: deque[float] = deque()  # intended moments of the requests that could not be sent yet
        self.free: list[Connection] = []
        self.opening = self.pending = 0
        self.begin(self.arrivals())

    async def arrivals(self) -> None:
        """Poisson arrivals: exponential gaps, on a schedule that does not slip when sending is late."""
        random_state = random.Random(self.job.seed)
        intended = self.started
        while True:
            intended += random_state.expovariate(self.job.rate)
            pause = intended - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            if intended >= self.opens_at and math.isnan(self.opened):
                self.open(self.opens_at)
            self.pending += self.counts(intended)
            self.due.append(intended)
            self.dispatch()

    def counts(self, intended: float) -> bool:
        """Whether a request that was due then belongs to the window."""
        return self.opens_at <= intended < self.closes_at

    def dispatch(self) -> None:
        """Send what is due on free connections; open more while something is left to send."""
        while self.due and self.free:
            connection = self.free.pop()
            if connection.transport and not connection.transport.is_closing():
                intended, sent = self.due.popleft(), time.monotonic()
                connection.send(next(self.indices), intended, sent)
                if self.counts(intended):
                    self.late_s.append(sent - intended)
        room = MOST_CONNECTIONS - len(self.connections) - self.opening
        for _ in range(min(len(self.due) - self.opening, room)):
            self.opening += 1
            self.begin(self.connect())

    async def connect(self) -> None:
        await super().connect()
        self.opening -= 1
        self.dispatch()

    def ready(self, connection: Connection, _: float) -> None:
        self.free.append(connection)
        self.dispatch()

    def refused(self, began: float) -> None:
        if self.due:
            self.ended(Answer(time.monotonic(), self.due.popleft(), began, CONNECTION_ERROR, 0, 0, b"", []))

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)  # dispatch opens another when one is needed

    def ended(self, answer: Answer) -> None:
        """Keep an answer; the window ends by the clock."""
        self.answers.append(answer)
        self.pending -= self.counts(answer.intended)

    def end_in_time(self, now: float) -> None:
        """Close once all counted requests have ended; those that cannot even be sent by then have timed out."""
        if now >= self.closes_at and self.cpu_at_closing is None:
            self.cpu_at_closing = time.process_time()
        if now - self.started > self.job.limit_s:
            for intended in filter(self.counts, self.due):
                self.answers.append(Answer(now, intended, now, TIMEOUT, 0, 0, b"", []))
            self.pending = 0
        if now >= self.closes_at and self.pending == 0:
            if math.isnan(self.opened):
                self.open(self.opens_at)
            self.close(self.closes_at)

    def counted(self) -> list[Answer]:
        return [answer for answer in self.answers if self.counts(answer.intended)]


def shuffled_cycle(count: int, seed: int) -> Iterator[int]:
    """Every index below `count` once in a shuffled order, again and again."""
    return itertools.cycle(random.Random(seed).sample(range(count), count))
