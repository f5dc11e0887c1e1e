"""The open loop: requests start when they are due, however slow the answers are."""

import asyncio
import itertools
import math
import random
import time
from collections import deque

from harness.load.connection import Answer, Connection
from harness.load.job import CONNECTION_ERROR, TIMEOUT
from harness.load.loop import LoadLoop
from harness.process.limits import FILES_BESIDE, open_files

MOST_CONNECTIONS = 1024  # what is due beyond them waits for a connection, and its latency tells
MOST_DUE = 200_000  # requests that wait for a connection: their memory is the client's
PATIENCE_S = 1.0  # with a schedule that the client is behind when its window is over
ARRIVALS_AT_ONCE = 256  # where sending is late: what ends meanwhile has to be seen, too


class OpenLoop(LoadLoop):
    """Poisson arrivals, each sent on whichever connection is free.

    Requests due inside the window are counted; later ones keep the server as busy until the last of
    those has ended.
    """

    def start_sending(self) -> None:
        self.opens_at = self.started + self.job.warmup_s
        self.closes_at = self.opens_at + self.job.duration_s
        self.most_connections = min(MOST_CONNECTIONS, open_files() - FILES_BESIDE)
        self.scheduled = self.started  # when the latest request is due
        self.limit = self.started + self.job.limit_s
        self.due: deque[float] = deque()  # intended moments of what could not be sent yet
        self.free: list[Connection] = []
        self.opening = self.pending = 0  # connections; counted requests that have not ended
        self.cpu_at_closing: float | None = None
        self.begin(self.arrivals())

    async def arrivals(self) -> None:
        """Exponential gaps, on a schedule that does not slip when sending is late."""
        random_state = random.Random(self.job.seed)
        intended = self.started
        for number in itertools.count():
            self.scheduled = intended = intended + random_state.expovariate(self.job.rate)
            pause = intended - self.clock()
            if pause > 0 or number % ARRIVALS_AT_ONCE == 0:
                await asyncio.sleep(max(pause, 0))
            if self.done.done():
                return
            if intended >= self.opens_at and math.isnan(self.opened):
                self.open(self.opens_at)
            self.pending += self.counts(intended)
            if self.counts(intended) or len(self.due) < MOST_DUE // 2:
                self.due.append(intended)
            behind = intended < self.closes_at < self.clock() - PATIENCE_S
            if len(self.due) > MOST_DUE or behind:
                self.give_up()
                return
            self.dispatch()

    def give_up(self) -> None:
        """End it here: the client cannot even note what is due, or so much of it waits that more
        would tell nothing new.
        """
        now = self.clock()
        self.closes_at = min(self.closes_at, max(now, self.opens_at))
        self.limit = now

    def counts(self, intended: float) -> bool:
        """Whether a request that was due then belongs to the window."""
        return self.opens_at <= intended < self.closes_at

    def dispatch(self) -> None:
        """Send what is due on free connections; open more while something is left to send."""
        if self.done.done():  # the server is to be idle soon
            return
        while self.due and self.free:
            connection = self.free.pop()
            if connection.transport and not connection.transport.is_closing():
                intended, sent = self.due.popleft(), self.clock()
                connection.send(next(self.indices), intended, sent)
                if self.counts(intended):
                    self.late_s.append(sent - intended)
        room = self.most_connections - len(self.connections) - self.opening
        for _ in range(min(len(self.due) - self.opening, room)):
            self.opening += 1
            self.begin(self.connect())

    async def connect(self) -> None:
        await super().connect()
        self.opening -= 1
        self.dispatch()

    def ready(self, connection: Connection, _: float) -> None:
        """A connection can carry a request: send what has waited longest, if anything has."""
        self.free.append(connection)
        self.dispatch()

    def refused(self, began: float) -> None:
        """A connection could not be opened: the request that has waited longest has failed."""
        if self.due:
            self.failed(CONNECTION_ERROR, self.due.popleft(), began)

    def ended(self, answer: Answer) -> None:
        """Keep an answer; the window ends by the clock."""
        self.answers.append(answer)
        self.pending -= self.counts(answer.intended)

    def time_passed(self, now: float) -> None:
        """Close once all counted requests have ended.

        Those that have no answer by the end of the job, or could not even be sent, have timed out.
        """
        if now >= self.closes_at and self.cpu_at_closing is None:
            self.cpu_at_closing = time.process_time()
        if now > self.limit:
            for connection in list(self.connections):
                connection.fail(TIMEOUT)
            while self.due:
                self.failed(TIMEOUT, self.due.popleft(), now)
            self.pending, self.scheduled = 0, math.inf
        if min(now, self.scheduled) >= self.closes_at and self.pending == 0:
            if math.isnan(self.opened):
                self.open(self.opens_at)
            self.close(self.closes_at, self.cpu_at_closing)

    def counted(self) -> list[Answer]:
        """The answers to requests that were due in the window."""
        return [answer for answer in self.answers if self.counts(answer.intended)]
