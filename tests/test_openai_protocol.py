"""OpenAI's protocol as clients speak it: every field they send, and what is said to it."""

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import requests
from fastapi import HTTPException

from harness.serving.serve import cross_origin
from llm_model_benchmarking.openai_chat import TICKETS, Answer, OpenAIChat
from llm_model_benchmarking.openai_request import (
    CHANGES_NOTHING,
    HONOURED,
    LONGEST_STOP,
    WITHOUT_EFFECT,
    chat_request,
)
from llm_model_benchmarking.server_baseline import BaselineAPI
from tests.servers import PAGE, chat_server, one_by_one

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello there"}]
JSON = {"Content-Type": "application/json"}
CALL = {"id": "c", "type": "function", "function": {"name": "rain", "arguments": '{"in": "Oslo"}'}}
WEATHER = [
    {"role": "user", "content": "Rain?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "yes"},
]


@pytest.fixture(scope="module", params=one_by_one("chat", "baseline", "continuous_batching"))
def server(request, shared_server):
    """One answer at a time, and several: all other variants take requests as the baseline does."""
    return shared_server(*chat_server(request.param))


def ask(server, **wishes) -> requests.Response:
    request = {"messages": HELLO, "max_tokens": 8, "temperature": 0} | wishes
    return requests.post(server.url + PATH, json=request, timeout=60)


def ids_of(server, **wishes) -> list[int]:
    reply = ask(server, return_token_ids=True, **wishes)
    assert reply.ok, reply.text
    return reply.json()["choices"][0]["token_ids"]


def error_of(reply: requests.Response) -> dict:
    assert reply.status_code == 400, reply.text
    return reply.json()["error"]


def refusal(**wishes) -> dict:
    with pytest.raises(HTTPException) as caught:
        chat_request({"messages": HELLO} | wishes)
    assert caught.value.status_code == 400
    return caught.value.detail


def told(*messages) -> list[dict]:
    return chat_request({"messages": list(messages)}).messages


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("functions", [{"name": "f"}]),
        ("function_call", {"name": "f"}),
        ("echo", True),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("n", 2),
        ("best_of", 2),
        ("use_beam_search", True),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("chat_template", "x"),
        ("guided_json", {}),
        ("a_field_of_tomorrow", 1),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name_in_a_persons_words(field, value):
    detail = refusal(**{field: value})
    assert detail["param"] == field
    assert detail["message"].startswith(f"{field}: ")
    assert not any(words in detail["message"] for words in ("Input should", "at most 0 items"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", "8"),
        ("min_tokens", -1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_k", -2),
        ("min_p", 1.5),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", [1]),
        ("logit_bias", {"hello": 1}),
        ("logit_bias", {"5": 101}),
        ("logit_bias", []),
        ("stop", ""),
        ("stop", ["a"] * 5),
        ("stop", "x" * (LONGEST_STOP + 1)),
        ("stop", "a\ud800"),
        ("stop_token_ids", [-1]),
        ("seed", 2**63),
        ("ignore_eos", 1),
        ("stream", "yes"),
        ("stream_options", {"include_everything": True}),
        ("messages", []),
        ("messages", "hello"),
        ("messages", [{"role": "user", "content": ""}] * 700_000),
    ],
)
def test_a_value_that_a_field_cannot_have_is_refused_and_the_field_named(field, value):
    detail = refusal(**{field: value})
    assert detail["param"] == field
    assert field in detail["message"]
    assert detail["message"].isascii()
    assert len(detail["message"]) < 200


def test_what_changes_nothing_is_accepted_null_included():
    everything: dict = {name: {"a": "value"} for name in WITHOUT_EFFECT}
    everything |= {name: values[0] for name, values in CHANGES_NOTHING.items()}
    asked = {"messages": HELLO, "logit_bias": {}, "unknown": None} | dict.fromkeys(HONOURED)
    assert chat_request(asked | everything) == chat_request({"messages": HELLO})


def test_calls_of_tools_and_their_results_are_told_as_text():
    calls = {"role": "assistant", "tool_calls": [CALL, CALL]}
    results = [{"role": "tool", "tool_call_id": "c", "content": text} for text in ("yes", "no")]
    chat = told(HELLO[0], calls, *results, {"role": "assistant", "content": "Well."})
    call = '<tool_call>\n{"name": "rain", "arguments": {"in": "Oslo"}}\n</tool_call>'
    answers = [f"<tool_response>\n{text}\n</tool_response>" for text in ("yes", "no")]
    assert [message["role"] for message in chat] == ["user", "assistant", "user", "assistant"]
    assert chat[1]["content"] == f"{call}\n{call}"
    assert chat[2]["content"] == "\n".join(answers)
    old = {"name": "rain", "arguments": "no JSON"}
    (legacy,) = told({"role": "assistant", "content": "So:", "function_call": old})
    assert legacy["content"].startswith("So:\n<tool_call>\n")
    assert '"no JSON"' in legacy["content"]


def test_a_refusal_is_told_as_text_and_what_only_marks_a_cache_is_accepted():
    marked = {"type": "text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [marked, {"type": "refusal", "refusal": "no"}]
    assert told({"role": "assistant", "content": parts}) == told(
        {"role": "assistant", "content": "ano"}
    )


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (5, ""),
        ({"role": "wizard", "content": "x"}, ".role"),
        ({"role": ["user"], "content": "x"}, ".role"),
        ({"role": "user", "content": None}, ".content"),
        ({"role": "assistant"}, ".content"),
        ({"role": "user", "content": {"text": "x"}}, ".content"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, ".content[0].text"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "lang": 1}]},
            ".content[0].lang",
        ),
        ({"role": "assistant", "content": [{"type": "refusal"}]}, ".content[0].refusal"),
        ({"role": "user", "content": "x", "name": "Ann"}, ".name"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, ".tool_calls"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}, ".tool_calls"),
        ({"role": "user", "content": "a\ud800b"}, ".content"),
    ],
)
def test_a_message_that_cannot_be_told_is_refused_where_it_is(message, param):
    detail = refusal(messages=[HELLO[0], message])
    assert detail["param"] == f"messages[1]{param}"
    assert detail["message"].startswith("messages[1]")


