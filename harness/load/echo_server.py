"""A server that answers at once without looking: what the client could measure at most, on this machine, today."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import httptools


class Responder(asyncio.Protocol):
    """Answers every complete request with the same JSON document."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(self.answer)


def respond(document: bytes, port: Connection) -> None:
    """Answer with `document` until the process is ended; tell the port through the pipe."""
    from uvloop import new_event_loop

    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(document)}\r\n\r\n"

    async def listen() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Responder(head.encode() + document), "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(listen())


@contextmanager
def responder(document: bytes) -> Iterator[str]:
    """Run a responder in a process of its own; yields its URL."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=respond, args=(document, theirs), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()
