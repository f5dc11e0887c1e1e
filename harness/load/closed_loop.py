"""The closed loop: every connection sends its next request when its last answer is complete."""

import math
from enum import Enum

from harness.load.connection import Answer, Connection
from harness.load.job import CONNECTION_ERROR, LONGEST, OK, TIMEOUT, Job
from harness.load.loop import LoadLoop, Moment
from harness.load.outputs import most_at_once


class State(Enum):
    """Where a closed loop's window stands.

    It opens and closes at the end of a request: between the two lies a whole number of requests (or
    batches), so that throughput has no error of edges. Where answers stream, whole waves of as
    many answers as stream at once: a server that begins them together sends nothing while it takes
    in the next ones, and one that streams them in turn nothing while it takes in the next one.
    """

    # Until there were answers on every connection, the server is not as busy as it will be, and the
    # first batch of answers may come all at once; where answers stream, until one wave has ended.
    WARMING_UP = "warming up"
    # Only where answers stream: outputs come at the rate that lasts, and count; but what was sent
    # into a queue that still filled up has waited for less time than later ones will.
    FILLING = "filling"
    # What ends now counts: for longer than asked while too few have ended to back a median, but not
    # for ever: a server that has stopped answering must not hold up the run longer than a timeout.
    OPEN = "open"
    # What ends after this is cut off with its connection, and says nothing about the server.
    CLOSED = "closed"


class ClosedLoopWindow:
    """Says when the window opens, is full and closes; it is told the time, and reads no clock.

    Attributes:
        state: where it stands.
        at_once: how many answers stream at once; None as long as nobody has told.
        alarm: until then, no end of a request can change the state.
        deadline: after it, the end of any request changes the state.
    """

    def __init__(self, job: Job, started: float) -> None:
        self.job, self.state = job, State.WARMING_UP
        self.at_once: int | None = None
        # ends of requests, as `edge` counts them: that fill the queue, and that had filled it
        self.ends_until_full = job.warmup_answers * job.concurrency + (not job.carries_output)
        self.ends_when_full = 0
        self.alarm = started + job.warmup_s
        self.deadline = self.alarm + job.patience_s

    def edge(self, now: float, ended: int, is_end: bool = True) -> bool:
        """Whether the end of a request, or a part of a stream, changes the state.

        Args:
            now: when it came.
            ended: how many requests have, since the start or, once the window is open, since then.
            is_end: whether it is the end of a request.
        """
        if now < self.alarm:
            return False
        is_late = ended > self.ends_when_full and now > self.deadline
        if self.state is State.WARMING_UP:
            least = min(self.at_once or self.ends_until_full, self.ends_until_full)
            is_wave = ended >= least and (is_end or not least)
            return (is_late or is_wave) and self.open(now, ended, is_late)
        is_filling = self.state is State.FILLING
        if is_filling and (self.job.wants_latencies or now < self.earliest_close):
            return (is_late or ended >= self.ends_until_full) and self.fill(now, ended)
        is_wave = is_end and ended % (self.at_once or 1) == 0
        return (is_late or (is_wave and self.is_backed(ended))) and self.close()

    def is_backed(self, ended: int) -> bool:
        """Whether enough requests have ended since the queue was full, or the window opened."""
        return ended - self.ends_when_full >= max(1, self.job.min_requests)

    def needs_at_once(self, now: float, ended: int) -> bool:
        """Whether the window opens now, if no more answers stream at once than was known."""
        waits = self.state is State.WARMING_UP and self.job.carries_output and self.ends_until_full
        return bool(waits) and now >= self.alarm and ended >= (self.at_once or 1)

    def open(self, now: float, ended: int, is_late: bool) -> bool:
        """From now on, ends are counted anew."""
        self.earliest_close = now + self.job.duration_s
        self.ends_until_full -= ended
        if is_late or self.ends_until_full <= 0:
            return self.fill(now, 0)
        self.state, self.alarm = State.FILLING, now
        return True

    def fill(self, now: float, ended: int) -> bool:
        """From now on, latencies count."""
        self.state, self.alarm, self.ends_when_full = State.OPEN, self.earliest_close, ended
        self.deadline = now + LONGEST * self.job.duration_s
        return True

    def time_passed(self, now: float, ended: int) -> bool:
        """Whether it is so late that the window closes, a stall at its end included.

        One with few answers waits for the next end, be it a timeout: of a slow server it then holds
        a whole number of requests, of a hanging one its outcome.
        """
        is_enough = self.state is State.OPEN and self.is_backed(ended)
        return now > self.deadline + (0 if is_enough else self.job.timeout_s) and self.close()

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
        """Keep an answer; open, fill or close the window if it is time."""
        self.answers.append(answer)
        if self.is_silent() and not self.done.done():
            self.window.close()
            self.open(self.started)
            self.close(answer.ended)
        elif answer.outcome == OK and self.window.needs_at_once(answer.ended, len(self.answers)):
            recent = self.answers[-self.job.concurrency :]
            self.window.at_once = most_at_once(self.job, [*recent, *self.arriving()])
        self.look(answer.ended, is_end=True)

    def progressed(self, now: float) -> None:
        self.look(now, is_end=False)

    def is_silent(self) -> bool:
        """Whether every connection has waited for its first answer in vain: to wait again would
        tell nothing new, and there is no warm-up to leave out.
        """
        is_first = self.window.state is State.WARMING_UP
        enough = is_first and len(self.answers) >= self.job.concurrency
        return enough and all(answer.outcome == TIMEOUT for answer in self.answers)

    def look(self, now: float, is_end: bool) -> None:
        """Open, fill or close the window if it is time."""
        if now < self.window.alarm or self.done.done():
            return
        if not self.window.edge(now, len(self.answers), is_end):
            return
        if self.window.state is State.CLOSED:
            self.close(now)
        elif math.isnan(self.opened):
            self.full_since = math.inf if self.window.state is State.FILLING else self.full_since
            self.open(now)
            self.answers.clear()  # what ended before does not count
        else:
            self.full_since = now
            self.on_moment(Moment.FULL)

    def time_passed(self, now: float) -> None:
        """Close the window if it has waited long enough; one that never opened has no length."""
        if self.window.time_passed(now, len(self.answers)):
            if math.isnan(self.opened):
                self.open(now)
            self.close(now)

    def counted(self) -> list[Answer]:
        """The answers that belong to the window."""
        return [answer for answer in self.answers if answer.ended <= self.closed]
