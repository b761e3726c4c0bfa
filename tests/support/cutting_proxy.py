"""A TCP proxy between a client and a gateway that cuts connections in the middle of a byte stream.

It stands for all that breaks connections in the field: radio, NAT tables, load balancers and deploys. It can be pointed
to another port: in tests a gateway that restarts has another one.
"""

import asyncio
import random
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a RST


@dataclass(slots=True)
class Exchange:
    """The last request of a connection: whether it may be cut, and the bytes of its response so far."""

    chosen: bool = False
    passed: int = 0


class CuttingProxy:
    """Cuts a connection when its response has as many bytes as the next number of `cuts` says, until there is none.

    `made` counts the cuts. If `cuts_of` is given, only responses to requests that begin with one of its texts are cut.
    `silent` leaves a cut connection open but passes nothing on. `on_cut` is awaited after each cut, before any new
    connection is taken.
    """

    def __init__(self, port: int, cuts: list[int] | None = None) -> None:
        self.to_port = port
        self.cuts = list(cuts or [])
        self.made = 0
        self.cuts_of: tuple[str, ...] = ()
        self.silent = False
        self.refusing = False
        self.connections = 0
        self.on_cut: Callable[[int], Awaitable[None]] | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()  # of its connections
        self._lock = asyncio.Lock()
        self._server: asyncio.Server

    async def start(self) -> None:
        """Listen on a port of the kernel's choice."""
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = self.root + "/v1"

    async def stop(self) -> None:
        """Stop listening, and cut every connection."""
        self._server.close()
        for _ in range(5):  # turns of the loop until what was accepted has its task, which closes it
            await asyncio.sleep(0)
        self.drop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # a transport that is aborted closes its socket in the next turn of the loop

    def drop(self) -> None:
        """Cut every connection now."""
        for writer in list(self._open):
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            await self._relay(reader, writer)
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with self._lock:  # during `on_cut`, which may restart the gateway, new connections wait
            port = self.to_port
        if self.refusing:
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        self._open.add(up_writer)
        exchange = Exchange()
        forward = asyncio.ensure_future(self._forward(reader, up_writer, exchange))
        try:
            await self._back(up_reader, writer, up_writer, exchange)
        finally:
            forward.cancel()
            await asyncio.gather(forward, return_exceptions=True)
            self._open.discard(up_writer)
            up_writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, exchange: "Exchange") -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if REQUEST.match(data):
                    exchange.passed = 0
                    exchange.chosen = not self.cuts_of or data.startswith(tuple(one.encode() for one in self.cuts_of))
                writer.write(data)
                await writer.drain()
        writer.transport.abort()  # the client has left, and the gateway must notice

    async def _back(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_writer: asyncio.StreamWriter,
        exchange: "Exchange",
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if exchange.chosen and self.cuts and exchange.passed + len(data) >= self.cuts[0]:
                    at = max(0, self.cuts.pop(0) - exchange.passed)
                    writer.write(data[:at])
                    await writer.drain()
                    await self._cut(writer, up_writer)
                    return
                exchange.passed += len(data)
                writer.write(data)
                await writer.drain()
            writer.close()

    async def _cut(self, writer: asyncio.StreamWriter, up_writer: asyncio.StreamWriter) -> None:
        self.made += 1
        up_writer.transport.abort()
        if self.silent:
            await asyncio.sleep(3600)
        if self.made % 2:  # every second cut is a FIN, the others are a RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.close()
        if self.on_cut is not None:
            async with self._lock:
                await self.on_cut(self.made)


@asynccontextmanager
async def cutting(port: int, cuts: list[int] | None = None) -> AsyncIterator[CuttingProxy]:
    """Run a proxy to `port` of this machine."""
    proxy = CuttingProxy(port, cuts)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()


def random_cuts(count: int, seed: int, low: int = 300, high: int = 4000) -> list[int]:
    """Return numbers of bytes at which to cut: from the head of a response to many events later."""
    dice = random.Random(seed)
    return [dice.randint(low, high) for _ in range(count)]
