"""A server that is not ours, the parts without one: requests from files, checks, settings to vary,
the options.
"""

import argparse
import json
import math
from pathlib import Path

import pytest

from harness.__main__ import asked
from harness.load.connection import wire_format
from harness.load.events import events, pieces
from harness.own_server.bodies import UnusableBodiesError, bodies_in, header, json_objects, url_path
from harness.own_server.checks import AnswerCheck, ending_of, same_answer
from harness.own_server.unloaded import EVENTS, PIECES, WHOLE, learned
from harness.own_server.varied import (
    MOST,
    Change,
    TooManyVariantsError,
    by_name,
    is_own,
    variants_of,
    varied,
)
from harness.suite import CannotMeasureError
from tests.scripted import STREAM_HEAD, chunk, scripted_server


def test_a_file_of_lines_is_a_request_per_line_and_a_folder_one_per_file(tmp_path):
    lines = tmp_path / "requests.jsonl"
    lines.write_bytes(b'\xef\xbb\xbf{"n": 1}\r\n\r\n  {"n": 2} \n[3]')
    assert bodies_in(lines) == [b'{"n": 1}', b'{"n": 2}', b"[3]"]
    for name, text in {"b.json": "2", "a.json": "1", "c.txt": "not JSON"}.items():
        (tmp_path / name).write_text(text)
    assert bodies_in(tmp_path) == [b"1", b"2"]
    assert bodies_in(tmp_path / "a.json") == [b"1"]


def test_other_content_types_are_sent_as_they_are(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x00\xff\n")
    (tmp_path / ".hidden").write_bytes(b"no request")
    (tmp_path / "b.json").write_bytes(b"{")
    assert bodies_in(tmp_path, "audio/wav") == [b"\x00\xff\n", b"{"]
    assert bodies_in(tmp_path / "a.bin", "audio/wav") == [b"\x00\xff\n"]
    with pytest.raises(UnusableBodiesError, match=r"b\.json: no JSON document"):
        bodies_in(tmp_path, "application/problem+json; charset=utf-8")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"n": 1}\n\n{"n": }\n', r"a\.jsonl, line 3: no JSON document"),
        ("a.jsonl", b"\n\n", "holds no request"),
        ("a.json", b'{"n": 1}\n{"n": 2}\n', r"Extra data.*a file named \*\.jsonl"),
        ("a.json", b"\xff\xfe\xff", "no JSON document"),
        ("nowhere", None, "nowhere cannot be read: No such file"),
    ],
)
def test_a_file_without_requests_is_refused_in_one_sentence(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableBodiesError, match=said) as error:
        bodies_in(tmp_path / name)
    assert "\n" not in str(error.value)


def test_headers_replace_those_that_a_request_has_anyway():
    head, _ = wire_format("http://h:1/p?q=1", b"1", {"content-type": "audio/wav", "A": "b: c"})
    assert head.startswith(b"POST /p?q=1 HTTP/1.1\r\nHost: h:1\r\n")
    assert head.lower().count(b"content-type") == 1
    assert b"content-type: audio/wav\r\nA: b: c\r\n" in head
    assert b"Content-Type: application/json\r\n" in wire_format("http://h:1/p", b"1")[0]


@pytest.mark.parametrize(
    "text", ["no colon", "A\r\nB: c", "Content-Length: 3", "Content-Type: x", "A: b\r\nc", ": x"]
)
def test_a_header_that_cannot_be_sent_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        header(text)


def test_a_header_is_a_name_and_a_value_and_a_path_begins_with_a_slash():
    assert header("Authorization:  Bearer a:b ") == ("Authorization", "Bearer a:b")
    assert url_path("v1/x?a=b") == "/v1/x?a=b"
    with pytest.raises(argparse.ArgumentTypeError):
        url_path("/a b")


def test_a_server_that_takes_objects_only_gets_objects_as_large_as_the_bodies():
    assert json_objects([b'{"n": 1}'], "application/json") is None
    (made,) = json_objects([b"x" * 100], "audio/wav")
    assert isinstance(json.loads(made), dict)
    assert len(made) == 100
    assert isinstance(json.loads(json_objects([b"[1]"], "application/json")[0]), dict)


