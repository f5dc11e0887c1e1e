"""Servers that follow a script, over a real socket or (tests.virtual_time) in memory."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

OK_REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}'
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
Script = Callable[[int, Any], Awaitable[None]]  # number of the request, where the answer is written
Handler = Callable[[asyncio.StreamReader, Any], Awaitable[None]]  # of one connection


def following(script: Script, heads: list[bytes]) -> Handler:
    """A handler that keeps the head of every request and lets `script(number, writer)` answer."""

    async def handle(reader: asyncio.StreamReader, writer: Any) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                heads.append(head)
                await script(len(heads), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has hung up
        finally:
            writer.close()

    return handle


def replies(reply: bytes = OK_REPLY, delay_s: float = 0.005) -> Script:
    """Every request gets the same answer, after a delay."""

    async def script(_: int, writer: Any) -> None:
        await asyncio.sleep(delay_s)
        writer.write(reply)

    return script


def chunk(data: bytes) -> bytes:
    """One part of an answer of unknown length."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@contextmanager
def scripted_server(script: Script) -> Iterator[tuple[str, list[bytes]]]:
    """A server on a real socket, on a thread; yields its URL and the heads of its requests."""
    heads: list[bytes] = []
    loop = asyncio.new_event_loop()
    listening = asyncio.start_server(following(script, heads), "127.0.0.1", 0)
    server = loop.run_until_complete(listening)
    port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}/predict", heads
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.01))  # they close their connections
        loop.close()
