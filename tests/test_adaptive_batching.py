"""The adaptive loop, on a queue that the test fills: what it takes, and when it asks again."""

import pickle
import time
from queue import Empty
from types import SimpleNamespace

import litserve
import pytest
import torch
from fastapi import HTTPException
from litserve.callbacks import CallbackRunner
from litserve.loops.base import _SENTINEL_VALUE, _StopLoopError
from litserve.utils import LitAPIStatus, LoopResponseType

from harness.serving.instrumentation import instrumented
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


class Numbers(litserve.LitAPI):
    """Doubles numbers; a batch with 13 in it fails, one with 14 loses an output, 400 is refused."""

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: dict) -> int:
        if request["n"] == 400:
            raise HTTPException(400, "not this one")
        return request["n"]

    def batch(self, numbers: list[int]) -> list[int]:
        return numbers

    def predict(self, numbers: list[int]) -> list[int]:
        if 13 in numbers:
            raise ValueError("not 13")
        return [2 * number for number in numbers if number != 14]

    def unbatch(self, doubled: list[int]) -> list[int]:
        return doubled

    def encode_response(self, doubled: int) -> int:
        return doubled


class Batches:
    """A request queue that hands out these batches, one number a request, then the stop message."""

    def __init__(self, *batches: list[int]) -> None:
        self.batches, self.waiting = list(batches), []

    def get(self) -> tuple:
        if not self.batches:
            return _SENTINEL_VALUE
        self.waiting = self.batches.pop(0)[:]
        return self.get_nowait()

    def get_nowait(self) -> tuple:
        if not self.waiting:
            raise Empty
        number = self.waiting.pop(0)
        return (
            0,
            f"{number:012x}",
            0.0,
            {"n": number},
        )  # it entered long ago: the loop looks for more


@pytest.fixture(autouse=True)
def _as_in_a_worker(monkeypatch):
    monkeypatch.setenv("LITSERVE_WORKER_ID", "0")


def served(*batches: list[int], timeout_s: float | bool = False) -> tuple[dict[int, tuple], dict]:
    """What the instrumented loop answers, (content, status) by number, and what /stats tells."""
    answers = {}

    def send(message: tuple, consumer_id: int) -> None:
        uid, (content, status, kind, _) = message
        number = int(uid, 16)
        assert (consumer_id, kind, number in answers) == (0, LoopResponseType.REGULAR, False)
        answers[number] = pickle.loads(content) if isinstance(content, bytes) else content, status

    api, counters = instrumented(Numbers(max_batch_size=8, loop=AdaptiveLoop()), 1, 1)
    api.request_timeout = timeout_s
    api.setup("cpu")
    transport = SimpleNamespace(send=send)
    api.loop(api, "cpu", 0, Batches(*batches), transport, {}, CallbackRunner())
    return answers, counters.snapshot()["workers"][0]


def test_every_request_is_answered_and_counted_once_alone_or_in_a_batch():
    answers, counted = served([1], [2, 3, 4], [5])
    assert answers == {n: (2 * n, LitAPIStatus.OK) for n in (1, 2, 3, 4, 5)}
    assert (counted["requests"], counted["rejected"], counted["batches"]) == (5, 0, 3)
    assert counted["batch_sizes"] == {1: 2, 3: 1}
    assert all(counted["busy_s"].values())


@pytest.mark.parametrize("batch", [[400], [1, 400, 3]])
def test_a_request_that_cannot_be_read_is_refused_and_its_neighbours_are_answered(batch):
    answers, counted = served(batch)
    refused, status = answers.pop(400)
    assert (refused.status_code, status) == (400, LitAPIStatus.OK)  # a response of its own
    assert answers == {n: (2 * n, LitAPIStatus.OK) for n in batch if n != 400}
    assert (counted["requests"], counted["rejected"]) == (len(batch), 1)


@pytest.mark.parametrize("failing", [[13], [13, 1], [14, 1]])
def test_a_batch_that_fails_is_answered_with_an_error_and_the_next_is_served(failing):
    answers, _ = served(failing, [2])
    assert answers.pop(2) == (4, LitAPIStatus.OK)
    assert {status for _, status in answers.values()} == {LitAPIStatus.ERROR}
    assert answers.keys() == set(failing)


def test_a_request_that_waited_for_too_long_is_answered_504():
    error, status = served([1], timeout_s=0.01)[0][1]
    assert (error.status_code, status) == (504, LitAPIStatus.ERROR)


def test_a_lone_request_is_not_collated_and_gets_the_same_answer():
    api = AdaptiveBatchingAPI(max_batch_size=8)
    api.setup("cpu")
    images = torch.randn(3, 784)
    (alone,) = api.predict(api.batch([images]))
    first, second = api.predict(api.batch([images, images[:2]]))
    assert api.batch([images])[0] is images
    assert torch.allclose(alone, first, atol=1e-6)
    assert torch.allclose(alone[:2], second, atol=1e-6)


def test_a_loop_of_ones_own_has_a_name_by_which_the_no_op_server_finds_it():
    name = loop_name(AdaptiveBatchingAPI(max_batch_size=8, loop=AdaptiveLoop()))
    assert name == "mnist_model_benchmarking.server_adaptive_batching:AdaptiveLoop"
    assert isinstance(loop_named(name), AdaptiveLoop)
    assert loop_name(BatchingAPI(max_batch_size=8)) == loop_named("auto") == "auto"
