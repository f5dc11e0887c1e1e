"""How much may be inside an HTTP process: requests that can be answered in time, bytes of bodies.

LitServe's own queues have no end.
"""

import time
from collections.abc import Callable

from harness.serving.counters import Counters

MAX_CONCURRENCY = 1024  # requests inside one HTTP process, however fast they are answered
ALWAYS_ADMITTED = 64  # however slowly
MAX_WAIT_S = 30.0  # half of LitServe's queue timeout: what is let in will not meet it
MAX_BODY_BYTES = 32 << 20  # of one request
MAX_BYTES = 256 << 20  # of all inside: each is held up to four times, parsed, queued, pickled
READ_EVERY_S = 1.0


class Bounds:
    """The bounds of one HTTP process of a server.

    Between ALWAYS_ADMITTED (or two full batches per worker, if that is more) and `max_concurrency`
    as many requests may be inside as the workers answer in `max_wait_s`. How long a batch takes
    them is read from the counters; that it will be full is assumed, for where requests queue up it
    is. So a server that has had little to do is not taken for a slow one, and one on which nothing
    has been measured yet takes `max_concurrency`.

    Args:
        max_bytes: of bodies inside; one that is alone may always have max_body_bytes.
        clock: monotonic seconds; tests bring their own.
    """

    def __init__(
        self,
        counters: Counters,
        max_concurrency: int = MAX_CONCURRENCY,
        max_wait_s: float = MAX_WAIT_S,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters, self.clock, self.max_wait_s = counters, clock, max_wait_s
        self.max_body_bytes, self.max_bytes = max_body_bytes, max_bytes
        self.max_concurrency = max_concurrency
        self.full_batches = counters.worker_count * counters.max_batch_size
        self.always = min(max_concurrency, max(ALWAYS_ADMITTED, 2 * self.full_batches))
        self.limit, self.read_at, self.batches, self.busy_s = max_concurrency, 0.0, 0, 0.0

    def is_full(self, concurrency: int) -> bool:
        """Whether no other request may join so many."""
        return concurrency >= self.always and concurrency >= self.current_limit()

    def current_limit(self) -> int:
        """How many requests may be inside, by the batches that ended lately."""
        if self.clock() - self.read_at >= READ_EVERY_S:
            self.read_at = self.clock()
            workers = self.counters.workers
            batches, busy_s = sum(w.batches for w in workers), sum(sum(w.busy_s) for w in workers)
            if batches > self.batches:
                batch_s = max(1e-9, (busy_s - self.busy_s) / (batches - self.batches))
                share = self.full_batches / batch_s / len(self.counters.http)
                fitting = min(self.max_concurrency, int(share * self.max_wait_s))
                self.limit = max(self.always, fitting)
                self.batches, self.busy_s = batches, busy_s
        return self.limit

    def are_too_many(self, bytes_inside: int, size: int) -> bool:
        """Whether a request that holds `size` of the bytes inside is the one too many."""
        return bytes_inside > self.max_bytes and bytes_inside > size
