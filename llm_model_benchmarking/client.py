"""Chat with a running server from the terminal; the answer appears as it is generated.

python llm_model_benchmarking/client.py "What is a bridge?"
python llm_model_benchmarking/client.py --url http://127.0.0.1:8000  # a conversation, until Ctrl-D
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import suppress

from harness.process.control import client_session, with_scheme

TOO_LONG = "context_length_exceeded"


class RefusedError(RuntimeError):
    """The server refuses, fails or breaks off; the message is its own.

    Attributes:
        code: OpenAI's for this kind of error; None without one.
    """

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


def streamed(messages: list[dict[str, str]], options: argparse.Namespace) -> Iterator[str]:
    """Pieces of the answer; RefusedError, in the server's words, if it refuses or breaks off."""
    url = f"{options.url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    limits = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    request = {"model": options.model, "messages": messages, "stream": True} | limits
    session = client_session(url)
    with session.post(url, json=request, stream=True, timeout=300) as reply:
        if not reply.ok:
            raise refusal_of(reply.text, f"the server answered {reply.status_code}: ")
        for line in reply.iter_lines():  # of bytes: text has ends of lines that events have not
            payload = line.partition(b"data:")[2].strip() if line.startswith(b"data:") else b""
            if payload == b"[DONE]":
                return
            if payload:
                yield text_of(payload)
    raise RefusedError("the answer broke off")


def refusal_of(body: str, introduction: str) -> RefusedError:
    """An error in the server's own words, or its whole body if there are none."""
    with suppress(ValueError, KeyError, TypeError):
        error = json.loads(body)["error"]
        return RefusedError(f"{introduction}{error['message']}", error.get("code"))
    return RefusedError(f"{introduction}{body}")


def text_of(payload: bytes) -> str:
    """The text in one chunk of a stream."""
    try:
        chunk = json.loads(payload)
        if "error" in chunk:
            raise refusal_of(payload.decode(), "")
        deltas = [choice.get("delta") or {} for choice in chunk["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"this is no chunk of an answer: {payload[:200]!r}") from error


def answer(messages: list[dict[str, str]], options: argparse.Namespace) -> str:
    """Print the answer piece by piece and return it."""
    pieces = []
    try:
        for piece in streamed(messages, options):
            print(piece, end="", flush=True)
            pieces.append(piece)
    finally:
        if pieces:
            print()
    return "".join(pieces)


def answer_within_context(messages: list[dict[str, str]], options: argparse.Namespace) -> str:
    """The answer to a conversation; while it is too long, its oldest question and answer are
    forgotten, for good.
    """
    while True:
        try:
            return answer(messages, options)
        except RefusedError as error:
            if error.code != TOO_LONG or len(messages) < 3:
                raise
        del messages[:2]
        print("(too long for the model: the oldest question and its answer are left out)")


def converse(options: argparse.Namespace) -> None:
    """Ask and answer until the input ends; an error costs the question, not the conversation."""
    messages = []
    while True:
        question = input("> ").strip()
        if not question:
            continue
        messages.append({"role": "user", "content": question})
        try:
            said = answer_within_context(messages, options)
            messages.append({"role": "assistant", "content": said})
        except (OSError, RefusedError) as error:
            messages.pop()
            print(f"no answer: {error}", file=sys.stderr)
        except KeyboardInterrupt:  # stops this answer
            messages.pop()
            print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("question", nargs="?", help="one question; without it, a conversation")
    here = "http://127.0.0.1:8000"
    add("--url", type=with_scheme, default=here, help="with or without /v1 (default: %(default)s)")
    add("--model", default="any", help="for servers that have several (default: %(default)s)")
    add("--max-tokens", type=int, default=128, help="of each answer (default: %(default)s)")
    likeliest = "0 is the likeliest (default: %(default)s)"
    add("--temperature", type=float, default=0.0, help=likeliest)
    options = parser.parse_args()
    for stream in (sys.stdin, sys.stdout, sys.stderr):  # "?" for what a terminal cannot show
        stream.reconfigure(errors="replace")
    try:
        if options.question:
            answer([{"role": "user", "content": options.question}], options)
        else:
            converse(options)
    except (OSError, RefusedError) as error:  # nobody at the URL, or a refusal
        sys.exit(f"no answer: {error}")
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
