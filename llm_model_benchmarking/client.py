"""Chat with a running server from the terminal; the answer appears as it is generated.

python llm_model_benchmarking/client.py "What is a bridge?"
python llm_model_benchmarking/client.py --url http://127.0.0.1:8000  # a conversation, until Ctrl-D
"""

import argparse
import json
import sys
from collections.abc import Iterator

from harness.process.control import client_session, with_scheme


def streamed(messages: list[dict[str, str]], options: argparse.Namespace) -> Iterator[str]:
    """Pieces of the answer; RuntimeError, in the server's words, if it refuses or breaks off."""
    url = f"{options.url.rstrip('/')}/v1/chat/completions"
    limits = {"max_tokens": options.max_tokens, "temperature": options.temperature}
    request = {"messages": messages, "stream": True} | limits
    session = client_session(url)
    with session.post(url, json=request, stream=True, timeout=300) as reply:
        if not reply.ok:
            raise RuntimeError(f"the server answered {reply.status_code}: {reply.text}")
        reply.encoding = "utf-8"
        for line in reply.iter_lines(decode_unicode=True):
            payload = line.removeprefix("data: ")
            if payload == "[DONE]":
                return
            if payload:
                yield text_of(json.loads(payload))
    raise RuntimeError("the answer broke off")


def text_of(chunk: dict) -> str:
    """The text in one chunk of a stream."""
    if "error" in chunk:
        raise RuntimeError(chunk["error"]["message"])
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def answer(messages: list[dict[str, str]], options: argparse.Namespace) -> str:
    """Print the answer piece by piece and return it."""
    pieces = []
    for piece in streamed(messages, options):
        print(piece, end="", flush=True)
        pieces.append(piece)
    print()
    return "".join(pieces)


def converse(options: argparse.Namespace) -> None:
    """Ask and answer until the input ends."""
    messages = []
    while question := input("> ").strip():
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer(messages, options)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("question", nargs="?", help="one question; without it, a conversation")
    here = "http://127.0.0.1:8000"
    add("--url", type=with_scheme, default=here, help="the server (default: %(default)s)")
    add("--max-tokens", type=int, default=128, help="of each answer (default: %(default)s)")
    likeliest = "0 is the likeliest (default: %(default)s)"
    add("--temperature", type=float, default=0.0, help=likeliest)
    options = parser.parse_args()
    try:
        if options.question:
            answer([{"role": "user", "content": options.question}], options)
        else:
            converse(options)
    except (OSError, RuntimeError) as error:  # nobody at the URL, or a refusal
        sys.exit(f"no answer: {error}")
    except (EOFError, KeyboardInterrupt):
        print()


if __name__ == "__main__":
    main()
