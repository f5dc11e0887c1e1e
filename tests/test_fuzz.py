"""Seeded fuzz: odd bodies among valid requests disturb no answer, no worker, and get a sentence."""

import base64
import io
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import local

import pytest
import requests
from PIL import Image

from harness.process.control import control_session
from harness.process.launch import Server, healthy
from mnist_model_benchmarking.digits import sample_files
from mnist_model_benchmarking.reference import answers
from tests.fuzz_bodies import Body, image_bodies, odd_bodies
from tests.servers import chat_server, mnist_server, one_by_one

SHORT, WHOLE = 200, 2_000  # odd bodies
SEED, CONCURRENCY, LIMIT_S = 14, 32, 60
FILES = [content for content, _ in sample_files()]
DIGITS = answers(FILES)
CHAT = "/v1/chat/completions"
WORDS = "fish", "a boat on the water", "What is 3 + 4?", "grüß dich, 你好 💥"
kept = local()


def post(url: str, body: bytes) -> requests.Response:
    """The answer to one request, on a connection of this thread's own."""
    if not hasattr(kept, "session"):
        kept.session = control_session()
    headers = {"Content-Type": "application/json"}
    return kept.session.post(url, body, headers=headers, timeout=LIMIT_S)


def image_request(number: int) -> dict:
    return {"image": base64.b64encode(FILES[number % len(FILES)]).decode()}


def chat_request(number: int) -> dict:
    content = WORDS[number % len(WORDS)]
    wishes = {"max_tokens": 3, "temperature": 0, "return_token_ids": True}
    return {"messages": [{"role": "user", "content": content}], **wishes}


