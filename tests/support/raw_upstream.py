"""Upstreams that answer with given bytes, and a gateway in front of them: for inputs whose bytes the test shows."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from gateway import InProcess, in_process
from tcp_server import listening

CHUNK = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,'
HELLO = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    + CHUNK
    + b'"delta":{"content":"hello"}}]}\n\n'
    + CHUNK
    + b'"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)

# What an upstream says to a request body. None: it says nothing until the client leaves.
Reply = Callable[[dict[str, Any]], bytes | None]


def head(status: int, length: int, *, kind: str = "application/json", headers: bytes = b"") -> bytes:
    """Return the head of an answer of `length` bytes. `headers` are further lines, each with its line end."""
    return (
        b"HTTP/1.1 %d X\r\nContent-Type: %b\r\nContent-Length: %d\r\nConnection: close\r\n%b\r\n"
        % (status, kind.encode(), length, headers)
    )  # fmt: skip


def refusal(status: int, body: bytes, **fields: Any) -> bytes:
    """Return a whole answer with these bytes as its body."""
    return head(status, len(body), **fields) + body


class RawUpstream:
    """One upstream. `bodies` are the requests that it has seen, parsed."""

    def __init__(self, *answers: bytes | Reply | None) -> None:
        self._answers = answers
        self.bodies: list[dict[str, Any]] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the i-th request with the i-th answer, and all further ones with the last."""
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        [length] = [int(line[15:]) for line in lines if line.startswith(b"content-length:")]
        body = json.loads(await reader.readexactly(length))
        answer = self._answers[min(len(self.bodies), len(self._answers) - 1)]
        self.bodies.append(body)
        data = answer(body) if callable(answer) else answer
        if data is None:
            await reader.read()
            return
        writer.write(data)
        await writer.drain()


@asynccontextmanager
async def gateway_over(*upstreams: RawUpstream, settings: Any = None, **tables: Any) -> AsyncIterator[InProcess]:
    """Run a gateway whose model `m` goes to `a/m`, then `b/m`. `settings` are further settings of both upstreams."""
    async with AsyncExitStack() as stack:
        for upstream in upstreams:
            upstream.port = await stack.enter_async_context(listening(upstream.serve))
        names = "abc"[: len(upstreams)]
        entries = [
            {"name": name, "base_url": f"http://127.0.0.1:{upstream.port}/v1", **(settings or {})}
            for name, upstream in zip(names, upstreams, strict=True)
        ]
        models = [{"name": "m", "targets": [f"{name}/m" for name in names]}]
        recovery = {"strategy": "auto", "backoff": 0.01, **tables.pop("recovery", {})}
        yield await stack.enter_async_context(
            in_process(entries[0]["base_url"], upstreams=entries, models=models, recovery=recovery, **tables)
        )
