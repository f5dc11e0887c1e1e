"""A LitServe loop that streams several answers at once: each step of the API moves all of them on.

LitServe's own loops answer one stream, or one batch of streams, before they take the next request;
here requests join and leave between any two steps.
"""

import logging
import time
from collections.abc import Iterator
from queue import Empty
from typing import Any, NamedTuple, Protocol

import litserve
from fastapi import HTTPException
from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError
from litserve.loops.simple_loops import BatchedLoop
from litserve.utils import LitAPIStatus, LoopResponseType, PickleableHTTPException

logger = logging.getLogger(__name__)

STREAMING = LoopResponseType.STREAMING
END = object()


class Outputs(Protocol):
    """An iterator of the outputs of one request.

    Attributes:
        ready: whether the next output, the end or an error can be had without a step.
    """

    ready: bool

    def __next__(self) -> Any: ...

    def close(self) -> None:
        """Make no more outputs; may be called again."""


class SideBySideAPI(Protocol):
    """What this loop calls besides decode_request and encode_response; the latter is to take one
    output for each piece it yields.

    Attributes:
        max_batch_size: answers made at once.
    """

    max_batch_size: int

    def begin(self, item: Any) -> Outputs:
        """What `predict` yields, LitServe wanting that to be a generator, which begins late."""

    def advance(self) -> None:
        """One step: moves every answer on. What fails in it, `Outputs` of its request raise."""


class Stream(NamedTuple):
    """An answer in the making: where it goes, its outputs, and its pieces as they are sent."""

    http_process: int
    uid: Any
    outputs: Outputs
    pieces: Iterator[Any]


class SideBySideLoop(BatchedLoop):
    """Takes requests while fewer than `max_batch_size` answers are in the making; asleep while
    there are none.

    An API that does not stream, as the no-op server's, gets batches of what is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[Stream] = []

    def __call__(
        self, lit_api: Any, device: str, worker: int, queue: Any, transport: Any, *others: Any
    ) -> None:
        if not lit_api.stream:
            super().__call__(lit_api, device, worker, queue, transport, *others)
            return
        try:
            while True:
                self.take_in(lit_api, queue, transport)
                lit_api.advance()
                self.streams = [
                    each for each in self.streams if self.goes_on(each, lit_api, transport)
                ]
        except _StopLoopError:
            return
        except KeyboardInterrupt:
            self.kill()

    def get_batch_requests(
        self, lit_api: litserve.LitAPI, request_queue: Any, transport: Any
    ) -> tuple[list, list]:
        kind = LoopResponseType.REGULAR
        taken = [self.taken(lit_api, request_queue, transport, kind, wait=True)]
        while len(taken) < lit_api.max_batch_size and taken[-1]:
            taken.append(self.taken(lit_api, request_queue, transport, kind, wait=False))
        return [request for request in taken if request], []

    def taken(
        self, lit_api: litserve.LitAPI, queue: Any, transport: Any, kind: Any, wait: bool
    ) -> tuple[int, Any, Any] | None:
        """HTTP process, name and body of the next request that has not waited for too long; None
        if there is none and nobody is to `wait`.
        """
        while True:
            try:
                item = queue.get() if wait else queue.get_nowait()
            except Empty:
                return None
            if item == _SENTINEL_VALUE:
                raise _StopLoopError
            http_process, uid, arrival, body = item
            self.put_response(transport, http_process, uid, (), LitAPIStatus.START, kind)
            limit_s = lit_api.request_timeout
            if limit_s in (None, False, -1) or time.monotonic() - arrival <= limit_s:
                return http_process, uid, body
            error = PickleableHTTPException(504, "Request timed out")
            self.put_response(transport, http_process, uid, error, LitAPIStatus.ERROR, kind)

    def take_in(self, lit_api: Any, queue: Any, transport: Any) -> None:
        """Begin the answers to all requests that are there, as far as there is room."""
        while len(self.streams) < lit_api.max_batch_size:
            wait = not self.streams
            request = self.taken(lit_api, queue, transport, STREAMING, wait)
            if request is None:
                return
            http_process, uid, body = request
            try:
                outputs = lit_api.begin(lit_api.decode_request(body))
                pieces = lit_api.encode_response(outputs)
                self.streams.append(Stream(http_process, uid, outputs, pieces))
            except Exception as error:
                self.put_failure(transport, http_process, uid, error)

    def goes_on(self, stream: Stream, lit_api: litserve.LitAPI, transport: Any) -> bool:
        """Send the pieces that are ready; whether there will be more."""
        to = transport, stream.http_process, stream.uid
        try:
            while stream.outputs.ready:
                piece = next(stream.pieces, END)
                if piece is END:
                    stream.outputs.close()
                    self.put_response(*to, "", LitAPIStatus.FINISH_STREAMING, STREAMING)
                    return False
                piece = lit_api.format_encoded_response(piece)
                self.put_response(*to, piece, LitAPIStatus.OK, STREAMING)
        except Exception as error:
            stream.outputs.close()
            self.put_failure(*to, error)
            return False
        return True

    def put_failure(self, transport: Any, http_process: int, uid: Any, error: Exception) -> None:
        """Answer with the error, in a form that can be pickled."""
        if isinstance(error, HTTPException):
            refusal = PickleableHTTPException.from_exception(error)
            self.put_response(transport, http_process, uid, refusal, LitAPIStatus.ERROR, STREAMING)
            return
        logger.error("a request failed", exc_info=error)
        told = RuntimeError(f"{type(error).__name__}: {error}")
        self.put_error_response(transport, http_process, uid, told, STREAMING)
