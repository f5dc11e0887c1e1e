"""The load generator at work: keep-alive connections, who sends next, when the window opens and closes."""

import asyncio
import itertools
import math
import random
import time
from collections import deque
from collections.abc import Iterator
from urllib.parse import urlsplit

import httptools

from harness.load import CONNECTION_ERROR, HTTP_ERROR, OK, TIMEOUT, WRONG_ANSWER, Job, Load

MOST_CONNECTIONS = 1024  # open loop: requests due beyond this wait for a connection, and their latency tells
RECONNECT_PAUSE_S = 0.05
SWEEP_S = 0.1


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, run: "Run") -> None:
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.index: int | None = None  # of the request in flight

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, index: int, intended: float | None = None) -> None:
        """Send the request `index`; `intended` is when it was due, now if None."""
        self.index, self.complete = index, False
        self.parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)
        self.sent = time.monotonic()
        self.intended = self.sent if intended is None else intended
        self.transport.write(self.run.wire[index])

    def data_received(self, data: bytes) -> None:
        if self.index is None:
            self.transport.abort()  # nobody asked: what follows on this connection could not be told apart
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.end(CONNECTION_ERROR)
            return
        if self.complete:
            self.answered()

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
        self.keep_alive = self.parser.should_keep_alive()  # known only here: the parser forgets it afterwards

    def answered(self) -> None:
        """A complete answer is there: judge it."""
        self.status = self.parser.get_status_code()
        if self.status == 200:
            right, quality = self.run.check(b"".join(self.parts), self.index)
            self.end(OK if right else WRONG_ANSWER, quality)
        else:
            self.end(HTTP_ERROR)

    def connection_lost(self, _: Exception | None) -> None:
        self.transport = None
        self.end(CONNECTION_ERROR)
        self.run.lost(self)

    def end(self, outcome: str, quality: float | None = None) -> None:
        """Report the request in flight, if there is one; give the connection up unless it can carry another."""
        if self.index is None:
            return
        self.index = None
        reusable = self.transport is not None and self.complete and self.keep_alive
        if self.transport and not reusable:
            self.transport.abort()
        self.run.ended(self, outcome, quality)
        if reusable:
            self.run.ready(self)


