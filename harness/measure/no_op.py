"""The no-op server, LitServe around an API that does nothing, set up as variants are.

What it costs a lone request is LitServe's own part of every latency; what it lets through is the
ceiling of every rate. It is launched in the first epochs, once for each way in which servers are
set up.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from harness.load.job import Job
from harness.measure.window import OfferedLoad

MODULE = "harness.serving.no_op_server"
WINDOW_S = 0.4
LONE = OfferedLoad(1)


class Shape(NamedTuple):
    """How LitServe is set up around an API: `loop` is MODULE:CLASS, "auto" LitServe's own."""

    max_batch_size: int
    batch_timeout_s: float
    workers_per_device: int
    loop: str = "auto"

    @property
    def flags(self) -> tuple[str, ...]:
        """The same for the no-op server."""
        return (
            *("--max-batch-size", str(self.max_batch_size)),
            *("--batch-timeout", str(self.batch_timeout_s)),
            *("--workers-per-device", str(self.workers_per_device)),
            *("--loop", self.loop),
        )


def shape_of(info: dict[str, Any]) -> Shape | None:
    """How the server with this /info is set up; None if it does not say."""
    if not info.keys() >= set(Shape._fields) - set(Shape._field_defaults):
        return None
    return Shape(**{name: info[name] for name in Shape._fields if name in info})


def no_op_job(job: Job, url: str, bodies: list[bytes]) -> Job:
    """Requests with these bodies, JSON objects, to a server that does nothing."""
    kept = {name: value for name, value in job.headers.items() if name.title() != "Content-Type"}
    return replace(
        job,
        url=f"{url}/predict",
        bodies=bodies,
        headers=kept,
        duration_s=WINDOW_S,
        check=None,
        carries_output=None,
    )
