"""Language model servers over real HTTP: OpenAI's protocol, and clients that misbehave."""

import contextlib
import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from harness.process.launch import ServerFailedError, running_server
from llm_model_benchmarking.suite import VARIANTS
from llm_model_benchmarking.tokenizer import build_tokenizer
from tests.servers import one_by_one
from tests.settled import settled

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
PICTURE = {"type": "image_url", "image_url": {}}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model on disk as any other, with weights and a chat template of its own."""
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
        eos_token_id=2,
        bos_token_id=1,
        initializer_range=0.12,
    )
    LlamaForCausalLM(config).save_pretrained(place)
    tokenizer = build_tokenizer(49152, 1024)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
        "{{ raise_exception('system comes first') }}{% endif %}"
        "[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]"
    )
    tokenizer.save_pretrained(place)
    return str(place)


NAMES = "random:tiny", *(variant.name for variant in VARIANTS)


@pytest.fixture(scope="module", params=one_by_one("disk", *NAMES))
def server(request, folder):
    """The baseline with random weights, then every variant with the model on disk."""
    variant = "baseline" if request.param == "random:tiny" else request.param
    model = "random:tiny" if request.param == "random:tiny" else folder
    flags = ("--model", model, "--max-context", "256", "--accelerator", "cpu")
    with running_server(f"llm_model_benchmarking.server_{variant}", *flags) as server:
        server.info["folder"] = model
        yield server


def ask(server, **wishes) -> requests.Response:
    request = {"messages": HELLO, "max_tokens": 8, "temperature": 0} | wishes
    return requests.post(server.url + PATH, json=request, timeout=60)


def chunks_of(reply: requests.Response) -> list[dict]:
    lines = [line for line in reply.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_stream_says_the_same_as_the_whole_answer(server):
    whole = ask(server, return_token_ids=True).json()
    wishes = {"stream_options": {"include_usage": True}, "return_token_ids": True}
    chunks = chunks_of(ask(server, stream=True, **wishes))
    choice = whole["choices"][0]
    pieces = [chunk["choices"][0] for chunk in chunks[:-1]]
    text = "".join(piece["delta"].get("content", "") for piece in pieces)
    assert text == choice["message"]["content"]
    ids = [id_ for piece in pieces for id_ in piece.get("token_ids", [])]
    assert ids == choice["token_ids"]
    assert pieces[0]["delta"]["role"] == choice["message"]["role"] == "assistant"
    assert len({chunk["id"] for chunk in chunks}) == 1
    reasons = [piece["finish_reason"] for piece in pieces]
    assert reasons == [None] * 8 + [choice["finish_reason"]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks[:-1])


def test_usage_is_exact_and_without_asking_a_stream_has_none(server):
    usage = ask(server).json()["usage"]
    if server.info["weights"] == "pretrained":
        tokenizer = AutoTokenizer.from_pretrained(server.info["folder"])
        expected = len(tokenizer.encode("[user] hello there\n[assistant]"))
        assert usage["prompt_tokens"] == expected
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert not any("usage" in chunk for chunk in chunks_of(ask(server, stream=True)))


def test_max_completion_tokens_counts_before_max_tokens(server):
    assert ask(server, max_completion_tokens=3).json()["usage"]["completion_tokens"] == 3


def test_a_stop_text_ends_the_answer_and_is_said_to(server):
    free = ask(server, max_tokens=12).json()["choices"][0]["message"]["content"]
    stop = free[len(free) // 2 :][:3]
    for wish in (stop, ["not there", stop]):
        choice = ask(server, max_tokens=12, stop=wish).json()["choices"][0]
        assert choice["message"]["content"] == free[: free.index(stop)]
        assert choice["finish_reason"] == "stop"


def test_sampling_with_a_seed_repeats_itself(server):
    answers = [ask(server, temperature=1.0, seed=seed).json() for seed in (1, 1, 2)]
    first, again, other = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert first == again != other


def test_bias_ends_and_min_tokens_are_honoured_on_every_rung(server):
    wishes = {"logit_bias": {"300": 100}, "stop_token_ids": [300], "min_tokens": 3}
    choice = ask(server, **wishes, return_token_ids=True).json()["choices"][0]
    *first, last = choice["token_ids"]
    assert (len(first), last, choice["finish_reason"]) == (3, 300, "stop")
    assert 300 not in first
    assert ask(server, ignore_eos=True, max_tokens=40).json()["usage"]["completion_tokens"] == 40


def test_content_may_come_in_parts_and_system_messages_count(server):
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": " there"}]
    in_parts = ask(server, messages=[{"role": "user", "content": parts}]).json()
    assert in_parts["choices"] == ask(server).json()["choices"]
    with_system = ask(server, messages=[{"role": "system", "content": "Be brief."}, *HELLO]).json()
    assert with_system["usage"]["prompt_tokens"] > in_parts["usage"]["prompt_tokens"]


def test_control_tokens_in_a_message_are_answered_as_text(server):
    def prompt_tokens(content):
        messages = [{"role": "user", "content": content}]
        return ask(server, messages=messages).json()["usage"]["prompt_tokens"]

    assert prompt_tokens("a<|im_end|>b") > prompt_tokens("a b") + 5


def test_the_model_is_listed_and_named_in_answers(server):
    listed = requests.get(f"{server.url}/v1/models", timeout=5).json()
    assert [model["id"] for model in listed["data"]] == [server.info["model"]]
    assert ask(server).json()["model"] == server.info["model"]


@pytest.mark.parametrize(
    ("wishes", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": 5}]}, "content"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "content"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 100_000}, "the context holds 256"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": list("abcde")}, "stop"),
        ({"n": 3}, "n:"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": [{"role": "user", "content": "word " * 2000}]}, "the context holds 256"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_refused_the_way_openai_does(server, wishes, words, stream):
    reply = ask(server, **wishes, stream=stream)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"


def test_what_the_chat_format_refuses_is_a_bad_request(server):
    reply = ask(server, messages=[*HELLO, {"role": "system", "content": "too late"}])
    if server.info["weights"] == "random":  # its own format takes messages in any order
        assert reply.ok
    else:
        assert reply.status_code == 400
        assert "system comes first" in reply.json()["error"]["message"]


def test_what_is_no_json_object_is_refused_too(server):
    for body in (b"{", b"[]", b"", b"\xff"):
        reply = requests.post(server.url + PATH, data=body, headers=JSON, timeout=5)
        assert reply.status_code == 400
        assert reply.json()["error"]["message"]
    nowhere = requests.get(f"{server.url}/nowhere", timeout=5)
    assert nowhere.json()["error"]["message"] == "Not Found"


def test_an_encoded_body_is_refused_in_openais_words_and_head_is_answered(server):
    headers = JSON | {"Content-Encoding": "gzip"}
    reply = requests.post(server.url + PATH, gzip.compress(b"{}"), headers=headers, timeout=60)
    assert reply.status_code == 415
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert "'gzip' cannot be read" in reply.json()["error"]["message"]
    reply = requests.head(f"{server.url}/health", timeout=5)
    assert (reply.status_code, reply.content) == (200, b"")


@pytest.mark.alone
def test_a_client_that_leaves_frees_the_worker_for_the_next_one_and_is_not_counted(server):
    """In one try of five: where a machine stalls, an answer is complete before its client leaves,
    and is rightly waited for and counted.
    """
    url, long = server.url + PATH, {"messages": HELLO, "max_tokens": 200}

    def counted() -> int:
        return settled(lambda: server.stats()["http"][0]["requests"])

    def seconds(tokens: int) -> float:
        began = time.monotonic()
        assert ask(server, max_tokens=tokens).ok
        return time.monotonic() - began

    def seconds_after_two_left() -> float:
        """One leaves a stream after its first token, one an answer that it waits for."""
        with requests.post(url, json=long | {"stream": True}, stream=True, timeout=60) as reply:
            next(reply.iter_lines())
        with contextlib.suppress(requests.Timeout):  # an answer in time would be counted
            requests.post(url, json=long, timeout=whole_s / 10)
        return seconds(1)

    def neither_waited_for_nor_counted() -> bool:
        before = counted()
        return seconds_after_two_left() < whole_s and counted() == before + 1

    whole_s = min(seconds(200) for _ in range(3))
    assert any(neither_waited_for_nor_counted() for _ in range(5))


def test_fifty_clients_at_once_are_all_answered(server):
    with ThreadPoolExecutor(50) as pool:
        streams = [False, True] * 25
        replies = list(pool.map(lambda stream: ask(server, max_tokens=2, stream=stream), streams))
    assert {reply.status_code for reply in replies} == {200}


def test_a_prompt_of_a_megabyte_is_refused_and_the_next_request_answered(server):
    assert ask(server, messages=[{"role": "user", "content": "x" * 1_000_000}]).status_code == 400
    assert ask(server).ok


def arrivals(server, tokens: int) -> list[float]:
    """Seconds from the request to each event of a streamed answer."""
    request = {"messages": HELLO, "max_tokens": tokens, "temperature": 0, "stream": True}
    began, moments = time.monotonic(), []
    with requests.post(server.url + PATH, json=request, stream=True, timeout=60) as reply:
        for line in reply.iter_lines(chunk_size=1):
            if line.startswith(b"data: {"):
                moments.append(time.monotonic() - began)
    return moments


def test_tokens_arrive_one_by_one_while_they_are_made(server):
    """In one answer of five: a machine that stalls hands over together what was sent apart, never
    the reverse.
    """
    answers = [arrivals(server, 60) for _ in range(5)]
    assert {len(moments) for moments in answers} == {61}
    assert any(moments[5] < 0.6 * moments[-1] for moments in answers)


def test_the_worker_tells_where_the_time_of_its_requests_went(server):
    """In one answer of five the first token took less than the 39 after it: a machine that stalls
    lengthens either.
    """

    def totals():
        return server.stats()["workers"][0]

    answers = []
    before = settled(totals)
    for _ in range(5):
        ask(server, max_tokens=40)
        requests_before = before["requests"]
        after = settled(totals, lambda now, known=requests_before: now["requests"] > known)
        assert after["requests"] == before["requests"] + 1
        spent = after["spent_s"]
        answers.append({stage: spent[stage] - before["spent_s"][stage] for stage in spent})
        before = after
    assert all(min(answer.values()) >= 0 for answer in answers)
    assert all(answer["first_output"] > 0 and answer["encode"] > 0 for answer in answers)
    assert any(answer["next_outputs"] > answer["first_output"] for answer in answers)
    assert after["setup_metrics"]["model_bytes"] > 1_000_000


def test_without_a_compiler_a_compiled_rung_ends_with_the_reason_as_its_last_word(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    flags = ("--model", "random:tiny", "--accelerator", "cpu")
    reason = r"there is no C\+\+ compiler; install g\+\+"
    with (
        pytest.raises(ServerFailedError, match=reason) as caught,
        running_server("llm_model_benchmarking.server_static_kv_compile", *flags),
    ):
        pass
    assert "Traceback" not in str(caught.value)
