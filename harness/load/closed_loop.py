"""The closed loop: every connection sends its next request when its last answer is complete."""

import math
from enum import Enum

from harness.load.connection import Answer, Connection
from harness.load.job import CONNECTION_ERROR, LONGEST, TIMEOUT, Job
from harness.load.loop import LoadLoop


class State(Enum):
    """Where a closed loop's window stands.

    It opens and closes at the end of a request: between the two lies a whole number of requests (or
    batches), so that throughput has no error of edges. Where answers stream, at an arrival; but if
    every connection can have an answer meanwhile, between the two lie whole rounds of answers: a
    server that begins them together sends nothing while it takes in the next ones.
    """

    # The queue fills up: until there were answers on every connection, the server is not as busy as
    # it will be, and the first batch of answers may come all at once.
    WARMING_UP = "warming up"
    # What ends now counts: for longer than asked while too few have ended to back a median, but not
    # for ever: a server that has stopped answering must not hold up the run longer than a timeout.
    OPEN = "open"
    # What ends after this is cut off with its connection, and says nothing about the server.
    CLOSED = "closed"


class ClosedLoopWindow:
    """Says when the window opens and closes; it is told the time, and reads no clock.

    Attributes:
        state: where it stands.
        alarm: until then, no end of a request can change the state.
        deadline: after it, the end of any request changes the state.
    """

    def __init__(self, job: Job, started: float) -> None:
        self.job, self.state = job, State.WARMING_UP
        self.enough: int | None = None  # ends of requests; known once the window is long enough
        self.least_ended = job.warmup_answers * job.concurrency - bool(job.carries_output)
        self.alarm = started + job.warmup_s
        self.deadline = self.alarm + job.patience_s

    def edge(self, now: float, ended: int) -> bool:
        """Whether the end of a request, or a part of a stream, opens or closes the window.

        Args:
            now: when it came.
            ended: how many requests have, since the start or, once the window is open, since then.
        """
        if now < self.alarm:
            return False
        is_late = ended > 0 and now > self.deadline
        if self.state is State.WARMING_UP and (ended > self.least_ended or is_late):
            self.state, self.alarm = State.OPEN, now + self.job.duration_s
            self.deadline = now + LONGEST * self.job.duration_s
            return True
        if self.state is not State.OPEN:
            return False
        if self.enough is None:
            self.enough = max(self.job.min_requests, self.whole_rounds(ended))
        return (ended >= self.enough or is_late) and self.close()

    def whole_rounds(self, ended: int) -> int:
        """How many requests complete the round of answers that is under way; 0 if it is the first,
        or answers do not stream.
        """
        connections = self.job.concurrency
        is_round = self.job.carries_output and ended >= connections
        return connections * (ended // connections + 1) if is_round else 0

    def time_passed(self, now: float, ended: int) -> bool:
        """Whether it is so late that the window closes, a stall at its end included.

        One with few answers waits for the next end, be it a timeout: of a slow server it then holds
        a whole number of requests, of a hanging one its outcome.
        """
        is_full = self.state is State.OPEN and ended >= self.job.min_requests
        return now > self.deadline + (0 if is_full else self.job.timeout_s) and self.close()

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
        if self.is_silent() and not self.done.done():
            self.window.close()
            self.open(self.started)
            self.close(answer.ended)
        self.progressed(answer.ended)

    def is_silent(self) -> bool:
        """Whether every connection has waited for its first answer in vain: to wait again would
        tell nothing new, and there is no warm-up to leave out.
        """
        is_first = self.window.state is State.WARMING_UP
        enough = is_first and len(self.answers) >= self.job.concurrency
        return enough and all(answer.outcome == TIMEOUT for answer in self.answers)

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
        if self.window.time_passed(now, len(self.answers)):
            if math.isnan(self.opened):
                self.open(now)
            self.close(now)

    def counted(self) -> list[Answer]:
        """The answers that belong to the window."""
        return [answer for answer in self.answers if answer.ended <= self.closed]