SAME = [
    (b'{"a": 1, "b": [1.0, "x"]}', b'{"b": [1.0004, "x"], "a": 1}'),
    (b"1", b"1.0"),
    (b"[NaN]", b"[NaN]"),
    (b"1e-9", b"3e-9"),
    (b'{"w": 1}\n{"w": 2.0}\n', b'{"w": 1}\n{"w": 2.001}\n'),
    (b"plain", b"plain"),
]
OTHER = [
    (b'{"a": 1}', b'{"a": 2}'),
    (b"1000", b"1001"),
    (b"1.0", b"1.002"),
    (b"true", b"1"),
    (b"[1]", b"[1, 1]"),
    (b'{"a": null}', b"{}"),
    (b'"1"', b"1"),
    (b"plain", b"plane"),
    (b"1.0", b"NaN"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_answers_that_say_the_same_are_the_same_either_way(one, other):
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_answers_that_differ_differ_either_way(one, other):
    assert not same_answer(one, other)
    assert not same_answer(other, one)


def test_a_stream_is_correct_only_if_whole_and_as_expected_where_it_is():
    whole = b'data: {"w": 1.0}\n\ndata: [DONE]\n\n'
    check = AnswerCheck([whole, None], ending_of([whole]), streams_events=True)
    assert check(whole.replace(b"1.0", b"1.00001"), 0) == (True, None)
    assert check(whole.replace(b"1.0", b"2.0"), 0) == (False, None)
    assert check(whole.replace(b"1.0", b"2.0"), 1) == (True, None)
    assert check(b'data: {"w": 1.0}\n\n', 1) == (False, None)
    assert ending_of([b"a\n", b"b\n\n"]) == b"\n"
    assert ending_of([b"a\n", b"b"]) == b""


def test_events_end_with_either_kind_of_empty_line_and_pieces_are_as_they_came():
    assert events(b"data: a\r\n\r\ndata: b\r\n\r\n", [(11, 1.0), (22, 2.0)]) == [
        (1.0, b"a"),
        (2.0, b"b"),
    ]
    assert pieces(b"abcd", [(1, 1.0), (1, 1.5), (4, 2.0)]) == [(1.0, b"a"), (2.0, b"bcd")]


def answering(*documents: bytes, head: bytes = b"HTTP/1.1 200 OK\r\n"):
    """A script whose n-th answer is the n-th document, then from the beginning."""

    async def script(number: int, writer) -> None:
        document = documents[(number - 1) % len(documents)]
        writer.write(head + f"Content-Length: {len(document)}\r\n\r\n".encode() + document)

    return script


def learned_from(script, count: int = 2, **asked_for):
    bodies = [b"%d" % each for each in range(count)]
    with scripted_server(script) as (url, _):
        return learned(url, bodies, {}, 5.0, **asked_for)


def test_answers_that_are_the_same_twice_are_what_answers_have_to_be():
    known = learned_from(answering(b'{"p": 0.5}'))
    assert known.kind == WHOLE
    assert known.check(b'{"p": 0.50001}', 1) == (True, None)
    assert known.check(b'{"p": 0.6}', 1) == (False, None)
    assert "2 of 2 requests" in known.notes[0]


def test_one_answer_that_changes_leaves_the_status_alone_and_forbids_check_same():
    changing = answering(b"1", b"2", b"2", b"3")  # backwards the second time: 2 again, 1 not
    known = learned_from(changing)
    assert known.check is None
    assert "1 of 2 requests were answered differently" in known.notes[0]
    with pytest.raises(CannotMeasureError, match="--check same: 1 of 2"):
        learned_from(changing, check="same")
    assert learned_from(changing, check="status").check is None


def test_only_a_200_can_be_measured():
    refusing = answering(b'{"detail": "no n"}', head=b"HTTP/1.1 422 Unprocessable\r\n")
    with pytest.raises(CannotMeasureError, match=r"request 1 is answered with 422.*no n"):
        learned_from(refusing)
    with pytest.raises(CannotMeasureError, match="request 1 got no answer"):
        learned("http://127.0.0.1:9/predict", [b"1"], {}, 5.0)


@pytest.mark.parametrize(("events_head", "kind"), [(True, EVENTS), (False, PIECES)])
def test_streams_are_known_by_their_headers(events_head, kind):
    head = STREAM_HEAD if events_head else STREAM_HEAD.replace(b"text/event-stream", b"text/plain")

    async def script(_: int, writer) -> None:
        writer.write(head + chunk(b"data: a\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    known = learned_from(script)
    assert known.kind == kind
    assert known.check(b"data: a\n\ndata: [DONE]\n\n", 0) == (True, None)
    assert known.check(b"data: a\n\n", 0) == (False, None)
    assert f"answers stream as {kind}" in known.notes


INFO = {"workers_per_device": 1, "max_batch_size": 1, "batch_timeout_s": 0.01, "api_servers": 1}


def settings(*texts: str) -> list[list[Change]]:
    return by_name(map(varied, texts))


def test_settings_are_varied_by_turns_and_the_scripts_own_values_left_out():
    asked_for = settings("workers_per_device=1,2,4", "batch_timeout=0.002,0.010", "mode=a")
    made = variants_of(asked_for, INFO | {"settings": {"mode": "b"}}, grid=False)
    assert list(made) == [
        "workers_per_device=2",
        "workers_per_device=4",
        "batch_timeout=0.002",
        "mode=a",
    ]
    assert made["mode=a"] == (Change("mode", "a"),)


def test_a_grid_is_every_combination_but_the_script_as_written():
    made = variants_of(settings("workers_per_device=1,2", "max_batch_size=1,16"), INFO, grid=True)
    assert list(made) == [
        "max_batch_size=16",
        "workers_per_device=2",
        "workers_per_device=2,max_batch_size=16",
    ]
    only = variants_of(settings("workers_per_device=2", "max_batch_size=16"), INFO, grid=True)
    assert list(only) == ["workers_per_device=2,max_batch_size=16"]
    assert variants_of([], INFO, grid=True) == {}


def test_more_variants_than_can_be_told_apart_are_refused_with_their_number():
    many = settings("max_batch_size=" + ",".join(map(str, range(1, MOST + 2))))
    assert len(variants_of(many, INFO, grid=False)) == MOST
    many = settings("max_batch_size=" + ",".join(map(str, range(1, MOST + 3))))
    with pytest.raises(TooManyVariantsError, match=f"{MOST + 1} variants.*narrow them down"):
        variants_of(many, INFO, grid=False)


def test_a_value_is_the_scripts_own_as_a_number_or_a_word():
    info = {"settings": {"stream": True, "mode": "Fast", "devices": 1}}
    own = Change("stream", "true"), Change("mode", "fast"), Change("devices", "1.0")
    assert all(is_own(each, info) for each in own)
    other = Change("stream", "1"), Change("devices", "auto"), Change("unknown", "1")
    assert not any(is_own(each, info) for each in other)


@pytest.mark.parametrize("text", ["workers", "workers=", "=1", "a b=1", "a=1,,2", "a=x@y"])
def test_what_is_no_setting_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError):
        varied(text)


def test_what_follows_two_dashes_is_the_scripts_own():
    text = "my.py --body b.jsonl --vary a=1 --vary b=2 --vary a=3,1 -- --quick -- x"
    words = text.split()
    options = asked(words)
    assert options.arguments == ["--quick", "--", "x"]
    assert not options.quick
    assert (options.script, options.body) == ("my.py", Path("b.jsonl"))
    assert options.vary == [[Change("a", "1"), Change("a", "3")], [Change("b", "2")]]
    assert (options.output_dir, options.accelerator) == (Path("benchmark_results"), None)
    assert asked([*words[:3], "--quick"]).minutes < 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--body b", "name either a script"),
        ("my.py --body b --url http://h:1", "name either a script"),
        ("--url http://h:1 --body b --vary a=1", "cannot be varied"),
        ("--url http://h:1 --body b -- x", "cannot be varied"),
        ("my.py", "--body"),
        ("my.py --body b --against main", "--against"),
        ("my.py --body b --vary a", "write NAME=VALUE,VALUE"),
        ("my.py --body b --header x", "is no header"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words, said, capsys):
    with pytest.raises(SystemExit) as ended:
        asked(words.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_nothing_is_as_large_as_infinity_in_a_tolerance():
    assert not same_answer(b"[1e308]", json.dumps([math.inf]).encode())