def mnist_bodies() -> Iterator[Body]:
    """Images of every kind, then all the rest."""
    digit = Image.open(io.BytesIO(FILES[0])).convert("L")
    pair = {"images": [image_request(each)["image"] for each in (1, 2)]}
    odd = odd_bodies([image_request(0), image_request(10), pair], SEED)
    images = list(image_bodies(digit))
    random.Random(SEED).shuffle(images)
    return itertools.chain(itertools.islice(odd, SHORT // 2), images, odd)


def chat_bodies() -> Iterator[Body]:
    part = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    long = chat_request(1) | {"stop": ["x"], "seed": 1, "top_p": 0.5, "n": 1, "user": "me"}
    long |= {"messages": [part, *long["messages"]], "stream_options": {"include_usage": True}}
    return odd_bodies([chat_request(0), long, chat_request(2) | {"stream": True}], SEED)


def sentence_of(reply: requests.Response) -> str:
    """What a refusal says, in the words of the one folder or the other."""
    document = reply.json()
    return document["error"]["message"] if "error" in document else document["detail"]


def complaint(body: Body, reply: requests.Response) -> str | None:
    """What is wrong with the answer to an odd body."""
    try:
        if 400 <= reply.status_code < 500 and reply.status_code != 404:
            said = sentence_of(reply)
            return None if isinstance(said, str) and len(said.split()) > 2 else f"says {said!r}"
    except (ValueError, KeyError, TypeError):
        return f"{reply.status_code} without a sentence: {reply.text[:200]}"
    if reply.status_code == 200 and not body.is_bad and b'"error"' not in reply.content:
        return None
    return f"{reply.status_code} {reply.text[:200]}"


def fuzzed(
    server: Server, path: str, odd: list[Body], valid: Callable[[int], dict], right: Callable
) -> list[str]:
    """Send the odd bodies, a valid request beside each; returns what went wrong.

    Args:
        right: whether (number of a valid request, its answer) is right.
    """
    url, workers = server.url + path, [row["pid"] for row in server.stats()["workers"]]

    def odd_one(body: Body) -> str | None:
        try:
            wrong = complaint(body, post(url, body.content))
        except requests.RequestException as error:
            wrong = str(error)
        return wrong and f"{body.content[:300]!r} ({len(body.content)} bytes): {wrong}"

    def valid_one(number: int) -> str | None:
        reply = post(url, json.dumps(valid(number)).encode())
        if reply.status_code == 200 and right(number, reply.json()):
            return None
        return f"valid request {number}: {reply.status_code} {reply.text[:200]}"

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        asked = []
        for number, body in enumerate(odd):
            asked += [pool.submit(odd_one, body), pool.submit(valid_one, number)]
        wrong = [each.result() for each in asked]
    assert healthy(server.url)
    assert [row["pid"] for row in server.stats()["workers"]] == workers
    return [each for each in wrong if each]


@pytest.fixture(scope="module", params=one_by_one("mnist", "baseline", "batching"))
def mnist(request, shared_server):
    return shared_server(*mnist_server(request.param))


@pytest.fixture(scope="module", params=one_by_one("chat", "baseline", "continuous_batching"))
def chat(request, shared_server):
    return shared_server(*chat_server(request.param))


COUNTS = [SHORT, pytest.param(WHOLE, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_odd_bodies_disturb_no_image_beside_them_and_are_refused_in_a_sentence(mnist, count):
    def right(number: int, answer: dict) -> bool:
        return answer["predictions"][0]["digit"] == DIGITS[number % len(FILES)]

    odd = list(itertools.islice(mnist_bodies(), count))
    assert fuzzed(mnist, "/predict", odd, image_request, right) == []


@pytest.mark.parametrize("count", COUNTS)
def test_odd_bodies_disturb_no_chat_beside_them_and_are_refused_in_a_sentence(chat, count):
    alone = [post(chat.url + CHAT, json.dumps(chat_request(each)).encode()) for each in range(4)]
    expected = [reply.json()["choices"][0]["token_ids"] for reply in alone]

    def right(number: int, answer: dict) -> bool:
        return answer["choices"][0]["token_ids"] == expected[number % len(WORDS)]

    odd = list(itertools.islice(chat_bodies(), count))
    assert fuzzed(chat, CHAT, odd, chat_request, right) == []


def test_a_body_nested_too_deeply_for_the_queue_is_refused_in_a_sentence(mnist):
    for depth in (400, 700, 2_000):
        body = '{"image": ' + "[" * depth + "]" * depth + "}"
        reply = post(f"{mnist.url}/predict", body.encode())
        assert reply.status_code == 400, (depth, reply.text)
        assert len(sentence_of(reply).split()) > 2


def busy_s(server: Server) -> float:
    """Seconds that the workers were at work so far."""
    return sum(sum(row["busy_s"].values()) for row in server.stats()["workers"])


def big_image() -> str:
    buffer = io.BytesIO()
    Image.effect_noise((256, 256), 90).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


OVERSIZED = {
    "stop text of a million characters": chat_request(0) | {"stop": "x" * 10**6},
    "four of them": chat_request(0) | {"stop": ["x" * 10**6] * 4},
    "prompt of 30 MB": {"messages": [{"role": "user", "content": "fish and " * 3_300_000}]},
    "one word of 30 MB": {"messages": [{"role": "user", "content": "x" * 30_000_000}]},
    "a million messages": {"messages": [{"role": "user", "content": ""}] * 700_000},
}
BUSY_S = 1.0  # what a request may take of a worker for being refused


@pytest.mark.alone
@pytest.mark.parametrize("name", OVERSIZED)
def test_an_oversized_chat_is_refused_before_it_occupies_the_worker(chat, name):
    before, began = busy_s(chat), time.monotonic()
    reply = post(chat.url + CHAT, json.dumps(OVERSIZED[name]).encode())
    took_s = time.monotonic() - began
    assert busy_s(chat) - before < BUSY_S, f"{reply.status_code} after {took_s:.1f} s"
    assert reply.status_code in (200, 400, 413), reply.text[:200]
    assert reply.status_code == 200 or len(sentence_of(reply).split()) > 2


@pytest.mark.alone
def test_512_big_images_are_bounded(mnist):
    before = busy_s(mnist)
    body = json.dumps({"images": [big_image()] * 380}).encode()
    reply = post(f"{mnist.url}/predict", body)
    assert reply.status_code in (400, 413), reply.text[:200]
    assert busy_s(mnist) - before < BUSY_S