def test_a_history_with_tools_is_answered(server):
    reply = ask(server, messages=WEATHER)
    assert reply.ok, reply.text


def test_half_a_character_is_refused_however_it_is_written(server):
    for text in (b'"a\\ud800b"', b'"a\xed\xa0\x80b"'):
        body = b'{"messages": [{"role": "user", "content": %b}]}' % text
        reply = requests.post(server.url + PATH, body, headers=JSON, timeout=30)
        assert "half of a character" in error_of(reply)["message"]
    whole = [{"role": "user", "content": "a\U0001f642b"}]
    assert ask(server, messages=whole).ok


def test_an_error_names_field_and_code_as_openai_does(server):
    error = error_of(ask(server, response_format={"type": "json_object"}))
    assert (error["type"], error["param"]) == ("invalid_request_error", "response_format")
    for wishes in ({"max_tokens": 1000}, {"messages": [{"role": "user", "content": "a " * 600}]}):
        error = error_of(ask(server, **wishes, stream=True))
        assert error["code"] == "context_length_exceeded"
        assert "the context holds 256" in error["message"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"messages": "\xe9"}', "it is not UTF-8"),
        (b'{"max_tokens": %b}' % (b"9" * 5000), "a number in it is too long"),
        (b"[" * 100_000, "nested too deeply"),
    ],
    ids=["Latin 1", "digits", "nested"],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_reason(server, body, words):
    reply = requests.post(server.url + PATH, body, headers=JSON, timeout=30)
    assert words in error_of(reply)["message"]


@pytest.mark.parametrize("field", ["max_tokens", "min_tokens"])
def test_a_number_of_four_thousand_digits_is_not_said_again(server, field):
    assert len(error_of(ask(server, **{field: int("9" * 4000)}))["message"]) < 200


