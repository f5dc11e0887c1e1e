"""client.py of the language model: a conversation in a terminal, with a server that misbehaves."""

import io
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from llm_model_benchmarking import client

TOO_LONG = {"message": "the context holds 9", "code": "context_length_exceeded"}


class Chats(BaseHTTPRequestHandler):
    """Answers each POST with the next of the server's replies, and keeps what was asked."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append((self.path, json.loads(body)["messages"]))
        status, text = self.server.replies.pop(0)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Chats) as server:
        server.asked, server.replies = [], []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def said(text: str, ended: bool = True, escaped: bool = True) -> tuple[int, bytes]:
    chunk = json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=escaped)
    return 200, f"data: {chunk}\n\n{'data: [DONE]' if ended else ''}\n\n".encode()


def refused(status: int, **error: str) -> tuple[int, bytes]:
    return status, json.dumps({"error": error}).encode()


def conversation(server, monkeypatch, *questions: str, path: str = "") -> None:
    """Run client.py with these lines as input, until Ctrl-D."""
    lines = io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in questions).encode()))
    monkeypatch.setattr(sys, "stdin", lines)
    url = f"http://127.0.0.1:{server.server_port}{path}"
    monkeypatch.setattr(sys, "argv", ["client.py", "--url", url])
    client.main()


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_the_url_may_be_given_with_or_without_v1(server, monkeypatch, capfd, path):
    server.replies = [said("hello")]
    conversation(server, monkeypatch, "hi", path=path)
    assert server.asked == [("/v1/chat/completions", [{"role": "user", "content": "hi"}])]
    assert "hello" in capfd.readouterr().out


def test_an_error_is_shown_and_the_conversation_goes_on_without_it(server, monkeypatch, capfd):
    server.replies = [
        refused(503, message="try again"),
        said("half", ended=False),
        (200, b"data: x\n\n"),
    ]
    server.replies += [(500, b"oops"), said("fine")]
    conversation(server, monkeypatch, "one", "two", "three", "four", "", "five")
    shown = capfd.readouterr()
    for words in ("503: try again", "broke off", "no chunk of an answer", "500: oops"):
        assert words in shown.err
    assert "fine" in shown.out
    assert server.asked[-1][1] == [{"role": "user", "content": "five"}]


def test_a_conversation_that_outgrows_the_context_forgets_its_oldest_turn(
    server, monkeypatch, capfd
):
    server.replies = [said("A"), said("B"), refused(400, **TOO_LONG), said("C")]
    conversation(server, monkeypatch, "a", "b", "c")
    assert [message["content"] for message in server.asked[2][1]] == ["a", "A", "b", "B", "c"]
    assert [message["content"] for message in server.asked[3][1]] == ["b", "B", "c"]
    assert "oldest" in capfd.readouterr().out


def test_a_question_too_long_by_itself_is_an_error(server, monkeypatch, capfd):
    server.replies = [refused(400, **TOO_LONG), said("fine")]
    conversation(server, monkeypatch, "long", "short")
    assert "the context holds 9" in capfd.readouterr().err
    assert server.asked[1][1] == [{"role": "user", "content": "short"}]


@pytest.mark.parametrize("escaped", [True, False])
def test_any_text_is_printed_whole(server, monkeypatch, capfd, escaped):
    text = "a\u2028b\u2029c\x85d\x0be 日本 🙂"
    server.replies = [said(text, escaped=escaped)]
    conversation(server, monkeypatch, "hi")
    assert text in capfd.readouterr().out


def test_nobody_at_the_url_is_one_sentence(server, monkeypatch, capfd):
    server.server_close()
    conversation(server, monkeypatch, "hi")
    assert "no answer: " in capfd.readouterr().err
