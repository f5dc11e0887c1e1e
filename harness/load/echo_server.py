"""The echo server: answers at once without looking, and so tells the ceiling of the client."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httptools

from harness.load.runner import new_event_loop
from harness.process.module_process import ModuleProcess

HOST = "127.0.0.1"


class EchoConnection(asyncio.Protocol):
    """Answers every complete request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:  # called by the parser
        self.transport.write(self.answer)


def start_answering(document: bytes) -> int:
    """Answer with this JSON document until the process ends, on a thread; returns the port."""
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(document)}\r\n\r\n"
    )
    listener = socket.create_server((HOST, 0))

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        answer = head.encode() + document
        server = await loop.create_server(lambda: EchoConnection(answer), sock=listener)
        await server.serve_forever()

    def serve() -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(listen())

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1]


@contextmanager
def echo_server(document: bytes) -> Iterator[str]:
    """Run an echo server in a process of its own; yields its URL."""
    with ModuleProcess("harness.load.echo_server") as process:
        yield f"http://{HOST}:{process('start_answering', document)}"
