"""The heart of an HTTP process: beats while its event loop turns, answers what no worker will."""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import litserve
from fastapi import FastAPI, HTTPException
from litserve.utils import LitAPIStatus, ResponseBufferItem

BEAT_S = 1.0
ON_ITS_WAY_S = 0.3  # what a worker had sent before it died has arrived by then
NO_ANSWER = "no answer within {:g} s"
WORKER_DIED = "the worker that had this request has died; try again"


class Hearts:
    """What a server's HTTP processes and its watch tell each other, in shared memory.

    Attributes:
        beats: by HTTP process, when its last beat began, monotonic seconds; 0 before the first.
        deaths: by worker, how often it has died.
        stopped: by worker, whether a signal has stopped it.
    """

    def __init__(self, api_servers: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.beats = context.RawArray("d", api_servers)
        self.deaths = context.RawArray("q", workers)
        self.stopped = context.RawArray("b", workers)


class Heart:
    """Runs in an HTTP process from its start to its end: `server.app` must not have been run yet.

    It answers 500 for requests whose worker has died, as far as the workers tell whose they are
    (LitServe's `restart_workers`), and 504 for those that have waited too long for an answer or,
    in a stream, its next piece. Time in which this process was frozen does not count. /health is
    503 while a worker is stopped.

    Args:
        response_timeout_s: how long is too long.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        server: litserve.LitServer,
        hearts: Hearts,
        response_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server, self.hearts, self.clock = server, hearts, clock
        self.response_timeout_s = response_timeout_s
        self.awake_s, self.looked = 0.0, clock()
        self.quiet_since: dict[Any, float] = {}  # by request, in seconds awake
        self.known_deaths = list(hearts.deaths)
        self.inner = server.app.router.lifespan_context
        server.app.router.lifespan_context = self.lifespan

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[Any]:
        """The app's own, with a heart that beats meanwhile."""
        if self.server.litapi_connector.any_stream():
            self.listen()
        for api in self.server.litapi_connector:  # LitServe's /health asks each
            api.health = partial(self.health, api.health)
        async with self.inner(app) as state:
            beating = asyncio.create_task(self.keep_beating(int(os.environ["LITSERVE_WORKER_ID"])))
            try:
                yield state
            finally:
                beating.cancel()

    def health(self, of_api: Callable[[], Any]) -> Any:
        """What an API says of itself, unless a worker is stopped."""
        return not any(self.hearts.stopped) and of_api()

    def listen(self) -> None:
        """Note when pieces of a stream arrive."""
        receive = self.server._transport.areceive

        async def areceive(*arguments: Any, **options: Any) -> Any:
            received = await receive(*arguments, **options)
            if received is not None:
                self.quiet_since[received[0]] = self.awake_s
            return received

        self.server._transport.areceive = areceive

    async def keep_beating(self, process: int) -> None:
        while True:
            began = self.clock()
            await self.beat(began)
            self.hearts.beats[process] = began  # last: the watch waits until deaths are dealt with
            await asyncio.sleep(BEAT_S)

    async def beat(self, now: float) -> None:
        """Answer the requests that nobody will."""
        self.awake_s += min(now - self.looked, 2 * BEAT_S)
        self.looked = now
        await self.answer_for_the_dead()
        self.answer_the_overdue()

    async def answer_for_the_dead(self) -> None:
        deaths = list(self.hearts.deaths)
        dead = {number for number, count in enumerate(deaths) if count != self.known_deaths[number]}
        self.known_deaths = deaths
        if dead:
            await asyncio.sleep(ON_ITS_WAY_S)
            lost = [each for each in self.inside().values() if each.worker_id in dead]
            answer(lost, 500, WORKER_DIED)

    def answer_the_overdue(self) -> None:
        inside = self.inside()
        self.quiet_since = {uid: self.quiet_since.get(uid, self.awake_s) for uid in inside}
        oldest = self.awake_s - self.response_timeout_s
        overdue = [inside[uid] for uid, since in self.quiet_since.items() if since < oldest]
        answer(overdue, 504, NO_ANSWER.format(self.response_timeout_s))

    def inside(self) -> dict[Any, ResponseBufferItem]:
        """The requests of this process that wait for a worker, by uid."""
        return dict(self.server.response_buffer)


def answer(requests: Iterable[ResponseBufferItem], status: int, reason: str) -> None:
    """Answer with an error in a worker's stead; a stream that has begun ends there."""
    for request in requests:
        if request.response is None:
            request.response = error = (HTTPException(status, reason), LitAPIStatus.ERROR)
            if request.response_queue is not None:
                request.response_queue.append(error)
            request.event.set()
