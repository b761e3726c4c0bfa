"""One keep-alive connection of a client, on an asyncio Protocol. It only collects data, which is checked later."""

import asyncio
from time import monotonic
from typing import Any, cast

import orjson

from .script import LAST_CHUNK

QUESTION = [{"role": "user", "content": "Tell me about the weather on the sea."}]
FIELDS: dict[str, dict[str, Any]] = {  # the question, in the dialect of each path
    "/v1/chat/completions": {"messages": QUESTION},
    "/v1/responses": {"input": QUESTION},
    "/v1/messages": {"messages": QUESTION, "max_tokens": 100_000},
}


def request(port: int, path: str, model: str, tag: str = "") -> bytes:
    """Build a whole streaming request in the dialect of the path."""
    body = orjson.dumps({"model": model, "stream": True, **FIELDS[path], **({"user": tag} if tag else {})})
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class ClientConnection(asyncio.Protocol):
    """Sends one request at a time and collects pairs of arrival (seconds of CLOCK_MONOTONIC) and data."""

    def __init__(self) -> None:
        self.parts: list[tuple[float, bytes]] = []
        self.transport: asyncio.Transport
        self._waiter: asyncio.Future[None] | None = None
        self._until_token = False

    @classmethod
    async def open(cls, port: int) -> "ClientConnection":
        """Connect to the loopback port."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    async def exchange(self, message: bytes, *, until_token: bool = False) -> list[tuple[float, bytes]]:
        """Send the request; return the parts of the whole answer, or of as much as has the first token."""
        self.parts, self._until_token = [], until_token
        self._waiter = asyncio.get_running_loop().create_future()
        self.transport.write(message)
        await self._waiter
        return self.parts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Collect data, and look whether it ends the answer."""
        self.parts.append((monotonic(), data))
        # No body has a carriage return. So this can only be HTTP's last chunk, which may come in pieces.
        ended = data.endswith(LAST_CHUNK) or (len(data) < 5 and self._tail().endswith(LAST_CHUNK))
        if ended or (self._until_token and has_token(data)):
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the exchange that is under way."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error or ConnectionError(f"closed after {self._tail()[-300:]!r}"))

    def _tail(self) -> bytes:
        return b"".join(data for _, data in self.parts[-5:])

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def has_token(data: bytes) -> bool:
    """Return whether data holds the text of a token. That begins with a space; the role chunk has an empty text."""
    return b'"content":" ' in data
