"""A TCP server of a few lines, for tests that play an upstream or a proxy. When it stops, nothing of it is left."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@contextlib.asynccontextmanager
async def listening(serve: Serve, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Call `serve` for each connection to a new port, which is yielded. At the end of the block all are cut.

    A connection is closed when `serve` returns. An error of the connection ends it; any other error that `serve`
    raises is raised at the end of the block.
    """
    connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections[task] = writer
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        outcomes = await asyncio.gather(*connections, return_exceptions=True)
        for writer in connections.values():
            writer.transport.abort()
        await asyncio.sleep(0)  # a transport that is aborted closes its socket in the next turn of the loop
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, delay: float = 0.0) -> None:
    """Copy one direction of a connection; the first bytes come `delay` seconds late."""
    try:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await asyncio.sleep(delay)
                delay = 0.0
                sink.write(data)
                await sink.drain()
    finally:
        sink.close()
