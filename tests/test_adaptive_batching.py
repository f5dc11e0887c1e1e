"""The adaptive loop, on a queue that the test fills: what it takes, and when it asks again."""

import time
from queue import Empty
from types import SimpleNamespace

import pytest
from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError

from harness.serving.served_api import loop_name, loop_named
from mnist_model_benchmarking.server_adaptive_batching import AdaptiveBatchingAPI, AdaptiveLoop
from mnist_model_benchmarking.server_batching import BatchingAPI


class FilledQueue:
    """Holds requests that entered so many seconds before (or, below 0, after) it is asked first."""

    def __init__(self, *ages_s: float) -> None:
        self.ages_s, self.questions, self.taken = list(ages_s), 0, 0

    def get(self) -> tuple:
        self.questions += 1
        if not self.ages_s:
            raise Empty
        self.taken += 1
        return 0, f"request {self.taken}", time.monotonic() - self.ages_s.pop(0), {}

    get_nowait = get


def taken(queue: FilledQueue, limit: int = 8) -> tuple[list[str], list[str]]:
    """The requests of the next batch, and those that had waited too long."""
    api = SimpleNamespace(
        max_batch_size=limit, batch_timeout=0.0, request_timeout=60.0, stream=False
    )
    batch, late = AdaptiveLoop().get_batch_requests(api, queue, transport=None)
    return [uid for _, uid, _ in batch], [uid for _, uid in late]


def test_a_batch_is_all_that_waits():
    assert taken(FilledQueue(0.3, 0.2, 0.1)) == (["request 1", "request 2", "request 3"], [])


def test_a_batch_ends_at_the_limit():
    assert taken(FilledQueue(0.3, 0.2, 0.1), limit=2)[0] == ["request 1", "request 2"]


def test_a_request_that_found_the_worker_waiting_is_served_at_once_without_another_question():
    queue = FilledQueue(-0.1, -0.2)
    assert taken(queue)[0] == ["request 1"]
    assert queue.questions == 1


def test_a_request_that_waited_longer_than_the_timeout_is_handed_out_as_such():
    assert taken(FilledQueue(61.0, 0.1)) == (["request 2"], ["request 1"])


@pytest.mark.parametrize("before", [[], [(0, "a request", 0.0, {})]])
def test_the_stop_message_ends_the_loop(before):
    items = [*before, _SENTINEL_VALUE]
    queue = SimpleNamespace(get=lambda: items.pop(0), get_nowait=lambda: items.pop(0))
    with pytest.raises(_StopLoopError):
        taken(queue)


def test_a_loop_of_ones_own_has_a_name_by_which_the_no_op_server_finds_it():
    name = loop_name(AdaptiveBatchingAPI(max_batch_size=8, loop=AdaptiveLoop()))
    assert name == "mnist_model_benchmarking.server_adaptive_batching:AdaptiveLoop"
    assert isinstance(loop_named(name), AdaptiveLoop)
    assert loop_name(BatchingAPI(max_batch_size=8)) == loop_named("auto") == "auto"
