"""An event loop in virtual time: nothing sleeps, and connections lead to a server in memory.

Time jumps to the next timer when nothing is ready, so that what would take minutes takes
milliseconds, and is exact on however slow a machine.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from tests.scripted import Handler

DELIVERY_S = 1e-6  # one piece of data after the other: no two arrive at the same moment
START_S = 1000.0


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop on which `handle(reader, writer)` serves every connection; without one, no one."""

    def __init__(self, handle: Handler | None = None) -> None:
        self.handle, self.now = handle, START_S
        super().__init__(VirtualSelector(self))

    def time(self) -> float:
        return self.now

    async def create_connection(
        self, protocol_factory: Callable[[], asyncio.Protocol], *_: Any, **__: Any
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        if self.handle is None:
            raise ConnectionRefusedError
        protocol = protocol_factory()
        transport = MemoryTransport(self, protocol)
        protocol.connection_made(transport)
        transport.server = self.create_task(
            self.handle(transport.reader, MemoryWriter(self, transport))
        )
        await asyncio.sleep(DELIVERY_S)  # it stands before the one who asked for it hears of it
        return transport, protocol


class VirtualSelector(selectors.DefaultSelector):
    """Does not wait for what may happen, but lets the time pass in which nothing would."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> list:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("nothing is left to happen: this would wait for ever")
        if not ready:
            self.loop.now += timeout
        return ready


class MemoryTransport(asyncio.Transport):
    """The client's end of a connection."""

    def __init__(self, loop: VirtualLoop, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.loop, self.protocol, self.closing = loop, protocol, False
        self.reader = asyncio.StreamReader(loop=loop)

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.reader.feed_data(data)

    def deliver(self, data: bytes) -> None:
        """Data from the server arrives."""
        if data and not self.closing:
            self.loop.now += DELIVERY_S
            self.protocol.data_received(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.reader.feed_eof()
            self.loop.call_soon(self.protocol.connection_lost, None)

    abort = close


class MemoryWriter:
    """The server's end of a connection."""

    def __init__(self, loop: VirtualLoop, transport: MemoryTransport) -> None:
        self.loop, self.transport = loop, transport

    def write(self, data: bytes) -> None:
        self.loop.call_soon(self.transport.deliver, data)

    def close(self) -> None:
        self.loop.call_soon(self.transport.close)

    async def drain(self) -> None:
        """There is always room."""
