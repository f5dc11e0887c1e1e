"""The closed loop: every connection sends its next request when its last answer is complete."""

import math
from enum import Enum

from harness.load.connection import Answer, Connection
from harness.load.job import CONNECTION_ERROR, LONGEST, Job
from harness.load.loop import LoadLoop


class State(Enum):
    """Where a closed loop's window stands.

    It opens and closes at the end of a request: between the two lies a whole number of requests (or
    batches), so that throughput has no error of edges. Where answers stream, at an arrival.
    """

    # The queue fills up: until there were answers on every connection, the server is not as busy as
    # it will be, and the first batch of answers may come all at once.
    WARMING_UP = "warming up"
    # What ends now counts: for longer than asked while too few have ended to back a median, but not
    # for ever, since a server that has stopped answering must not hold up the run.
    OPEN = "open"
    # What ends after this is cut off with its connection, and says nothing about the server.
    CLOSED = "closed"


class ClosedLoopWindow:
    """Says when the window opens and closes; it is told the time, and reads no clock.

    Attributes:
        state: where it stands.
        alarm: until then, no end of a request can change the state.
        deadline: after it, the state changes even if no request ends.
    """

    def __init__(self, job: Job, started: float) -> None:
        self.job, self.state = job, State.WARMING_UP
        self.least_ended = job.warmup_answers * job.concurrency - bool(job.carries_output)
        self.alarm, self.deadline = started + job.warmup_s, started + job.limit_s

    def edge(self, now: float, ended: int) -> bool:
        """Whether the end of a request, or a part of a stream, opens or closes the window.

        Args:
            now: when it came.
            ended: how many requests have, since the start or, once the window is open, since then.
        """
        if now < self.alarm:
            return False
        if self.state is State.WARMING_UP and ended > self.least_ended:
            self.state, self.alarm = State.OPEN, now + self.job.duration_s
            self.deadline = min(self.deadline, now + LONGEST * self.job.duration_s)
            return True
        return self.state is State.OPEN and ended >= self.job.min_requests and self.close()

    def time_passed(self, now: float) -> bool:
        """Whether it is so late that the window closes, a stall at its end included."""
        return now > self.deadline and self.close()

    def close(self) -> bool:
        """Nothing happens after this."""
        self.state, self.alarm, self.deadline = State.CLOSED, math.inf, math.inf
        return True


class ClosedLoop(LoadLoop):
    """As many connections as the job's concurrency, each replaced when it is lost."""

    def start_sending(self) -> None:
        self.window = ClosedLoopWindow(self.job, self.started)
        for _ in range(self.job.concurrency):
            self.begin(self.connect())

    def ready(self, connection: Connection, now: float) -> None:
        """A connection can carry a request: send one."""
        if not self.done.done():
            connection.send(next(self.indices), now, now)

    def refused(self, began: float) -> None:
        """A connection could not be opened: the request that it would have carried has failed."""
        self.failed(CONNECTION_ERROR, began, began)

    def lost(self, connection: Connection) -> None:
        """A connection is gone: open another in its place."""
        if connection in self.connections and not self.done.done():
            self.begin(self.connect())
        super().lost(connection)

    def ended(self, answer: Answer) -> None:
        """Keep an answer; open or close the window if it is time."""
        self.answers.append(answer)
        self.progressed(answer.ended)

    def progressed(self, now: float) -> None:
        """Open or close the window if it is time."""
        if now < self.window.alarm or self.done.done():
            return
        if not self.window.edge(now, len(self.answers)):
            return
        if self.window.state is State.OPEN:
            self.open(now)
            self.answers.clear()  # what ended before does not count
        else:
            self.close(now)

    def time_passed(self, now: float) -> None:
        """Close the window if it has waited long enough; one that never opened has no length."""
        if self.window.time_passed(now):
            if math.isnan(self.opened):
                self.open(now)
            self.close(now)

    def counted(self) -> list[Answer]:
        """The answers that belong to the window."""
        return [answer for answer in self.answers if answer.ended <= self.closed]
