"""Clients that never read, as ordinary programs with the system's own buffers."""

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from wire import completion, request


def stuck(port: int, model: str, headers: dict[str, str] | None = None) -> socket.socket:
    """Ask for a stream and do not read it."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(request("POST", "/v1/chat/completions", completion(model), headers))
    return sock


@asynccontextmanager
async def never_read(port: int, model: str, count: int) -> AsyncIterator[list[socket.socket]]:
    """Have `count` of them."""
    with ExitStack() as stack:
        yield [stack.enter_context(stuck(port, model)) for _ in range(count)]