def test_a_prompt_of_thirty_megabytes_is_refused_before_it_is_tokenised(server):
    began = time.monotonic()
    error = error_of(ask(server, messages=[{"role": "user", "content": "word " * 6_000_000}]))
    assert error["code"] == "context_length_exceeded"
    assert "30,000,000 characters" in error["message"]
    assert time.monotonic() - began < 20


def test_ids_that_the_model_has_not_are_refused(server):
    for name, value in (("logit_bias", {"49152": 1}), ("stop_token_ids", [49152])):
        error = error_of(ask(server, **{name: value}))
        assert error["param"] == name
        assert "49152 is no token" in error["message"]


def test_a_bias_decides_and_penalties_forbid_repetition(server):
    assert ids_of(server, logit_bias={"300": 100}) == [300] * 8
    assert (
        ids_of(server, logit_bias={"300": 100}, max_tokens=3, top_k=1, temperature=1) == [300] * 3
    )
    either = {"logit_bias": {"300": 90, "301": 70}, "max_tokens": 2}
    assert ids_of(server, **either) == [300, 300]
    assert ids_of(server, **either, repetition_penalty=1.5) == [300, 301]


def test_stop_ids_end_an_answer_but_not_before_min_tokens(server):
    free = ids_of(server, max_tokens=12)
    stop = free[3]
    whole = ask(server, max_tokens=12, stop_token_ids=[stop], return_token_ids=True).json()
    choice = whole["choices"][0]
    assert choice["token_ids"] == free[: free.index(stop) + 1]
    assert choice["finish_reason"] == "stop"
    until = ask(server, max_tokens=free.index(stop)).json()["choices"][0]
    assert choice["message"]["content"] == until["message"]["content"]
    later = ids_of(server, max_tokens=12, stop_token_ids=[stop], min_tokens=6)
    assert len(later) >= 6
    assert stop not in later[:6]
    assert error_of(ask(server, min_tokens=9))["param"] == "min_tokens"


def test_a_stop_text_counts_only_after_min_tokens(server):
    text = ask(server, max_tokens=12).json()["choices"][0]["message"]["content"]
    stop = text[0]
    assert ask(server, max_tokens=12, stop=stop).json()["usage"]["completion_tokens"] == 1
    later = ask(server, max_tokens=12, stop=stop, min_tokens=5).json()
    assert later["usage"]["completion_tokens"] > 5


def test_usage_comes_with_every_chunk_for_those_who_ask(server):
    options = {"include_usage": True, "continuous_usage_stats": True}
    text = ask(server, stream=True, stream_options=options, ignore_eos=True).text
    chunks = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    counted = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counted == [*range(1, 9), 8, 8]
    assert chunks[-1]["choices"] == []


def test_a_stream_says_that_nothing_may_hold_it_back(server):
    headers = ask(server, stream=True).headers
    assert headers["Content-Type"].startswith("text/event-stream")
    assert headers["Cache-Control"] == "no-cache"
    assert headers["X-Accel-Buffering"] == "no"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_http_1_0_gets_its_answer_without_chunks(server, stream):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"messages": HELLO, "max_tokens": 3, "stream": stream}).encode()
    wire = f"POST {PATH} HTTP/1.0\r\nContent-Type: application/json\r\n".encode()
    with socket.create_connection((host, int(port)), timeout=60) as client:
        client.sendall(wire + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        received = b"".join(iter(lambda: client.recv(1 << 16), b""))
    head, _, answer = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"transfer-encoding" not in head
    if stream:
        assert answer.startswith(b"data: {")
        assert answer.endswith(b"data: [DONE]\n\n")
        assert answer.count(b"\n\n") == answer.count(b"data: ") == 5
    else:
        assert json.loads(answer)["usage"]["completion_tokens"] == 3


def test_ends_of_lines_that_are_none_stay_inside_their_event():
    text = "a\u2028b\u2029c\x85d"
    answer = Answer(chat_request({"messages": HELLO, "stream": True}), "m")
    event = answer.token_event({"text": text, "token_id": 1, "prompt_tokens": 3})
    assert len(event.splitlines()) == 2  # the event and the empty line that ends it
    assert json.loads(event[6:])["choices"][0]["delta"]["content"] == text


def test_a_model_is_told_by_its_name_and_no_other(server):
    name = server.info["model"]
    listed = requests.get(f"{server.url}/v1/models", timeout=5).json()["data"][0]
    assert requests.get(f"{server.url}/v1/models/{name}", timeout=5).json() == listed
    assert requests.get(f"{server.url}/v1/models/", timeout=5).json()["data"] == [listed]
    reply = requests.get(f"{server.url}/v1/models/some/other", timeout=5)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "model_not_found")


