"""Continuous batching: whoever shares a step, joins or leaves, an answer is what it is alone."""

import argparse
import random
import time
from concurrent.futures import ThreadPoolExecutor
from queue import Empty

import pytest
import requests
import torch
from fastapi import HTTPException
from litserve.loops.base import _SENTINEL_VALUE
from litserve.utils import LitAPIStatus

from harness.serving.counters import Counters
from harness.serving.instrumentation import InstrumentedSideBySideAPI
from harness.serving.served_api import loop_named
from harness.serving.side_by_side import SideBySideLoop
from llm_model_benchmarking.continuous import PROMPT_TOKENS, Engine
from llm_model_benchmarking.generation import Prompt, Sampler
from llm_model_benchmarking.server_baseline import BaselineAPI
from llm_model_benchmarking.server_continuous_batching import ContinuousBatchingAPI
from tests.servers import chat_server, one_by_one

VOCABULARY = 97
CHAT = "/v1/chat/completions"


def after(ids: list[int]) -> int:
    """The next token that the fake model wants."""
    return (sum(at * id_ for at, id_ in enumerate(ids, start=1)) + 7) % VOCABULARY


class FakeStep:
    """A model whose logits depend on all that is in a slot, its cache emptied where it was moved
    from; `calls` says what was run.
    """

    def __init__(self, slots: int) -> None:
        self.lengths = [0] * slots
        self.cached: list[list[int]] = [[] for _ in range(slots)]
        self.calls: list[tuple[str, int]] = []

    def append(self, slot: int, ids: list[int]) -> torch.Tensor:
        kept = self.cached[slot][: self.lengths[slot]]
        assert len(kept) == self.lengths[slot], "what was moved away is not used any more"
        self.cached[slot] = kept + ids
        self.lengths[slot] = len(self.cached[slot])
        return torch.eye(VOCABULARY)[after(self.cached[slot])]

    def prefill(self, slot: int, ids: torch.Tensor) -> torch.Tensor:
        self.calls.append(("prefill", ids.shape[1]))
        return self.append(slot, ids[0].tolist())

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls.append(("decode", len(tokens)))
        return torch.stack([self.append(slot, row.tolist()) for slot, row in enumerate(tokens)])

    def decode_and_prefill(self, tokens: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.decode(tokens), self.prefill(len(tokens), ids)[None]))

    def move(self, source: int, target: int) -> None:
        self.cached[target] = self.cached[source][: self.lengths[source]]
        self.lengths[target] = self.lengths[source]
        self.cached[source] = []


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=0, keepdim=True)


def joined(engine: Engine, length: int, tokens: int, seed: int = 0, **options):
    """An answer of so many tokens to a prompt of so many; options: choose, ends."""
    prompt = Prompt([(seed + 3 * at) % VOCABULARY for at in range(length)], tokens)
    return engine.join(prompt, **{"choose": likeliest, "ends": ()} | options)


def expected(answer) -> list[int]:
    """What the fake model says to a prompt alone."""
    ids = list(answer.prompt.ids)
    for _ in range(answer.prompt.max_tokens):
        ids.append(after(ids))
    return ids[len(answer.prompt.ids) :]


def ids_of(answer) -> list[int]:
    return [token.id for token in answer]


def engine_of(slots: int, **options) -> tuple[Engine, FakeStep]:
    step = FakeStep(slots)
    return Engine(step, torch.device("cpu"), **options), step


def test_answers_that_join_and_leave_at_any_time_are_what_they_are_alone():
    draw = random.Random(16)
    engine, step = engine_of(5)
    answers, left = [], []
    for seed in range(60):
        length = draw.choice([1, 2, 9, PROMPT_TOKENS, PROMPT_TOKENS + 1, 3 * PROMPT_TOKENS])
        answers.append(joined(engine, length, draw.randrange(1, 30), seed))
        for _ in range(draw.randrange(8)):
            engine.run()
        if draw.random() < 0.3:
            leaver = answers.pop(draw.randrange(len(answers)))
            left.append(leaver)
            leaver.close()
    assert [ids_of(answer) for answer in answers] == [expected(answer) for answer in answers]
    assert [ids_of(answer) for answer in left] == [[]] * len(left)
    assert (engine.rows, engine.decoding, list(engine.waiting)) == ([], 0, [])
    assert max(rows for kind, rows in step.calls if kind == "decode") == 5


