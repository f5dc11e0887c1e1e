"""What the load generator is asked to do, and what it brings back: jobs, outcomes, results."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from harness.load.events import EventsOf, events

OUTCOMES = "ok", "wrong_answer", "http_error", "timeout", "connection_error"
OK, WRONG_ANSWER, HTTP_ERROR, TIMEOUT, CONNECTION_ERROR = OUTCOMES
LONGEST = 4  # a closed loop that lacks requests measures up to so many times its duration


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to send, and for how long. These defaults are the command lines' defaults.

    Attributes:
        url: where to POST.
        bodies: sent in a shuffled cycle; JSON documents, unless the headers tell another type.
        headers: of every request, besides what HTTP needs.
        concurrency: connections with one request each at a time; ignored if there is a rate.
        duration_s: the least time to measure.
        warmup_s: sent before the clock starts, not counted.
        warmup_answers: a closed loop also waits for so many answers per connection: while its queue
            fills up, there is no steady state. Where answers stream, only their latencies wait for
            it: outputs come at a steady rate as soon as as many have ended as stream at once.
        rate: offered requests/s, whatever the server does (Poisson arrivals); None for a closed
            loop.
        timeout_s: a request that takes longer counts as timed out.
        min_requests: a closed loop measures up to LONGEST times as long until so many have ended
            since its queue is full, and longer still until one has, or has timed out.
        wants_latencies: whether the window of answers that stream lasts until there are latencies
            of a full queue; if not, it may end while the queue still fills up.
        check: body of an answer and index of its request to (is correct, quality from 0 to 1); None
            to trust the status.
        carries_output: for answers that stream: how many outputs an event brings, as far as it
            tells; True for one.
        outputs_told: body of an answer that streams to how many outputs it says it has; if more
            than its events tell, they share them evenly. None where no answer says.
        events_of: for answers that stream: their events; server-sent ones, if not told otherwise.
        seed: of the order of bodies and the arrival times.
    """

    url: str
    bodies: list[bytes]
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    concurrency: int = 1
    duration_s: float = 3.0
    warmup_s: float = 0.5
    warmup_answers: int = 1
    rate: float | None = None
    timeout_s: float = 30.0
    min_requests: int = 11
    wants_latencies: bool = True
    check: Callable[[bytes, int], tuple[bool, float | None]] | None = None
    carries_output: Callable[[bytes], int] | None = None
    outputs_told: Callable[[bytes], int | None] | None = None
    events_of: EventsOf = events
    seed: int = 0

    @property
    def patience_s(self) -> float:
        """How long the ends of enough requests are waited for, and how long for those of all."""
        return LONGEST * self.duration_s + self.timeout_s

    @property
    def limit_s(self) -> float:
        """The longest the job can take; a closed loop waits for its window to open, too."""
        opening_s = self.patience_s + self.timeout_s if self.rate is None else 0.0
        return self.warmup_s + opening_s + self.patience_s


@dataclass(frozen=True)
class LoadResult:
    """What came back: one entry per counted request, in order of ending.

    A closed loop counts the requests that ended inside the window, which opens and closes at the
    end of a request: its length is that of a whole number of requests (or batches), and throughput
    has no error of edges. Where answers stream, it opens while the queue still fills up, and whole
    waves of as many answers as stream at once lie in it; what ended before the queue was full
    counts, but not its latency. An open loop counts the requests that were due inside the window,
    however late they end; but its throughput is that of all that ended inside.

    Attributes:
        opened, closed: the window, seconds on the monotonic clock of this machine.
        full_since: what ended after it has waited in a full queue; later than `opened` only where
            answers stream, infinite if the queue never was full, minus infinite where it was as the
            window opened.
        ended: when each answer was complete, monotonic seconds.
        latency_s: from the intended send to the end of the answer; in a closed loop that is the
            service time. Of all answers, as are service_s and first_output_s: see `of_full_queue`.
        service_s: from the actual send to the end of the answer.
        outcome: one of OUTCOMES.
        quality: what `check` said of the requests that were answered with a 200; None for others.
        statuses: how often each HTTP error status came.
        correct_in_window: correct answers that ended inside the window, whenever they were due.
        outputs_in_window: answers that stream: outputs that arrived inside the window, of correct
            answers and of those that were still arriving when it closed; None if they do not.
        outputs_per_answer: answers that stream: mean over the correct ones; None without any.
        client_cpu_s: CPU seconds of the load generator's process during the window.
        first_output_s: answers that stream: from the intended send to the first output; None if
            none came.
        output_gaps_s: answers that stream: between one output and the next, per request.
        late_s: open loop: by how much each request was sent later than intended.
    """

    opened: float = math.nan
    closed: float = math.nan
    full_since: float = -math.inf
    ended: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    service_s: list[float] = field(default_factory=list)
    outcome: list[str] = field(default_factory=list)
    quality: list[float | None] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    correct_in_window: int = 0
    outputs_in_window: int | None = None
    outputs_per_answer: float | None = None
    client_cpu_s: float = math.nan
    first_output_s: list[float | None] = field(default_factory=list)
    output_gaps_s: list[list[float]] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)

    @property
    def window_s(self) -> float:
        """Length of the window, seconds."""
        return self.closed - self.opened

    @property
    def requests_per_second(self) -> float:
        """Correct answers per second of the window; streaming ones by the outputs in them."""
        if not self.window_s > 0:
            return 0.0
        if self.outputs_per_answer:
            return self.outputs_in_window / self.outputs_per_answer / self.window_s
        return self.correct_in_window / self.window_s

    @property
    def correct_latency_s(self) -> list[float]:
        """Latencies of the correct answers that ended since the queue was full."""
        return self.of_full_queue(self.latency_s)

    def of_full_queue(self, values: list) -> list:
        """Those of the values, one per request, that belong to correct answers which ended since
        the queue was full: of others, what counts from the send is shorter than it will be.
        """
        answers = zip(values, self.ended, self.outcome, strict=True)
        return [value for value, ended, how in answers if how == OK and ended > self.full_since]

    def of_correct(self, values: list) -> list:
        """Those of the values, one per request, that belong to correct answers."""
        return [value for value, how in zip(values, self.outcome, strict=True) if how == OK]