def test_only_pages_of_the_origins_allowed_may_call(server):
    def preflight(origin: str) -> requests.Response:
        wanted = {"Access-Control-Request-Method": "POST"}
        wanted |= {"Access-Control-Request-Headers": "content-type,authorization"}
        return requests.options(server.url + PATH, headers=wanted | {"Origin": origin}, timeout=5)

    assert preflight(PAGE).headers["Access-Control-Allow-Origin"] == PAGE
    assert "authorization" in preflight(PAGE).headers["Access-Control-Allow-Headers"].lower()
    assert "Access-Control-Allow-Origin" not in preflight("http://elsewhere").headers
    headers = {"Origin": PAGE, "Content-Encoding": "gzip"}
    refused = requests.post(server.url + PATH, b"x", headers=headers, timeout=5)
    assert refused.headers["Access-Control-Allow-Origin"] == PAGE
    assert cross_origin([]) == []


def test_chats_that_were_left_are_not_prefilled_and_the_next_one_is_answered_at_once(server):
    """Three hundred, each with a long prompt and a long answer."""
    request = {"messages": [{"role": "user", "content": "so " * 140}], "max_tokens": 60}
    body = json.dumps(request).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    wire = head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    began = time.monotonic()
    assert ask(server, **request).ok
    one_s = time.monotonic() - began
    address = server.url.removeprefix("http://").split(":")
    with ExitStack() as leaving:
        for _ in range(300):
            client = socket.create_connection((address[0], int(address[1])))
            leaving.callback(client.close)
            client.sendall(wire)
        time.sleep(1)
    began = time.monotonic()
    while not (reply := ask(server, max_tokens=1)).ok:
        assert reply.status_code == 503  # a slow machine has yet to see that they have left
        assert time.monotonic() - began < 60 * one_s
    assert time.monotonic() - began < 60 * one_s  # not 300


def test_tickets_of_two_http_processes_use_all_slots_and_are_never_the_same():
    spec = OpenAIChat()
    tickets = [spec.new_ticket() for _ in range(TICKETS)]
    assert len({ticket % TICKETS for ticket in tickets}) == TICKETS
    spec.ticket_maker = 0  # as in another process, which forked from this one
    assert not {spec.new_ticket() for _ in range(1000)} & set(tickets)


def test_a_worker_does_not_even_read_what_was_left(monkeypatch):
    api = BaselineAPI(spec=OpenAIChat())
    api.max_context, api.longest_token, api.tokenizer = 64, 8, None
    monkeypatch.setattr("llm_model_benchmarking.server_baseline.chat_ids", lambda *_: [5, 6])
    monkeypatch.setattr(api, "refuse_unknown", lambda *_: None)
    request = chat_request({"messages": HELLO}).for_worker(ticket=77)
    assert api.decode_request(dict(request)).ticket == 77
    api.spec.left[77] = 77
    monkeypatch.setattr("llm_model_benchmarking.server_baseline.chat_ids", None)
    with pytest.raises(HTTPException, match="499"):
        api.decode_request(dict(request))


def test_the_same_seed_samples_the_same_whoever_asks_at_the_same_time(server):
    wishes = {"temperature": 1.2, "seed": 3, "top_k": 50, "min_p": 0.001, "repetition_penalty": 1.1}
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: tuple(ids_of(server, **wishes)), range(3)))
    assert len(set(answers)) == 1
