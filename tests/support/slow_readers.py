"""Clients that never read, with the system's default buffers."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from wire import completion, request


def stuck(port: int, model: str, headers: dict[str, str] | None = None) -> socket.socket:
    """Ask for a stream, and return the socket without reading from it."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(request("POST", "/v1/chat/completions", completion(model), headers))
    return sock


@asynccontextmanager
async def never_read(port: int, model: str, count: int) -> AsyncIterator[list[socket.socket]]:
    """Yield the sockets of `count` such clients, open until the end of the block."""
    with ExitStack() as stack:
        yield [stack.enter_context(stuck(port, model)) for _ in range(count)]
