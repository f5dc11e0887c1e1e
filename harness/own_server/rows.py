"""What a server that is not ours adds to rows and variants: times of streams, what was changed."""

from pydantic.dataclasses import dataclass

from harness.results.rows import FINITE

Latencies = dict[str, float | None]
Intervals = dict[str, tuple[float, float] | None]


@dataclass(frozen=True, config=FINITE)
class OwnRow:
    """What is added to a variant under one offered load, of correct answers that stream; None of
    others.

    Attributes:
        first_event_ms: from the intended send to the first event, queue wait included, of answers
            that ended once the queue was full (LoadResult.full_since); mean and percentiles, a
            percentile is None if too few back it.
        first_event_ci95_ms: their 95 % intervals, approximate (bootstrap over epochs, then blocks:
            harness.results.percentiles); None where the value is, without a second block, and as
            long as the run goes on.
        event_gap_ms, event_gap_ci95_ms: from one event of an answer to the next; likewise.
    """

    first_event_ms: Latencies | None = None
    first_event_ci95_ms: Intervals | None = None
    event_gap_ms: Latencies | None = None
    event_gap_ci95_ms: Intervals | None = None


@dataclass(frozen=True, config=FINITE)
class OwnVariant:
    """What is added to a variant.

    Attributes:
        changes: by setting, the value that the script as written was given instead of its own.
    """

    changes: dict[str, str]