class Run:
    """A closed loop: every connection sends its next request when the answer to its last one is complete."""

    def __init__(self, job: Job) -> None:
        self.job, self.load = job, Load()
        self.done = asyncio.get_running_loop().create_future()
        self.connections: set[Connection] = set()
        self.tasks: set[asyncio.Task] = set()
        self.target = urlsplit(job.url)
        self.wire = [wire_format(job.url, body) for body in job.bodies]
        self.indices = shuffled_cycle(len(job.bodies), job.seed)
        self.check = job.check or (lambda _body, _index: (True, 1.0))

    async def measure(self) -> Load:
        """Run the job to its end."""
        self.started = time.monotonic()
        self.opens_at = self.started + self.job.warmup_s
        self.cpu_at_closing: float | None = None
        self.begin(self.sweep())
        self.start_sending()
        try:
            await self.done
        finally:
            for task in self.tasks:
                task.cancel()
            for connection in list(self.connections):
                connection.transport.abort()
        return self.load

    def begin(self, work: "asyncio._CoroutineLike[None]") -> None:
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
                opening = loop.create_connection(lambda: Connection(self), self.target.hostname, self.target.port or 80)
                _, connection = await asyncio.wait_for(opening, self.job.timeout_s)
            except (OSError, TimeoutError):
                self.refused(began)
                await asyncio.sleep(RECONNECT_PAUSE_S)
            else:
                self.connections.add(connection)
                self.ready(connection)
                return

    def refused(self, began: float) -> None:
        """A connection could not be opened: a request that would have been sent has failed."""
        self.record(began, began, CONNECTION_ERROR, None)

    def ready(self, connection: Connection) -> None:
        """A connection can carry a request."""
        if not self.done.done():
            connection.send(next(self.indices))

    def ended(self, connection: Connection, outcome: str, quality: float | None) -> None:
        """A request has ended: count it, if it belongs to the window."""
        if self.done.done():
            return
        counted = self.record(connection.intended, connection.sent, outcome, quality)
        if counted and outcome == HTTP_ERROR:
            self.load.statuses[connection.status] = self.load.statuses.get(connection.status, 0) + 1

    def lost(self, connection: Connection) -> None:
        """A connection is gone: open another in its place."""
        self.connections.discard(connection)
        if not self.done.done():
            self.begin(self.connect())

    def record(self, intended: float, sent: float, outcome: str, quality: float | None) -> bool:
        """Count a request that ends now; the first one after the warm-up opens the window and is not counted."""
        now, load = time.monotonic(), self.load
        if now < self.opens_at:
            return False
        if math.isnan(load.opened):
            self.open(now)
            return False
        self.append(now, intended, sent, outcome, quality)
        load.right_in_window += outcome == OK
        if now - load.opened >= self.job.duration_s and len(load.ended) >= self.job.min_requests:
            self.close(now)
        return True

    def append(self, now: float, intended: float, sent: float, outcome: str, quality: float | None) -> None:
        load = self.load
        load.ended.append(now)
        load.latency_s.append(now - intended)
        load.service_s.append(now - sent)
        load.outcome.append(outcome)
        load.quality.append(quality)

    def open(self, now: float) -> None:
        self.load.opened, self.cpu_at_opening = now, time.process_time()

    def close(self, now: float) -> None:
        """End the measurement."""
        self.load.closed = now
        self.load.client_cpu_s = (self.cpu_at_closing or time.process_time()) - self.cpu_at_opening
        self.done.set_result(None)

    async def sweep(self) -> None:
        """Time out requests that take too long, and end the window even if nothing ends any more."""
        while not self.done.done():
            await asyncio.sleep(min(SWEEP_S, self.job.timeout_s / 4))
            now = time.monotonic()
            for connection in list(self.connections):
                if connection.index is not None and now - connection.sent > self.job.timeout_s:
                    connection.end(TIMEOUT)
            if not self.done.done():
                self.end_in_time(time.monotonic())

    def end_in_time(self, now: float) -> None:
        """Close the window, a stall at its end included, if it has waited long enough for its least count."""
        if now - self.load.opened > 4 * self.job.duration_s:
            self.close(now)
        elif now - self.started > self.job.limit_s:
            self.open(now)
            self.close(now)


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
            if intended >= self.opens_at and math.isnan(self.load.opened):
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
                intended = self.due.popleft()
                connection.send(next(self.indices), intended)
                if self.counts(intended):
                    self.load.late_s.append(connection.sent - intended)
        room = MOST_CONNECTIONS - len(self.connections) - self.opening
        for _ in range(min(len(self.due) - self.opening, room)):
            self.opening += 1
            self.begin(self.connect())

    async def connect(self) -> None:
        await super().connect()
        self.opening -= 1
        self.dispatch()

    def ready(self, connection: Connection) -> None:
        self.free.append(connection)
        self.dispatch()

    def refused(self, began: float) -> None:
        if self.due:
            self.record(self.due.popleft(), began, CONNECTION_ERROR, None)

    def lost(self, connection: Connection) -> None:
        self.connections.discard(connection)  # dispatch opens another when one is needed

    def record(self, intended: float, sent: float, outcome: str, quality: float | None) -> bool:
        """Count a request that ends now, if it was due inside the window."""
        now = time.monotonic()
        self.load.right_in_window += outcome == OK and self.opens_at <= now < self.closes_at
        if not self.counts(intended):
            return False
        self.pending -= 1
        self.append(now, intended, sent, outcome, quality)
        return True

    def end_in_time(self, now: float) -> None:
        """Close once all counted requests have ended; those that cannot even be sent by then have timed out."""
        if now >= self.closes_at and self.cpu_at_closing is None:
            self.cpu_at_closing = time.process_time()
        if now - self.started > self.job.limit_s:
            for intended in filter(self.counts, self.due):
                self.record(intended, now, TIMEOUT, None)
            self.pending = 0
        if now >= self.closes_at and self.pending == 0:
            if math.isnan(self.load.opened):
                self.open(self.opens_at)
            self.close(self.closes_at)


def wire_format(url: str, body: bytes) -> bytes:
    """The bytes of one POST request with a JSON body."""
    target = urlsplit(url)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def shuffled_cycle(count: int, seed: int) -> Iterator[int]:
    """Every index below `count` once in a shuffled order, again and again."""
    return itertools.cycle(random.Random(seed).sample(range(count), count))