def test_every_answer_gets_its_token_between_two_parts_of_a_long_prompt():
    engine, step = engine_of(3)
    short, other = joined(engine, 4, 50), joined(engine, 5, 50)
    for _ in range(2):
        engine.run()
    step.calls.clear()
    long = joined(engine, 2 * PROMPT_TOKENS + 10, 3)
    while not long.ready:
        engine.run()
    parts = [count for kind, count in step.calls if kind == "prefill"]
    assert parts == [PROMPT_TOKENS, PROMPT_TOKENS, 10]
    assert [kind for kind, _ in step.calls] == ["decode", "prefill"] * 3
    assert (len(short.tokens), len(other.tokens)) == (2 + 3, 1 + 3)
    assert ids_of(long) == expected(long)


def test_the_token_says_why_it_is_the_last_one_and_frees_the_slot_at_once():
    engine, _ = engine_of(2)
    answer = joined(engine, 6, 5)
    ids = expected(answer)
    assert [token.finish_reason for token in answer] == [None] * 4 + ["length"]
    stopped = joined(engine, 6, 5, ends={ids[2]})
    reasons = [token.finish_reason for token in stopped]
    assert reasons == [None] * ids.index(ids[2]) + ["stop"]
    assert engine.rows == []


def test_who_fails_fails_alone():
    def failing(_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no choice")

    engine, _ = engine_of(4)
    first, second = joined(engine, 3, 9), joined(engine, 4, 9)
    bad = joined(engine, 5, 9, choose=failing)
    last = joined(engine, 6, 9)
    assert [ids_of(each) for each in (first, second, last)] == list(
        map(expected, (first, second, last))
    )
    with pytest.raises(ValueError, match="no choice"):
        next(bad)


def test_a_step_that_fails_ends_all_that_shared_it_and_the_next_ones_are_served():
    engine, step = engine_of(2)
    answers, decode = [joined(engine, 3, 9), joined(engine, 4, 9)], step.decode
    for _ in range(2):
        engine.run()
    step.decode = lambda tokens: (_ for _ in ()).throw(RuntimeError("out of memory"))
    engine.run()
    for answer in answers:
        assert next(answer).id == expected(answer)[0]
        with pytest.raises(RuntimeError, match="out of memory"):
            ids_of(answer)
    step.decode = decode
    again = joined(engine, 3, 9)
    assert ids_of(again) == expected(again)


@pytest.mark.parametrize("when", ["decoding", "its prompt comes in", "it waits for a slot"])
def test_a_client_that_leaves_frees_its_slot_at_the_next_step(when):
    gone = []
    engine, step = engine_of(2, has_left=lambda prompt: prompt in gone)
    stays = joined(engine, 3, 40)
    engine.run()
    leaver = joined(engine, 4 if when == "decoding" else 5 * PROMPT_TOKENS, 40)
    waits = joined(engine, 5 * PROMPT_TOKENS + 1, 3)
    for _ in range(3):
        engine.run()
    gone.append(waits.prompt if when == "it waits for a slot" else leaver.prompt)
    step.calls.clear()
    engine.run()
    if when == "it waits for a slot":
        assert (waits.ended, list(engine.waiting), engine.rows) == (True, [], [stays, leaver])
    else:
        assert (leaver.ended, ids_of(leaver), engine.rows) == (True, [], [stays, waits])
        assert step.calls == [("decode", 1), ("prefill", PROMPT_TOKENS)]
        assert ids_of(waits) == expected(waits)
    assert ids_of(stays) == expected(stays)


class Script:
    """A LitAPI for the loop: `n` outputs for each request, one per step; 3 fails, bodies without n
    are refused.
    """

    stream, request_timeout, max_batch_size = True, 60.0, 2
    steps = 0
    format_encoded_response = staticmethod(str)

    def __init__(self) -> None:
        self.at_work: list[Script.Outputs] = []

    class Outputs:
        def __init__(self, end: int) -> None:
            self.end, self.made, self.told, self.closed = end, 0, 0, False

        @property
        def ready(self) -> bool:
            return self.told < self.made or self.made == self.end

        def __iter__(self):
            return self

        def __next__(self) -> int:
            assert self.ready
            if self.told == 3:
                raise ValueError("three is too many")
            if self.told == self.end:
                raise StopIteration
            self.told += 1
            return self.told

        def close(self) -> None:
            self.closed = True

    def decode_request(self, body: dict) -> int:
        if "n" not in body:
            raise HTTPException(400, "no n")
        return body["n"]

    def begin(self, end: int) -> "Script.Outputs":
        self.at_work.append(self.Outputs(end))
        return self.at_work[-1]

    def encode_response(self, outputs):
        yield from outputs

    def advance(self) -> None:
        self.steps += 1
        for outputs in self.at_work:
            outputs.made = min(outputs.made + 1, outputs.end)


class Post:
    """LitServe's request queue and transport; the sentinel comes last."""

    def __init__(self, bodies: list[dict], waited_s: float = 0.0) -> None:
        arrival = time.monotonic() - waited_s
        self.items = [(0, name, arrival, body) for name, body in enumerate(bodies)]
        self.sent: list[tuple] = []
        self.waits = 0

    def get(self) -> tuple:
        self.waits += 1
        return self.items.pop(0) if self.items else _SENTINEL_VALUE

    def get_nowait(self) -> tuple:
        if not self.items:
            raise Empty
        return self.items.pop(0)

    def send(self, item: tuple, consumer_id: int) -> None:
        name, (data, status, *_) = item
        self.sent.append((name, status, data))

    def to(self, name: int) -> list[tuple]:
        return [(status, data) for to, status, data in self.sent if to == name]


def looped(post: Post, api: Script) -> Script:
    SideBySideLoop()(api, "cpu", 0, post, post, {}, None)
    return api


def test_the_loop_sends_pieces_in_turn_ends_each_stream_and_stops_at_litserves_word():
    post = Post([{"n": 2}, {"n": 1}, {"n": 2}])
    api = looped(post, Script())
    ok, end = LitAPIStatus.OK, LitAPIStatus.FINISH_STREAMING
    assert [(name, status) for name, status, _ in post.sent] == [
        (0, ok), (1, ok), (1, end), (0, ok), (0, end), (2, ok), (2, ok), (2, end),
    ]  # fmt: skip
    assert post.to(0) == [(ok, "1"), (ok, "2"), (end, "")]
    assert (api.steps, post.waits) == (3, 2)  # asleep before the first and after the last
    assert all(outputs.closed for outputs in api.at_work)


def test_the_loop_answers_refusals_and_failures_beside_streams_that_go_on():
    post = Post([{"n": 5}, {}, {"n": 2}])
    looped(post, Script())
    assert [status for status, _ in post.to(2)][-1] == LitAPIStatus.FINISH_STREAMING
    ((status, refusal),) = post.to(1)
    assert (status, refusal.status_code, refusal.detail) == (LitAPIStatus.ERROR, 400, "no n")
    *pieces, (status, _) = post.to(0)
    assert ([data for _, data in pieces], status) == (["1", "2", "3"], LitAPIStatus.ERROR)


def test_the_loop_answers_504_to_what_has_waited_for_too_long():
    post = Post([{"n": 1}], waited_s=61)
    api = looped(post, Script())
    ((status, error),) = post.to(0)
    assert (status, error.status_code, api.at_work) == (LitAPIStatus.ERROR, 504, [])


def test_an_api_that_does_not_stream_gets_batches_of_what_is_there():
    loop, post = loop_named("harness.serving.side_by_side:SideBySideLoop"), Post([{}] * 3)
    taken = [loop.get_batch_requests(Script(), post, post)[0] for _ in range(2)]
    assert [[name for _, name, _ in batch] for batch in taken] == [[0, 1], [2]]
    assert post.waits == 2


class FakeClock:
    """Seconds that pass only where a test says so; a power of two, so that sums are exact."""

    now = 1024.0

    def __call__(self) -> float:
        return self.now


class TimedScript(Script):
    """4 s to decode, 8 s a step, 2 s to encode a piece."""

    setup_metrics, batch_timeout, loop, spec, api_path = (), 0.0, "auto", None, "/"

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.clock = clock

    def setup(self, device: str) -> None:
        pass

    def decode_request(self, body: dict) -> int:
        self.clock.now += 4
        return super().decode_request(body)

    def advance(self) -> None:
        self.clock.now += 8
        super().advance()

    def encode_response(self, outputs):
        for output in outputs:
            self.clock.now += 2
            yield output


@pytest.fixture
def timed(monkeypatch):
    monkeypatch.setenv("LITSERVE_WORKER_ID", "0")
    clock, counters = FakeClock(), Counters(1, 1, 2, InstrumentedSideBySideAPI.stages)
    api = InstrumentedSideBySideAPI(TimedScript(clock), counters, clock)
    api.setup("cpu")
    return api, clock, counters


def test_side_by_side_each_request_spends_all_the_time_and_the_worker_is_busy_once(timed):
    """One of 2 outputs and one of 1 that joins before the second step."""
    api, clock, counters = timed
    api.arrivals.append(clock.now - 1)
    first = api.begin(api.decode_request({"n": 2}))
    pieces = api.encode_response(first)
    api.advance()
    assert next(pieces) == 1
    api.arrivals.append(clock.now - 3)
    second = api.begin(api.decode_request({"n": 1}))
    api.advance()
    assert [next(api.encode_response(second)), next(pieces)] == [1, 2]
    second.close()
    first.close()
    (worker,) = counters.snapshot()["workers"]
    # decode 4, step 8, encode 2 alone; decode 4, step 8, encode 4 side by side
    assert worker["spent_s"] == {
        "queue_wait": 1 + 3,
        "decode": 4 + 4 + 4,
        "first_output": 8 + 8,
        "next_outputs": 8,
        "encode": 2 + 4 + 4,
    }
    shares = {"decode": 8, "first_output": 8 + 4, "next_outputs": 4, "encode": 2 + 4}
    assert worker["busy_s"] == shares
    assert sum(shares.values()) == clock.now - FakeClock.now


def test_requests_that_share_their_time_count_as_the_batch_they_are(timed):
    """Of each pair, one is 4 s alone and 14 s with the other, which is 2 s alone at its end."""
    api, _, counters = timed
    for _ in range(36):
        pair = []
        for _ in range(2):
            api.arrivals.append(0.0)
            pair.append(api.begin(api.decode_request({"n": 1})))
        api.advance()
        for outputs in pair:
            list(api.encode_response(outputs))
            outputs.close()
    (worker,) = counters.snapshot()["workers"]
    batches = 36 * ((4 + 14 / 2) / 18 + (2 + 14 / 2) / 16)
    assert (worker["requests"], worker["batches"]) == (72, int(batches))
    assert worker["batch_sizes"] == {2: int(batches)}
    assert sum(worker["busy_s"].values()) == 36 * 20


def test_a_refused_request_is_counted_as_rejected(timed):
    api, clock, counters = timed
    api.arrivals.append(clock.now)
    with pytest.raises(HTTPException, match="no n"):
        api.decode_request({})
    (worker,) = counters.snapshot()["workers"]
    assert (worker["requests"], worker["rejected"], worker["busy_s"]["decode"]) == (1, 1, 4)
    assert api.time.inside == 0


def api_of(kind: type, *flags: str) -> BaselineAPI:
    api, parser = kind(), argparse.ArgumentParser()
    api.add_flags(parser)
    shape = "--model", "random:tiny", "--max-context", "256", "--dtype", "float32"
    api.configure(parser.parse_args([*shape, *flags]))
    api.setup("cpu")
    return api


def test_float32_answers_that_share_their_steps_are_the_baselines():
    """Prompts of mixed lengths, one that samples among them; eight answers in three slots."""
    baseline, shared = api_of(BaselineAPI), api_of(ContinuousBatchingAPI, "--slots", "3")
    try:
        draw, prompts = random.Random(4), []
        for length in (1, 7, PROMPT_TOKENS, PROMPT_TOKENS + 1, 150, 3, 90, 40):
            ids = [draw.randrange(5, 49152) for _ in range(length)]
            wishes = {"temperature": 0.9, "seed": 5} if length == 3 else {}
            prompts.append(Prompt(ids, draw.randrange(5, 40), ignore_eos=True, **wishes))
        answers, got = [], {}
        for prompt in prompts:
            answers.append(shared.begin(prompt))
            for _ in range(draw.randrange(4)):
                shared.advance()
        got = [list(answer) for answer in answers]
        assert got == [list(baseline.predict(prompt)) for prompt in prompts]
        assert list(shared.predict(prompts[0])) == got[0]
    finally:
        torch.compiler.set_stance("default")


@pytest.fixture(scope="module", params=one_by_one("chat", "continuous_batching"))
def server(request, shared_server):
    return shared_server(*chat_server(request.param))


def ask(server, number: int, **wishes) -> requests.Response:
    """Request of that number, each of another length."""
    messages = [{"role": "user", "content": "fish and boats " * (1 + 9 * (number % 4))}]
    request = {"messages": messages, "max_tokens": 5 + 7 * number, "temperature": 0}
    request |= {"return_token_ids": True} | wishes
    return requests.post(server.url + CHAT, json=request, timeout=60)


def test_eight_at_once_in_four_slots_get_the_answers_they_get_alone(server):
    def choice(number: int) -> dict:
        return ask(server, number).json()["choices"][0]

    alone = [choice(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(choice, range(8))) == alone
        stop = alone[7]["message"]["content"][10:13]
        stopped = list(pool.map(lambda number: ask(server, 7, stop=stop).json(), range(8)))
    text = alone[7]["message"]["content"]
    for answer in stopped:
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["choices"][0]["message"]["content"] == text[: text.index(stop)]


def test_the_server_tells_its_slots_and_what_shared_them(server):
    assert (server.info["slots"], server.info["max_batch_size"]) == (4, 4)
    with ThreadPoolExecutor(8) as pool:
        assert all(reply.ok for reply in pool.map(lambda _: ask(server, 6), range(16)))
    sizes = server.stats()["workers"][0]["batch_sizes"]
    assert max(map(int, sizes)) in (3, 4)


def test_slots_out_of_range_are_refused_in_a_sentence():
    parser = argparse.ArgumentParser()
    api = ContinuousBatchingAPI()
    api.add_flags(parser)
    with pytest.raises(SystemExit, match="--slots must be 2 to 1024, not 1"):
        api.configure(parser.parse_args(["--model", "random:tiny", "--slots", "1"]))


def test_a_sampler_of_a_prompt_is_its_own():
    engine, _ = engine_of(3)
    never = torch.tensor([], dtype=torch.long)

    def sampled(seed: int) -> list:
        prompt = Prompt([1, 2, 3], 12, temperature=1.5, seed=seed)
        return engine.join(prompt, Sampler(prompt, never), ())

    alone = ids_of(sampled(7))
    beside = [sampled(7), sampled(8), joined(engine, 5, 20)]
    first, other, _ = map(ids_of, beside)
    assert alone == first != other
