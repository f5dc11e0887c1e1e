"""Unclocked: the MNIST baseline as LitServe alone would serve it, with nothing of ours in any request's way."""

import litserve
from starlette.types import ASGIApp, Receive, Scope, Send

from harness import serve as serving
from harness.counters import Counters
from mnist_model_benchmarking.server_baseline import BaselineAPI


class NoGate:
    """Lets everything pass."""

    def __init__(self, app: ASGIApp, **_: object) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def unmeasured(api: litserve.LitAPI, workers: int, api_servers: int) -> tuple[litserve.LitAPI, Counters]:
    """The API itself, and totals that nobody writes."""
    return api, Counters(workers, api.max_batch_size, (), (), api_servers)


if __name__ == "__main__":
    serving.Gate, serving.QueueClock, serving.measured = NoGate, litserve.Callback, unmeasured
    serving.serve(BaselineAPI())
